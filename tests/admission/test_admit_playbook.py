"""playbooks/admit.yml with real ansible-playbook, modules and files; only the probe's answer is made up.

Three nodes: green is what its report says, fouled has a GPU without headroom, down refuses connections.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from gpugate.inventory.resolve import resolve
from gpugate.report import HostReport, Signer, Store, basis_of, new_run_id
from runs import failed, passed, run_of

PROJECT = Path(__file__).parents[2]
PROBE = """
import json
print(json.dumps({"machine_id": "m-1", "boot_id": "b-1", "hostname": "x", "gpu_uuids": ["GPU-HOST"]}))
"""
HOSTS = ("green", "fouled", "down")


@dataclass
class Site:
    """A site's inventory, and where its report and state are."""

    folder: Path

    @property
    def state(self) -> Path:
        """The state file."""
        return self.folder / "state" / "admission.json"

    def admit(self, *arguments: str, cwd: Path = PROJECT, **variables: object) -> subprocess.CompletedProcess[str]:
        """Run admit.yml; variables are given as extra variables."""
        known = {"gpugate_report": str(self.folder / "reports/latest/junit.xml"),
                 "gpugate_admission_state": str(self.state)}  # fmt: skip
        command = [str(Path(sys.executable).with_name("ansible-playbook")), str(PROJECT / "playbooks/admit.yml"),
                   "-i", str(self.folder / "hosts.yml"), "-e", json.dumps(known | variables), *arguments]  # fmt: skip
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)

    def write_report(self, signer: Signer | None = None) -> None:
        """A whole report of now: green passes everything, fouled lacks headroom, down passed before it went down."""
        hosts = []
        now = datetime.now(UTC)
        targets = resolve("gpu_fleet", str(self.folder / "hosts.yml"))
        basis = basis_of({target.name: target.policy for target in targets}, "admission", {})
        for target in targets:
            verdicts = {check: passed(target.name, check) for check in target.policy.expected("admission")}
            if target.name == "fouled":
                verdicts["thermal.headroom"] = failed("fouled")
            identity = {"machine_id": "m-1", "boot_id": "b-1", "gpu_uuids": f"GPU-{target.name}",
                        "policy_digest": target.policy.digest, "measured_unix_s": f"{now.timestamp():.3f}"}  # fmt: skip
            hosts.append(HostReport(target.name, identity, list(verdicts.values())))
        run = run_of(hosts=hosts, started=now, run_id=new_run_id(now), basis=basis)
        Store(self.folder / "reports").write(run, {}, signer)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The three nodes, and their report."""
    folder = tmp_path_factory.mktemp("site")
    hosts: dict[str, dict[str, object]] = {}
    for host in ("green", "fouled"):
        current = folder / host / "opt/gpugate/probe/0123"
        current.mkdir(parents=True)
        (current / "gpugate-probe.pyz").write_text(PROBE.replace("HOST", host))
        (current.parent / "current").symlink_to("0123")
        hosts[host] = {"ansible_connection": "local", "gpugate_node_root": str(folder / host)}
    with socket.create_server(("127.0.0.1", 0)) as closed_again:
        port = closed_again.getsockname()[1]
    hosts["down"] = {"ansible_host": "127.0.0.1", "ansible_port": port, "ansible_user": "nobody"}
    variables = {
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
        "gpugate_board": "H100-SXM5-80GB",
        "gpugate_gpu_count": 8,
        "gpugate_driver_allowed": "{{ '>=' ~ oldest_driver }}",
        "oldest_driver": "550.90",
        "gpugate_cuda_versions": ["12.4", "{{ '12' ~ '.6' }}"],
        "gpugate_level": "admit",
        "gpugate_checks": {"thermal.headroom": "evict"},
        "gpugate_waivers": [{"check": "host.clock", "host": "{{ inventory_hostname }}", "who": "Ada", "why": "battery",
                             "ticket": "OPS-1", "expires": datetime(2031, 1, 1, tzinfo=UTC).date()}],
    }  # fmt: skip
    inventory = {"all": {"children": {"gpu_fleet": {"hosts": hosts, "vars": variables}, "nobody": {"hosts": {}}}}}
    (folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
    made = Site(folder)
    made.write_report()
    return made


def line_of(host: str, output: str) -> str:
    """What the gate says about a host at the end."""
    [line] = [line for line in output.splitlines() if line.startswith(f"{host:<6}  ") and " ok=" not in line]
    return line


def test_first_time(site: Site) -> None:
    """--check --diff tells all and does nothing; then green is admitted, the others refused with reasons, exit 0."""
    would = site.admit("--check", "--diff")
    assert would.returncode == 0, would.stdout + would.stderr
    assert "would be admitted: all" in line_of("green", would.stdout)
    assert "+green: in service" in would.stdout
    assert not site.state.parent.exists()

    done = site.admit()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "admitted: all" in line_of("green", done.stdout)
    for part in ("refused", "thermal.headroom FAIL", "GPU 1", "1.5 C", "at least 5 C", "cooling"):
        assert part in line_of("fouled", done.stdout)
    assert "refused" in line_of("down", done.stdout)
    assert "cannot be reached" in line_of("down", done.stdout)
    assert f"report: {site.folder / 'reports/latest/junit.xml'}" in done.stdout
    hosts = json.loads(site.state.read_text())["hosts"]
    assert {host: entry["in_service"] for host, entry in hosts.items()} == {"green": True}


def test_second_time(site: Site) -> None:
    """Run from playbooks/ with everything in place it changes nothing, and can be told to fail when one is refused."""
    entry = {
        "in_service": True,
        "since": "2026-01-31T12:00:00Z",
        "by": "ada",
        "why": "green",
        "run_id": "r",
        "report_sha256": "s",
    }
    site.state.parent.mkdir(exist_ok=True)
    site.state.write_text(json.dumps({"schema": 1, "hosts": {"green": entry}}))
    before = site.state.read_bytes()
    again = site.admit(cwd=PROJECT / "playbooks", gpugate_fail_on_refusal=True)
    assert again.returncode != 0
    assert "stays in: all" in line_of("green", again.stdout)
    assert "changed=1" not in again.stdout
    assert "refused: down,fouled" in again.stdout + again.stderr
    assert site.state.read_bytes() == before


def test_report_that_cannot_be_read(site: Site) -> None:
    """Without a report the play fails with one sentence."""
    done = site.admit(gpugate_report=str(site.folder / "nowhere.xml"))
    assert done.returncode != 0
    assert "no report can be read at" in done.stdout + done.stderr


def test_state_that_is_corrupt(site: Site) -> None:
    """With a state file that is not one the play fails with one sentence, and leaves the file as it is."""
    broken = site.folder / "broken.json"
    broken.write_text("{")
    done = site.admit(gpugate_admission_state=str(broken))
    assert done.returncode != 0
    assert "is not valid" in done.stdout + done.stderr
    assert broken.read_text() == "{"


def test_command_hook(site: Site) -> None:
    """The command back end puts the green node into service, and a command that fails makes the play fail."""
    nodes = site.folder / "nodes"
    nodes.mkdir()
    script = 'case $1 in status) test -e "$2" && echo in || echo out;; admit) touch "$2";; *) exit 3;; esac'
    command = ["sh", "-c", script, "hook", "{action}", f"{nodes}/{{host}}"]
    done = site.admit(gpugate_admission_backend="command", gpugate_admission_command=command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in nodes.iterdir()] == ["green"]
    failing = site.admit(gpugate_admission_backend="command", gpugate_admission_command=["false", "{action}", "{host}"])
    assert failing.returncode != 0
    assert "NOT DONE" in line_of("green", failing.stdout)


def test_group_without_hosts(site: Site) -> None:
    """A group that has no hosts is red: nothing was decided."""
    done = site.admit(gpugate_hosts="nobody")
    assert done.returncode != 0
    assert "no host of the inventory matches nobody" in done.stdout + done.stderr


def test_limit(site: Site) -> None:
    """--limit decides on fewer nodes, and one that leaves nobody is an error."""
    some = site.admit("--check", "--limit", "fouled,down")
    assert some.returncode == 0, some.stdout + some.stderr
    assert "would" not in some.stdout
    assert "refused" in line_of("fouled", some.stdout)
    none = site.admit("--limit", "green", gpugate_hosts="fouled")
    assert none.returncode != 0
    assert "no host of the inventory matches fouled within --limit green" in none.stdout + none.stderr


def test_breaker(site: Site, tmp_path: Path) -> None:
    """Too many removals stop all of them with one sentence and a failed play, also with --check; a person's word for
    this report goes on."""
    entry = {
        "in_service": True,
        "since": "2026-01-31T12:00:00Z",
        "by": "ada",
        "why": "",
        "run_id": "",
        "report_sha256": "",
    }
    state = tmp_path / "admission.json"
    state.write_text(json.dumps({"schema": 1, "hosts": {"fouled": entry}}))
    known: dict[str, Any] = {"gpugate_admission_state": str(state), "gpugate_breaker": {"at_least": 0}}
    for arguments in (["--check"], []):
        stopped = site.admit(*arguments, **known)
        assert stopped.returncode != 0
        said = " ".join(stopped.stdout.split())
        assert "NO NODE WAS REMOVED: 1 node for thermal.headroom, and 0 of 1 node may be out of service at once" in said
        assert "ALERT: 1 node held: fouled: would be removed, but too many" in said
        assert json.loads(state.read_text())["hosts"]["fouled"]["in_service"] is True
    run_id = (site.folder / "reports/latest").resolve().name
    wanted = site.admit(gpugate_approved_removals=run_id, **known)
    assert wanted.returncode == 0, wanted.stdout + wanted.stderr
    assert json.loads(state.read_text())["hosts"]["fouled"]["in_service"] is False


def test_signed_report(site: Site, tmp_path: Path) -> None:
    """With gpugate_allowed_signers a report needs a signature, and the last line says whose; null asks for one too."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    (tmp_path / "signers").write_text(f"ada@site {(tmp_path / 'key.pub').read_text()}")
    site.write_report(Signer(tmp_path / "key"))
    done = site.admit("--check", gpugate_allowed_signers=str(tmp_path / "signers"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "signed by ada@site with ED25519 key SHA256:" in done.stdout
    site.write_report()
    for value, reason in ((str(tmp_path / "signers"), "it is not signed"), (None, "gpugate_allowed_signers is empty")):
        done = site.admit("--check", gpugate_allowed_signers=value)
        assert done.returncode != 0
        assert reason in done.stdout + done.stderr
