"""From a report and nodes to decisions that are carried out: asks the back end, decides, writes down, acts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ..errors import AdmissionError
from ..report.causes import without_host
from ..report.reader import Report
from ..report.text import fold, one_line, shortened
from .audit import Audit
from .backends import AdmissionBackend
from .breaker import TOO_MANY, Limits, Member, Tripped, stopped, trips
from .decision import Action, Decision
from .gate import Known, Node, decide_all
from .memory import Memory, Remembered, refuse_clock
from .standing import NEW, Standing, Word
from .words import words_of

_DONE = {Action.ADMIT: "admitted", Action.KEEP: "stays in", Action.STAY_OUT: "refused", Action.REMOVE: "removed",
         Action.HOLD: "held", Action.SUSPECT: "suspect", Action.OBSERVE: "observed"}  # fmt: skip
_WOULD = {Action.ADMIT: "would be admitted", Action.KEEP: "would stay in", Action.STAY_OUT: "would be refused",
          Action.REMOVE: "would be removed", Action.HOLD: "would be held",
          Action.SUSPECT: "would be suspect"}  # fmt: skip
_SHOWN_REASONS = 3
_SINGLE = 16  # so many nodes get a line each; of more, those with one cause share a line
_WIDTH = 600
_FORGOTTEN = timedelta(days=7)


@dataclass(frozen=True)
class Carried:
    """What became of a run of the gate.

    `problems` says, by host, what could not be asked or done. `tripped` is why no node was removed, where removals
    were stopped.
    """

    decisions: list[Decision]
    check: bool
    problems: dict[str, AdmissionError] = field(default_factory=dict)
    tripped: str = ""

    @property
    def changed(self) -> list[Decision]:
        """The decisions that changed a node, or in check mode would."""
        return [each for each in self.decisions if each.action.changes and each.host not in self.problems]

    @property
    def refused(self) -> list[str]:
        """The hosts that are not in service after this, and that nobody merely observes."""
        return [each.host for each in self.decisions if each.action in (Action.STAY_OUT, Action.REMOVE)]

    @property
    def alerts(self) -> list[str]:
        """A sentence for each cause for which nodes in service are held or suspect: the most nodes first."""
        held = [each for each in self.decisions if each.action in (Action.HOLD, Action.SUSPECT)]
        return [
            _line(f"ALERT: {len(group)} node{'s' * (len(group) > 1)} {_DONE[group[0].action]}: "
                  f"{fold(each.host for each in group)}: {group[0].reasons[0]}")
            for group in self._grouped(held)
        ]  # fmt: skip

    @property
    def lines(self) -> list[str]:
        """What became of each host, for people: a line with the weightiest reason, and one for each of the next."""
        groups = self._grouped(self.decisions) if len(self.decisions) > _SINGLE else [[each] for each in self.decisions]
        names = [shortened(fold(each.host for each in group), _WIDTH) for group in groups]
        width = min(32, max(map(len, names), default=0))
        return [
            f"{one_line(name) if first else '':<{width}}  {_line(line)}"
            for name, group in zip(names, groups, strict=True)
            for first, line in zip((True, *[False] * _SHOWN_REASONS), self._told(group[0]), strict=False)
        ]

    def states(self, after: bool) -> str:
        """The state of each host before or after, a line each."""
        texts = {True: "in service", False: "out of service", None: "unknown"}
        moved = {each.host: each.action is Action.ADMIT for each in self.changed} if after else {}
        return "".join(f"{each.host}: {texts[moved.get(each.host, each.in_service)]}\n" for each in self.decisions)

    def _grouped(self, decisions: Sequence[Decision]) -> list[list[Decision]]:
        groups: defaultdict[tuple[object, ...], list[Decision]] = defaultdict(list)
        for each in decisions:
            problem = self.problems.get(each.host)
            cause = without_host(each.host, each.reasons[0]), problem and without_host(each.host, str(problem))
            groups[each.action, each.would, cause].append(each)
        return sorted(groups.values(), key=len, reverse=True)

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
    memory: Memory,
    now: datetime,
    *,
    limits: Limits | None = None,
    approved: str = "",
    check: bool = False,
) -> Carried:
    """Decide on every node and carry it out; with `check` only decide.

    `approved` is the run whose removals a person wants, however many they are. Memory and audit are written before
    anything is done: where they cannot be, nothing is. Raises GpugateError where back end, memory or audit fail for
    everybody.
    """
    known, problems, remembered = _known(nodes, backend, memory, audit, now)
    decisions = decide_all(report, nodes, known, now)
    limits = limits or Limits()
    fleet = _fleet(report, nodes, decisions, remembered, now - timedelta(hours=limits.window_h))
    tripped = _sentence(trips(decisions, fleet, limits), report.run_id)
    if tripped and approved == report.run_id:
        tripped = ""
    if tripped:
        decisions = stopped(decisions, TOO_MANY)
    if check:
        return Carried(decisions, check, problems, tripped)
    backend.begin()
    memory.decided(decisions, report.run_id, now, fleet)
    audit.decided(decisions)
    if tripped:
        audit.stopped(tripped)
    due = [each for each in decisions if each.action.changes]
    if due:
        results = _said_meanwhile(due, known, words_of(memory, audit, now))
        if going := [each for each in due if each.host not in results]:
            results |= backend.carry_out(going)
        audit.carried_out(due, results)
        memory.carried_out([each for each in due if results[each.host] is None], now)
        problems |= {host: error for host, error in results.items() if error is not None}
    told = backend.tell([each for each in decisions if not each.action.changes and each.host not in problems])
    return Carried(decisions, check, problems | told, tripped)


def _known(
    nodes: Sequence[Node], backend: AdmissionBackend, memory: Memory, audit: Audit, now: datetime
) -> tuple[dict[str, Known], dict[str, AdmissionError], dict[str, Remembered]]:
    """What is known of each node, why a back end could not tell of some, and all that the gate remembers."""
    standings = backend.standings([node.host for node in nodes])
    remembered, words = memory.nodes(), words_of(memory, audit, now)
    if not remembered and audit.has_decisions():
        raise AdmissionError(
            f"the state store {memory.path} knows of no node, and its audit {audit.path} says that the gate decided on "
            "some: put the store back from a backup, or move the audit away to begin again, when every node that was "
            "taken out comes back by one green report; until then nobody is admitted or removed"
        )
    refuse_clock(remembered.values(), now)
    problems = {host: seen for host, seen in standings.items() if isinstance(seen, AdmissionError)}
    known = {
        host: Known(
            seen if isinstance(seen, Standing) else None,
            remembered[host].history if host in remembered else NEW,
            words.get(host),
        )
        for host, seen in standings.items()
    }
    return known, problems, remembered


def _said_meanwhile(
    due: Sequence[Decision], known: dict[str, Known], words: dict[str, Word]
) -> dict[str, AdmissionError | None]:
    """Why some are left alone after all: what a person said while this run decided counts."""
    return {
        each.host: AdmissionError(f"{each.host}: it was {word} while this run decided")
        for each in due
        if (word := words.get(each.host)) and word != known[each.host].word
    }


def _fleet(
    report: Report,
    nodes: Sequence[Node],
    decisions: Sequence[Decision],
    remembered: dict[str, Remembered],
    since: datetime,
) -> dict[str, Member]:
    """Every node that the gate knows of: those asked about as they are, others as they were last; those of which it has
    not heard for long have left the fleet."""
    fleet = {host: Member(bool(each.inside), _lately(each, since), each.domains, each.driver)
             for host, each in remembered.items() if each.decided >= since - _FORGOTTEN}  # fmt: skip
    for node, decision in zip(nodes, decisions, strict=True):
        before, suite = remembered.get(node.host), report.hosts.get(node.host)
        removed = _lately(before, since) if before and not decision.in_service else ()
        driver = suite.identity.get("driver", "") if suite else before.driver if before else ""
        fleet[node.host] = Member(bool(decision.in_service), removed, node.domains, driver)
    return fleet


def _lately(each: Remembered, since: datetime) -> tuple[str, ...]:
    return each.removed_for if each.removed is not None and each.removed >= since else ()


def _sentence(tripped: Sequence[Tripped], run_id: str) -> str:
    if not tripped:
        return ""
    first = one_line(str(tripped[0]))
    more = f" (and {len(tripped) - 1} other group{'s' * (len(tripped) > 2)})" if len(tripped) > 1 else ""
    return (
        f"NO NODE WAS REMOVED: {first} be out of service at once{more}. Look for one cause. Where the nodes really are "
        f"broken, say so: -e gpugate_approved_removals={run_id}"
    )


def _line(text: str) -> str:
    return shortened(one_line(text), _WIDTH)
