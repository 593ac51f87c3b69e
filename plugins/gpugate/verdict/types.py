"""Verdicts: five outcomes, and findings that print their own rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from ..policy import Level, Waiver


class Outcome(StrEnum):
    """PASS measured and inside bounds; FAIL measured and outside; ERROR could not be measured; MISSING expected and
    never reported; WAIVED a FAIL or ERROR that somebody answers for."""

    PASS = "PASS"  # noqa: S105  # an outcome, not a password
    FAIL = "FAIL"
    ERROR = "ERROR"
    MISSING = "MISSING"
    WAIVED = "WAIVED"

    @property
    def green(self) -> bool:
        """Whether a node with this outcome may be admitted."""
        return self in (Outcome.PASS, Outcome.WAIVED)


class Next(StrEnum):
    """What an operator does next about a red finding."""

    REPROVISION = "re-provision the node (ansible-playbook playbooks/provision.yml --limit HOST)"
    RESET_GPU = "drain the node and reset the GPU"
    REBOOT = "reboot the node"
    COOLING = "look at the cooling: heat sink, paste, fans, airflow, inlet temperature"
    HARDWARE = "inspect the hardware: seating, cabling, then support"
    POWER = "look at the power feed and the BMC's power cap"
    END_JOB = "end the process, or drain the node"
    FIX_INVENTORY = "fix the inventory, or the rack"
    FIX_POLICY = "fix the policy"
    DRIVER = "install the driver that policy names, then reboot"
    RERUN = "run the checks again"
    SLOW = "look at its clocks, power and cooling beside its siblings'; then support"
    RMA = "take the card out of service; RMA"
    SUPPORT = "open a case with support"
    TIME = "look at the time service"


def short(value: Any) -> str:
    """A value as people read it: four figures of a float, without an exponent."""
    if not isinstance(value, float):
        return f"{value}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


@dataclass(frozen=True, slots=True)
class GpuName:
    """Which GPU a finding is about. What it could not say of itself reads 'unknown'."""

    index: int
    uuid: str
    serial: str
    bus_id: str

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.uuid}, serial {self.serial}, {self.bus_id})"


class Finding(NamedTuple):
    """One measured thing against its rule. `rule` reads as 'within 699 to 701 W', `origin` says who set it.

    A named tuple, because a fleet's run makes millions of them, and no other immutable record is made so fast.
    """

    what: str
    measured: Any
    unit: str
    rule: str
    origin: str
    ok: bool
    marginal: bool
    gpu: GpuName | None
    next: str

    def __str__(self) -> str:
        what, measured, unit, rule, origin, ok, marginal, gpu, step = self
        where = f"{gpu}: " if gpu else ""
        value = short(measured)
        unit = f" {unit}" if unit else ""
        verdict = ("marginal" if marginal else "ok") if ok else "outside"
        step = f"; next: {step}" if not ok and step else ""
        return f"{where}{what} is {value}{unit}, {verdict}: has to be {rule} [{origin}]{step}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one check on one host.

    `reason` is one sentence for ERROR and MISSING; the findings speak for PASS and FAIL. A WAIVED verdict keeps its
    findings, its reason and the outcome that was waived.
    """

    host: str
    check: str
    outcome: Outcome
    level: Level
    findings: tuple[Finding, ...] = ()
    reason: str = ""
    next: str = ""
    waiver: Waiver | None = None
    waived: Outcome | None = None
    seconds: float = field(default=0.0, compare=False)

    @property
    def marginal(self) -> bool:
        """Whether a PASS was close to its bound."""
        return self.outcome is Outcome.PASS and any(finding.marginal for finding in self.findings)

    @property
    def bad(self) -> list[Finding]:
        """The findings that are outside their bounds."""
        return [finding for finding in self.findings if not finding.ok]

    @property
    def headline(self) -> str:
        """The verdict in one sentence."""
        if self.outcome is Outcome.WAIVED and self.waiver is not None:
            w = self.waiver
            return f"waived until {w.expires} by {w.who} ({w.ticket}): {w.why}; without it {self.waived}: {self.cause}"
        return self.cause

    @property
    def cause(self) -> str:
        """The worst finding, or the reason why there is none."""
        if self.bad:
            more = f" (and {len(self.bad) - 1} more)" if len(self.bad) > 1 else ""
            also = f"; also: {self.reason}" if self.reason else ""
            return f"{self.bad[0]}{more}{also}"
        if self.reason:
            return self.reason + (f"; next: {self.next}" if self.next else "")
        marginal = [finding for finding in self.findings if finding.marginal]
        return str(marginal[0]) if marginal else f"{len(self.findings)} findings, all inside their bounds"

    @property
    def detail(self) -> str:
        """Every finding and the reason, a line each."""
        lines = [str(finding) for finding in self.findings]
        if self.reason:
            lines.append(self.reason + (f"; next: {self.next}" if self.next else ""))
        return "\n".join(lines)
