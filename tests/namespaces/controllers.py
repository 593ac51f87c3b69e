"""What a person runs against a fleet, in the fleet's network: pytest on the catalogue, playbooks, ssh."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostfleet import NamespaceFleet
from junitparser import JUnitXml

PROJECT = Path(__file__).resolve().parents[2]
DEADLINE_S = 300  # a safety only
Cells = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Run:
    """A run of the checks. `cells`: host to check to the first line of what is wrong, empty where it passed."""

    status: int
    said: str
    cells: Cells

    def causes(self, host: str) -> set[str]:
        """What is wrong on a host, each cause once."""
        return {cause for cause in self.cells[host].values() if cause}

    def green(self) -> set[str]:
        return {host for host, cells in self.cells.items() if not any(cells.values())}


def judge(fleet: NamespaceFleet, *options: str, inventory: Path | None = None, **more: Any) -> Run:
    """Run the checks on the fleet and read the JUnit report as a stranger does."""
    reports = fleet.folder / "reports"
    done = fleet.run(
        ["pytest", "--hosts=gpu_fleet", f"--ansible-inventory={inventory or fleet.inventory}", f"--reports={reports}",
         "-o", f"cache_dir={fleet.folder / 'cache'}", *options],
        **({"cwd": PROJECT} | more),
    )  # fmt: skip
    said = done.stdout + done.stderr
    newest = max(reports.glob("**/junit.xml"), key=lambda path: path.stat().st_mtime_ns, default=None)
    assert newest, said
    return Run(done.returncode, said, _cells(newest))


def _cells(junit: Path) -> Cells:
    cells: Cells = {}
    for suite in JUnitXml.fromfile(str(junit)):
        for case in suite:
            wrong = [result.message or result.text for result in case.result]
            check = f"{case.classname.removeprefix('checks.')}.{case.name.partition('[')[0]}"
            cells.setdefault(suite.name, {})[check] = wrong[0].splitlines()[0] if wrong else ""
    return cells


def play(fleet: NamespaceFleet, name: str, *options: str, succeeds: bool = True) -> str:
    """Run one of the project's playbooks on the fleet; what it said."""
    done: subprocess.CompletedProcess[str] = fleet.run(
        ["ansible-playbook", "-i", fleet.inventory, PROJECT / "playbooks" / name, *options],
        cwd=PROJECT, env=fleet.env | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")},
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert (done.returncode == 0) == succeeds, said
    return said
