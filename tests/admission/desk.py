"""The desk of the person on call: a project's folder with an inventory, reports, and a gate that runs over them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from gpugate.admission import Carried, Memory, Node, Present, carry, open_backend
from gpugate.admission.site import Run as GateRun
from gpugate.admission.variables import Settled, settle
from gpugate.cli.main import main
from gpugate.policy import policy_from_variables
from gpugate.report import HostReport, new_run_id
from gpugate.report import Store as Reports
from gpugate.state.store import Store
from gpugate.verdict import Verdict
from healthy import VARIABLES
from runs import passed, run_of

HOSTS = ("gpu0", "gpu1", "gpu2")


class Desk:
    """`folder` is the project's; nodes are what the reports say they are."""

    def __init__(self, folder: Path, **variables: Any) -> None:
        self.folder = folder
        self.variables = VARIABLES | {"gpugate_checks": {"thermal.headroom": "evict"}} | variables
        self.policy = policy_from_variables("gpu0", self.variables)
        (folder / "ansible.cfg").write_text("[defaults]\n")
        self.inventory({host: {} for host in HOSTS})

    def inventory(self, hosts: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the inventory anew."""
        fleet = {"hosts": hosts, "vars": self.variables}
        (self.folder / "hosts.json").write_text(json.dumps({"all": {"children": {"gpu_fleet": fleet}}}))

    @property
    def settled(self) -> Settled:
        """What the inventory's variables mean."""
        return settle(
            {"gpu0": {key: value for key, value in self.variables.items() if "admission" in key}}, self.folder
        )

    def report(
        self, *red: Verdict, hosts: tuple[str, ...] = HOSTS, ago: timedelta = timedelta(minutes=5), **changes: Any
    ) -> str:
        """Make a report in which all is green but what is given; its run id."""
        started = datetime.now().astimezone() - ago
        told = []
        for host in hosts:
            verdicts = {
                check: passed(host, check) for check in self.policy.expected(changes.get("profile", "admission"))
            }
            verdicts |= {verdict.check: verdict for verdict in red if verdict.host == host}
            identity = {"machine_id": f"m-{host}", "boot_id": "b-1", "gpu_uuids": f"GPU-{host}",
                        "policy_digest": self.policy.digest,
                        "measured_unix_s": f"{started.timestamp():.3f}"}  # fmt: skip
            told.append(HostReport(host, identity, list(verdicts.values())))
        run = run_of(hosts=told, started=started, run_id=new_run_id(started), **changes)
        Reports(self.folder / "reports").write(run)
        return run.run_id

    def gate(self, *hosts: str, later: timedelta = timedelta()) -> Carried:
        """Run the gate by the latest report, now or later."""
        settled, now = self.settled, datetime.now().astimezone() + later
        nodes = [
            Node(host, self.policy, Present(f"m-{host}", "b-1", frozenset({f"GPU-{host}"}))) for host in hosts or HOSTS
        ]
        settled.site.state.parent.mkdir(exist_ok=True)
        report, memory = settled.read(), Memory(Store(settled.store))
        backend, audit = open_backend(settled.site, GateRun("robot", report, settled.report), memory)
        return carry(report, nodes, backend, audit, memory, now)

    def audit(self) -> list[dict[str, Any]]:
        """The lines of the audit."""
        return [json.loads(line) for line in (self.folder / "state/admission.audit.jsonl").read_text().splitlines()]

    def inside(self) -> dict[str, bool]:
        """Who is in service, by the state file."""
        hosts = json.loads((self.folder / "state/admission.json").read_text())["hosts"]
        return {host: entry["in_service"] for host, entry in hosts.items()}


def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk at which nothing has happened yet, and ada at it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANSIBLE_CONFIG", str(tmp_path / "ansible.cfg"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED", "True")
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.delenv("SUDO_USER", raising=False)
    return Desk(tmp_path)


def gpugate(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run a command; its exit code, and what it said."""
    capsys.readouterr()
    code = main([*arguments, "-i", "hosts.json"])
    said = capsys.readouterr()
    return code, said.out + said.err
