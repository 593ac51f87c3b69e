"""A project with checks of its own that judges written evidence: pytest as its users run it, without a node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpugate.evidence.codec import serialise
from gpugate.evidence.types import Evidence
from gpugate.policy import CATALOGUE
from gpugate.report.reader import Report, read_report
from healthy import VARIABLES, healthy

ROOT = Path(__file__).parents[2]
DEADLINE_S = 120  # a safety only


@dataclass(frozen=True)
class Project:
    """A folder with checks, an inventory and evidence of its hosts."""

    folder: Path

    def command(self, *args: str, hosts: str = "gpu_fleet", replay: bool = True) -> list[str]:
        """The command line that judges the written evidence, or without `replay` gathers its own."""
        written = [f"--evidence={self.folder / 'evidence'}"] if replay else []
        return [
            sys.executable, "-m", "pytest", f"--hosts={hosts}", f"--ansible-inventory={self.folder / 'hosts.json'}",
            *written, *args,
        ]  # fmt: skip

    def pytest(self, *args: str, hosts: str = "gpu_fleet") -> subprocess.CompletedProcess[str]:
        """Judge; `args` come last and may override."""
        return subprocess.run(
            self.command(*args, hosts=hosts),
            cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip

    @property
    def env(self) -> dict[str, str]:
        """An environment that writes nowhere but into the project."""
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "PYTEST_"))}
        own = {"HOME": self.folder, "ANSIBLE_HOME": self.folder / ".ansible", "PYTEST_DEBUG_TEMPROOT": self.folder}
        return ours | {name: str(folder) for name, folder in own.items()}

    def report(self, kind: str = "latest") -> Report:
        """The newest report of a kind: latest or partial/latest."""
        return read_report(self.folder / "reports" / kind / "junit.xml")

    def outcomes(self, kind: str = "latest") -> dict[str, str]:
        """Check and host ("mine.it gpu0") to outcome, of the newest report."""
        return {
            f"{check} {host}": str(cell.outcome)
            for host, known in self.report(kind).hosts.items()
            for check, cell in known.cells.items()
        }


def project(
    folder: Path,
    source: str = "",
    checks: Mapping[str, str] | None = None,
    hosts: tuple[str, ...] = ("gpu0",),
    evidence: Mapping[str, Evidence] | None = None,
    **variables: Any,
) -> Project:
    """A project whose one check file is mine.py with `source`; policy owes `checks`, and none that gpugate ships."""
    (folder / "checks").mkdir()
    (folder / "evidence").mkdir()
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    (folder / "checks" / "mine.py").write_text(source)
    owed = dict.fromkeys(CATALOGUE, "absent") | dict(checks if checks is not None else {"mine.it": "admit"})
    policy = VARIABLES | {"gpugate_checks": owed} | {f"gpugate_{name}": value for name, value in variables.items()}
    inventory = {"gpu_fleet": {"hosts": {host: {} for host in hosts}, "vars": policy}}
    (folder / "hosts.json").write_text(json.dumps(inventory))
    for host in hosts:
        document = (evidence or {}).get(host) or healthy(host)
        (folder / "evidence" / f"{host}.json").write_bytes(serialise(document))
    return Project(folder)
