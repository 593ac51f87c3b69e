"""pytest as its users know it: patterns, selection, replay, other folders, sites' own checks, other inventories."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from gpugate.policy import policy_from_variables
from judged_site import POLICY, ROOT, Site

OWED = policy_from_variables("gpu0", POLICY).expected("admission")  # by each of the three hosts
THERMAL = sum(check.startswith("thermal.") for check in OWED)
VOLATILE = re.compile(rb' time(stamp)?="[^"]*"|<property name="(run_id|started)" value="[^"]*" />')


@pytest.fixture(scope="module")
def evidence(site: Site) -> Path:
    """The evidence folder of one green run."""
    done = site.pytest()
    assert done.returncode == 0, done.stdout + done.stderr
    return site.latest() / "evidence"


def test_replay_gives_the_same_bytes(site: Site, own_reports: Site, evidence: Path) -> None:
    """--evidence judges the documents again without touching a host: the same JUnit, timestamps aside."""
    site.fleet.cli("stop", "gpu0")
    try:
        done = own_reports.pytest(f"--evidence={evidence}")
    finally:
        site.fleet.cli("start", "gpu0")
    assert done.returncode == 0, done.stdout
    first, second = (VOLATILE.sub(b"", (site_.latest() / "junit.xml").read_bytes()) for site_ in (site, own_reports))
    assert first == second


@pytest.mark.parametrize(
    ("pattern", "hosts"),
    [
        ("gpu_fleet:!gpu2", {"gpu0", "gpu1"}),
        ("gpu[0:1]", {"gpu0", "gpu1"}),
        ("gpu1,gpu2", {"gpu1", "gpu2"}),
        ("gpu_fleet:&gpu1", {"gpu1"}),
        ("all", {"gpu0", "gpu1", "gpu2"}),
    ],
)
def test_host_patterns(own_reports: Site, evidence: Path, pattern: str, hosts: set[str]) -> None:
    """--hosts takes the patterns that Ansible takes."""
    done = own_reports.pytest(f"--evidence={evidence}", hosts=pattern)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(own_reports.outcomes()) == hosts


@pytest.mark.parametrize(
    ("arguments", "cells"),
    [
        (["-k", "thermal and gpu1"], THERMAL),
        (["-m", "thermal"], 3 * THERMAL),
        (["checks/thermal.py"], 3 * THERMAL),
        (["checks/thermal.py::check_headroom[gpu2]"], 1),
        (["--deselect", "checks/thermal.py"], 3 * (len(OWED) - THERMAL)),
    ],
)
def test_selection_is_partial(own_reports: Site, evidence: Path, arguments: list[str], cells: int) -> None:
    """What selects less judges less, writes a partial report, and leaves `latest` alone."""
    done = own_reports.pytest(f"--evidence={evidence}", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{cells} passed" in done.stdout
    assert "partial run" in done.stdout
    assert not (own_reports.reports / "latest").exists()
    assert sum(map(len, own_reports.outcomes("partial/latest").values())) == cells


def test_xdist_gives_the_whole_report(own_reports: Site, evidence: Path) -> None:
    """-n 2 works, and its report is as whole as any."""
    done = own_reports.pytest(f"--evidence={evidence}", "-n", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert own_reports.red() == {}
    assert {len(cells) for cells in own_reports.outcomes().values()} == {len(OWED)}


def test_xdist_carries_failures_over(own_reports: Site, tmp_path: Path) -> None:
    """A red verdict of a worker is red in the controller's report, with its reason."""
    (tmp_path / "none").mkdir()
    done = own_reports.pytest(f"--evidence={tmp_path / 'none'}", "-n", "2")
    assert done.returncode == 1, done.stdout
    assert {outcome for cells in own_reports.outcomes().values() for outcome in cells.values()} == {"MISSING"}
    assert "holds no document" in done.stdout


def test_first_failure_stops_and_is_partial(own_reports: Site, tmp_path: Path) -> None:
    """-x stops at the first red cell, and what was not judged makes the run partial."""
    (tmp_path / "none").mkdir()
    done = own_reports.pytest(f"--evidence={tmp_path / 'none'}", "-x")
    assert done.returncode == 1
    assert "1 failed" in done.stdout
    assert not (own_reports.reports / "latest").exists()


def test_collect_only_touches_nothing(own_reports: Site) -> None:
    """--collect-only lists cells, gathers nothing and writes nothing."""
    done = own_reports.pytest("--collect-only", "-q")
    assert done.returncode == 0
    assert "checks/thermal.py::check_headroom[gpu2]" in done.stdout
    assert "gathering" not in done.stdout
    assert not own_reports.reports.exists()


def test_pdb_stops_in_a_red_check(own_reports: Site, tmp_path: Path) -> None:
    """--pdb opens the debugger at a red cell."""
    site = own_reports
    (tmp_path / "none").mkdir()
    done = site.fleet.run(
        "pytest", "--hosts=gpu0", f"--ansible-inventory={site.fleet.inventory}", f"--evidence={tmp_path / 'none'}",
        f"--reports={site.reports}", "--pdb", "-x", "-p", "no:cacheprovider", cwd=ROOT, input="q\n",
    )  # fmt: skip
    assert "(Pdb)" in done.stdout


@pytest.mark.parametrize("how", [["-c", str(ROOT / "pyproject.toml")], [f"--rootdir={ROOT}"]])
def test_from_elsewhere(own_reports: Site, evidence: Path, tmp_path: Path, how: list[str]) -> None:
    """From another folder, -c or --rootdir finds the project's checks."""
    done = own_reports.pytest(f"--evidence={evidence}", *how, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{3 * len(OWED)} passed" in done.stdout
    assert own_reports.red() == {}


def test_outside_a_project_our_options_are_refused(own_reports: Site, evidence: Path, tmp_path: Path) -> None:
    """Where there are no checks, asking for evidence is an error, and not a run of nothing."""
    done = own_reports.fleet.run("pytest", "--hosts=gpu0", f"--evidence={evidence}", cwd=tmp_path)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "is for a gpugate project" in done.stderr


def _inventory(site: Site, folder: Path, **variables: object) -> Path:
    """The site's inventory with more variables for all its hosts."""
    data = yaml.safe_load(site.fleet.inventory.read_text())
    data["gpu_fleet"]["vars"] |= POLICY | variables
    path = folder / "hosts.yml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_site_check_and_testinfra_check(site: Site, tmp_path: Path) -> None:
    """A site's own checks stand beside ours: ten lines on evidence, and one that uses testinfra's host."""
    checks = {"site.pcie_replays": "admit", "mine.hostname": "observe", "mine.shell": "observe"}
    inventory = _inventory(site, tmp_path, gpugate_checks=POLICY["gpugate_checks"] | checks)  # type: ignore[operator]  # a mapping
    own = tmp_path / "checks"
    own.mkdir()
    (own / "mine.py").write_text(
        "def check_hostname(host, node):\n"
        "    assert host.run('echo hello').stdout == 'hello\\n'\n\n"
        "def check_shell(host, expect):\n"
        "    expect('shell', host.file('/bin/sh').exists).equals(False, next='try again')\n"
    )
    reports = tmp_path / "reports"
    done = site.fleet.run(
        "pytest", "--hosts=gpu0", f"--ansible-inventory={inventory}", f"--reports={reports}", "-p", "no:cacheprovider",
        "checks", "inventory/example/checks", str(own), cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    outcomes = Site(site.fleet, reports).outcomes()["gpu0"]
    assert outcomes["site.pcie_replays"] == "PASS"
    assert outcomes["mine.hostname"] == "PASS"
    assert outcomes["mine.shell"] == "FAIL"
    assert set(outcomes.values()) == {"PASS", "FAIL"}
    assert len(outcomes) == len(OWED) + 3


def test_unnamed_site_check_is_refused(own_reports: Site, tmp_path: Path) -> None:
    """A check that no policy names would never be missed: it is an error, which says what to write."""
    (tmp_path / "mine.py").write_text("def check_it(node, expect):\n    expect('x', 1).equals(1)\n")
    done = own_reports.pytest("checks", str(tmp_path / "mine.py"))
    assert done.returncode == pytest.ExitCode.INTERRUPTED
    assert "mine.it, which no policy names" in done.stdout
    assert "Traceback" not in done.stdout
    assert "collection failed" in (own_reports.latest("partial/latest") / "junit.xml").read_text()


def test_templates_lookups_and_vault(site: Site, evidence: Path, tmp_path: Path) -> None:
    """Templated, looked-up and vaulted variables resolve as in a playbook, and the secret shows up nowhere."""
    (tmp_path / "key").write_text("open sesame\n")
    secret = subprocess.run(
        [str(Path(yaml.__file__).parents[4] / "bin" / "ansible-vault"), "encrypt_string", "--vault-password-file",
         str(tmp_path / "key"), "hunter22hunter", "--name", "ansible_become_password"],
        check=True, capture_output=True, text=True, env=site.fleet.env,
    ).stdout  # fmt: skip
    (tmp_path / "limit").write_text("650\n")
    inventory = _inventory(
        site, tmp_path, gpugate_power_limit_w="{{ lookup('file', '" + str(tmp_path / "limit") + "') | int }}",
        gpugate_headroom_c="{{ own_bound + 1 }}", own_bound=4,
    )  # fmt: skip
    group = tmp_path / "group_vars"
    group.mkdir()
    (group / "gpu_fleet.yml").write_text(secret)
    reports = tmp_path / "reports"
    environment = site.fleet.env | {"ANSIBLE_VAULT_PASSWORD_FILE": str(tmp_path / "key")}
    done = site.fleet.run(
        "pytest", "--hosts=gpu0", f"--ansible-inventory={inventory}", f"--reports={reports}", f"--evidence={evidence}",
        "-p", "no:cacheprovider", "-vv", cwd=ROOT, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    everything = done.stdout + done.stderr + "".join(p.read_text() for p in reports.rglob("*.*ml"))
    assert "hunter22hunter" not in everything
    assert "650" in (Site(site.fleet, reports).latest() / "junit.xml").read_text()
