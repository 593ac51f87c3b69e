"""What one pytest session knows: its hosts, where their evidence lies, and the verdicts so far."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from ..errors import EvidenceError
from ..gather import GatherLog, load, read_log
from ..inventory import Target
from ..policy import CATALOGUE, Profile
from ..report import Signer, Times, identity_of, times_of
from ..report.aside import Cases
from ..report.junit import case_xml
from ..verdict import Gathered, Verdict

CHECK_PREFIX = "check_"
_IN_MEMORY = 64  # documents: one takes ten times its text, and thousands would take gigabytes


@dataclass(frozen=True, slots=True)
class About:
    """What the report tells of a host beside its verdicts, read from the evidence that was judged."""

    identity: dict[str, str]
    times: Times
    started_unix_s: float | None
    sha256: str


@dataclass
class State:
    """The session's state; one in the controller, one in each xdist worker.

    Evidence is forgotten after a while, but by a worker: xdist gives it one cell of a host at a time.
    """

    targets: dict[str, Target]
    profile: Profile
    started: datetime
    folder: Path | None = None
    log: GatherLog | None = None
    verdicts: dict[tuple[str, str], Verdict] = field(default_factory=dict)
    cases: Cases | None = None
    worker: bool = False
    defined: dict[str, Path] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)  # sha256 of what was collected, by path in the project
    signer: Signer | None = None
    deselected: int = 0
    distributed: bool = False
    collection_errors: list[str] = field(default_factory=list)
    today: date = field(default_factory=date.today)
    _gathered: dict[str, Gathered] = field(default_factory=dict)
    _about: dict[str, About] = field(default_factory=dict)
    _expected: dict[int, Mapping[str, None]] = field(default_factory=dict)  # by the policy's id: targets keep it alive

    def expected(self, host: str) -> Mapping[str, None]:
        """The checks that a host owes in this run, in order."""
        policy = self.targets[host].policy
        known = self._expected.get(id(policy))
        if known is None:
            known = self._expected[id(policy)] = dict.fromkeys(policy.expected(self.profile))
        return known

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
        known = self._gathered.get(host)
        if known is None:
            known = load(self.folder, host, self.log)
            if host not in self._about:
                self._about[host] = _about(self.targets[host], known)
            elif self._about[host].sha256 != known.sha256:
                known = Gathered(host, None, EvidenceError(f"the evidence of {host} changed while it was judged"))
            if not self.worker and len(self._gathered) >= _IN_MEMORY:
                del self._gathered[next(iter(self._gathered))]
            self._gathered[host] = known
        return known

    def adopt(self, host: str, about: About) -> bool:
        """Take what another process read of a host; false where this one has read another document."""
        return self._about.setdefault(host, about).sha256 == about.sha256

    def about(self, host: str) -> About:
        """What the report tells of a host."""
        if host not in self._about:
            self.gathered(host)
        return self._about[host]

    def keep(self, verdict: Verdict) -> Verdict:
        """The verdict as this session keeps it to its end: its findings, written out, put aside."""
        return self.cases.keep(verdict, case_xml(verdict)) if self.cases is not None else verdict


STATE = pytest.StashKey[State]()
_VERDICT = TypeAdapter(Verdict)


def _about(target: Target, gathered: Gathered) -> About:
    evidence, sha256 = gathered.evidence, gathered.sha256
    started = evidence.started_unix_s if evidence is not None else None
    return About(identity_of(target.policy, evidence, sha256), times_of(gathered), started, sha256)


def check_id(path: Path, name: str) -> str:
    """The id of a check: `check_headroom` in `thermal.py` is thermal.headroom."""
    return f"{path.stem}.{name.removeprefix(CHECK_PREFIX)}"


def send(config: pytest.Config, report: pytest.TestReport, verdict: Verdict) -> None:
    """Let an xdist worker's report carry its verdict to the controller; nothing to do anywhere else."""
    if hasattr(config, "workerinput"):
        plain = _VERDICT.dump_python(verdict, mode="json", fallback=str)
        text = json.dumps(plain, ensure_ascii=False)  # may hold half a surrogate pair, which no channel carries
        vars(report)["gpugate_verdict"] = text.encode(errors="replace").decode()


def verdict_of(report: pytest.TestReport) -> Verdict | None:
    """The verdict that a worker sent with its report."""
    sent: str | None = getattr(report, "gpugate_verdict", None)
    return _VERDICT.validate_json(sent) if sent is not None else None
