"""What one pytest session knows: its hosts, where their evidence lies, and the verdicts so far."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from ..errors import EvidenceError
from ..gather import GatherLog, load, read_log
from ..inventory import Target
from ..policy import CATALOGUE, Profile
from ..verdict import Gathered, Verdict

CHECK_PREFIX = "check_"


@dataclass
class State:
    """The session's state; one in the controller, one in each xdist worker."""

    targets: dict[str, Target]
    profile: Profile
    started: datetime
    folder: Path | None = None
    log: GatherLog | None = None
    verdicts: dict[tuple[str, str], Verdict] = field(default_factory=dict)
    defined: dict[str, Path] = field(default_factory=dict)
    deselected: int = 0
    distributed: bool = False
    collection_errors: list[str] = field(default_factory=list)
    today: date = field(default_factory=date.today)
    _gathered: dict[str, Gathered] = field(default_factory=dict)
    _expected: dict[str, list[str]] = field(default_factory=dict)

    def expected(self, host: str) -> list[str]:
        """The checks that a host owes in this run."""
        if host not in self._expected:
            self._expected[host] = self.targets[host].policy.expected(self.profile)
        return self._expected[host]

    def hosts_for(self, check: str, path: Path) -> list[str]:
        """The hosts that owe a check which `path` defines; raises CollectError for one that no policy names."""
        other = self.defined.setdefault(check, path)
        if other != path:
            raise pytest.Collector.CollectError(f"both {other} and {path} define {check}: rename one of the files")
        named = check in CATALOGUE or any(check in target.policy.checks for target in self.targets.values())
        if not named:
            raise pytest.Collector.CollectError(
                f"{path} defines {check}, which no policy names, so nobody would miss it: add '{check}: observe' "
                "(or admit, evict, absent) under gpugate_checks"
            )
        return [host for host in self.targets if check in self.expected(host)]

    def use_folder(self, folder: Path) -> None:
        """Judge the evidence in this folder from now on; raises EvidenceError for one that holds none."""
        if not folder.is_dir():
            raise EvidenceError(f"--evidence: {folder} is no folder")
        self.log, self.folder = read_log(folder), folder

    def gathered(self, host: str) -> Gathered:
        """What the evidence folder holds of a host."""
        if self.folder is None:
            raise RuntimeError("evidence was asked for before it was gathered")
        if host not in self._gathered:
            self._gathered[host] = load(self.folder, host, self.log)
        return self._gathered[host]


STATE = pytest.StashKey[State]()


def check_id(path: Path, name: str) -> str:
    """The id of a check: `check_headroom` in `thermal.py` is thermal.headroom."""
    return f"{path.stem}.{name.removeprefix(CHECK_PREFIX)}"


def send(config: pytest.Config, report: pytest.TestReport, verdict: Verdict) -> None:
    """Let an xdist worker's report carry its verdict to the controller; nothing to do anywhere else."""
    if hasattr(config, "workerinput"):
        plain = TypeAdapter(Verdict).dump_python(verdict, mode="json", fallback=str)
        text = json.dumps(plain, ensure_ascii=False)  # may hold half a surrogate pair, which no channel carries
        vars(report)["gpugate_verdict"] = text.encode(errors="replace").decode()


def verdict_of(report: pytest.TestReport) -> Verdict | None:
    """The verdict that a worker sent with its report."""
    sent: str | None = getattr(report, "gpugate_verdict", None)
    return TypeAdapter(Verdict).validate_json(sent) if sent is not None else None
