"""What a report says: one run, its hosts, and their verdicts."""

from __future__ import annotations

import re
import secrets
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from ..errors import ReportError
from ..policy import Profile
from ..verdict import Outcome, Verdict
from .basis import Basis
from .times import Times

Scope = Literal["whole", "partial"]
RUN_ID = re.compile(r"\d{8}T\d{12}Z-[0-9a-f]{6}")


def new_run_id(started: datetime) -> str:
    """A name for a run: sorts by time (UTC, microseconds), and no two runs get the same."""
    return f"{started.astimezone(UTC):%Y%m%dT%H%M%S%fZ}-{secrets.token_hex(3)}"


@dataclass(frozen=True)
class HostReport:
    """One host of a run. `identity` has only what is known of the node (`report.identity_of` makes it)."""

    host: str
    identity: dict[str, str]
    verdicts: list[Verdict]
    times: Times = field(default_factory=Times)

    def __post_init__(self) -> None:
        """Raise ReportError where verdicts are missing, doubled, or another host's."""
        if not self.host or not self.verdicts:
            raise ReportError(f"{self.host or 'a host without a name'}: there is no verdict to report")
        for verdict in self.verdicts:
            if verdict.host != self.host:
                raise ReportError(f"{self.host}: a verdict of {verdict.host} ({verdict.check}) is among its own")
        check, times = Counter(verdict.check for verdict in self.verdicts).most_common(1)[0]
        if times > 1:
            raise ReportError(f"{self.host}: {check} was judged {times} times in one run")

    @property
    def green(self) -> bool:
        """Whether every verdict is green."""
        return all(verdict.outcome.green for verdict in self.verdicts)


@dataclass(frozen=True)
class Run:
    """One run. `started` knows its time zone; `partial_because` says why `scope` is partial.

    A run that judged no host is partial, and its report is one error. `basis` is what it was judged by.
    """

    run_id: str
    started: datetime
    profile: Profile
    scope: Scope
    partial_because: str = ""
    hosts: list[HostReport] = field(default_factory=list)
    basis: Basis | None = None

    def __post_init__(self) -> None:
        """Raise ReportError where the run contradicts itself."""
        if not RUN_ID.fullmatch(self.run_id):
            raise ReportError(f"{self.run_id!r} is no run id (new_run_id makes one)")
        if self.started.tzinfo is None:
            raise ReportError(f"run {self.run_id}: its start has no time zone")
        if (self.scope == "partial") != bool(self.partial_because):
            raise ReportError(f"run {self.run_id}: a partial run, and only a partial one, says why it is partial")
        if not self.hosts and self.scope == "whole":
            raise ReportError(f"run {self.run_id}: a run that judged no host is not whole")
        host, times = Counter(host.host for host in self.hosts).most_common(1)[0] if self.hosts else ("", 0)
        if times > 1:
            raise ReportError(f"run {self.run_id}: {host} is reported {times} times")

    @property
    def counts(self) -> dict[str, int]:
        """How many verdicts have each outcome, by the outcome's name; all five are there."""
        counts = Counter(verdict.outcome for host in self.hosts for verdict in host.verdicts)
        return {outcome.value: counts[outcome] for outcome in Outcome}

    @property
    def green(self) -> bool:
        """Whether there is a host, and every verdict on every host is green."""
        return bool(self.hosts) and all(host.green for host in self.hosts)
