"""From a report and nodes to decisions that are carried out: asks the back end, decides, writes down, acts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ..errors import AdmissionError
from ..report.reader import Report
from ..report.text import one_line
from .audit import Audit
from .backends import AdmissionBackend
from .decision import Action, Decision
from .gate import Node, decide_all

_DONE = {Action.ADMIT: "admitted", Action.KEEP: "stays in", Action.STAY_OUT: "refused", Action.REMOVE: "removed",
         Action.HOLD: "held", Action.OBSERVE: "observed"}  # fmt: skip
_WOULD = {Action.ADMIT: "would be admitted", Action.KEEP: "would stay in", Action.STAY_OUT: "would be refused",
          Action.REMOVE: "would be removed", Action.HOLD: "would be held"}  # fmt: skip
_SHOWN_REASONS = 3


@dataclass(frozen=True)
class Carried:
    """What became of a run of the gate. `problems` says, by host, what could not be asked or done."""

    decisions: list[Decision]
    check: bool
    problems: dict[str, AdmissionError] = field(default_factory=dict)

    @property
    def changed(self) -> list[Decision]:
        """The decisions that changed a node, or in check mode would."""
        return [each for each in self.decisions if each.action.changes and each.host not in self.problems]

    @property
    def refused(self) -> list[str]:
        """The hosts that are not in service after this, and that nobody merely observes."""
        return [each.host for each in self.decisions if each.action in (Action.STAY_OUT, Action.REMOVE)]

    @property
    def lines(self) -> list[str]:
        """What became of each host, for people: a line with the weightiest reason, and one for each of the next."""
        width = max((len(each.host) for each in self.decisions), default=0)
        return [
            f"{one_line(each.host) if first else '':<{width}}  {one_line(line)}"
            for each in self.decisions
            for first, line in zip((True, *[False] * _SHOWN_REASONS), self._told(each), strict=False)
        ]

    def states(self, after: bool) -> str:
        """The state of each host before or after, a line each."""
        texts = {True: "in service", False: "out of service", None: "unknown"}
        moved = {each.host: each.action is Action.ADMIT for each in self.changed} if after else {}
        return "".join(f"{each.host}: {texts[moved.get(each.host, each.in_service)]}\n" for each in self.decisions)

    def _told(self, decision: Decision) -> list[str]:
        words = _WOULD if self.check and decision.action.changes else _DONE
        told = words[decision.action] + (f" ({_WOULD[decision.would]})" if decision.would else "")
        weightiest, *others = decision.reasons[:_SHOWN_REASONS]
        more = len(decision.reasons) - _SHOWN_REASONS
        if more > 0:
            others[-1] += f" (and {more} more)"
        if decision.host in self.problems:
            told = f"NOT DONE: {self.problems[decision.host]}; decided: {told}"
        return [f"{told}: {weightiest}", *(f"and: {other}" for other in others)]


def carry(
    report: Report,
    nodes: Sequence[Node],
    backend: AdmissionBackend,
    audit: Audit,
    now: datetime,
    *,
    check: bool = False,
) -> Carried:
    """Decide on every node and carry it out; with `check` only decide.

    The audit is written before anything is done: where it cannot be, nothing is. Raises AdmissionError where the back
    end or the audit fails for everybody.
    """
    states = backend.in_service([node.host for node in nodes])
    known: dict[str, bool | None] = {}
    problems: dict[str, AdmissionError] = {}
    for host, state in states.items():
        known[host] = None if isinstance(state, AdmissionError) else state
        if isinstance(state, AdmissionError):
            problems[host] = state
    decisions = decide_all(report, nodes, known, now)
    if check:
        return Carried(decisions, check, problems)
    backend.begin()
    audit.decided(decisions)
    due = [each for each in decisions if each.action.changes]
    if due:
        results = backend.carry_out(due)
        audit.carried_out(due, results)
        problems |= {host: error for host, error in results.items() if error is not None}
    return Carried(decisions, check, problems)
