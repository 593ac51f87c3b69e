"""What to do with one node. Pure: everything that it looks at is in `Case`.

| node is | green | FAIL | ERROR or MISSING | stale, partial, other policy, boot or GPUs |
|---|---|---|---|---|
| outside | admit | stay out | stay out | stay out |
| inside | keep | remove, if the check may evict; else hold | hold; suspect after so many runs | the same |

Coming in needs proof of everything: a whole report of the admission profile, made by this policy, on this boot of this
machine with these GPUs, with every check that policy counts green; after a removal, so many such reports in a row.
Going out needs proof of one thing: a check that may evict FAILed, in a whole and fresh report about this boot of this
machine. What is merely not known never removes: the node is held, which is an alert and nothing else, or suspect, which
is a louder one. Whom somebody else took out, and whom a person holds, is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from ..policy import Level, Waiver
from ..report.reader import Cell, Report
from ..verdict import Outcome
from .standing import NEW, History, Standing, Word


class Action(StrEnum):
    """ADMIT and REMOVE change what the node is; HOLD is an alert about one that is inside, SUSPECT one about a node
    of which nothing could be told for several runs; OBSERVE does nothing because policy says only to look."""

    ADMIT = "admit"
    KEEP = "keep"
    STAY_OUT = "stay_out"
    REMOVE = "remove"
    HOLD = "hold"
    SUSPECT = "suspect"
    OBSERVE = "observe"

    @property
    def changes(self) -> bool:
        """Whether a back end has something to do."""
        return self in (Action.ADMIT, Action.REMOVE)


@dataclass(frozen=True)
class Present:
    """The node as it is now. What could not be learned is None, and `problem` says why.

    `driver` is empty where an older build of the probe does not tell it: then it is not compared.
    """

    machine_id: str | None = None
    boot_id: str | None = None
    gpu_uuids: frozenset[str] | None = None
    problem: str = ""
    driver: str | None = ""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One node to decide on.

    `expected` is what the node's policy expects under the report's profile, each check with its level; `waivers` are
    policy's. `report` is the whole report, of which only this host's suite is looked at. `standing` is None where
    the back end does not know. `twins` are other hosts that have a GPU of this one. `word` is a person's, while it is
    good. Ages are in seconds; `now` knows its time zone.
    """

    host: str
    expected: Mapping[str, Level]
    waivers: tuple[Waiver, ...]
    policy_digest: str
    max_age_s: float
    clock_skew_s: float
    report: Report
    present: Present
    standing: Standing | None
    now: datetime
    twins: tuple[str, ...] = ()
    history: History = NEW
    word: Word | None = None
    greens_to_return: int = 1
    suspect_after: int = 3


@dataclass(frozen=True)
class Decision:
    """What to do with a node, and why, in sentences, the weightiest first.

    `would` is set with OBSERVE alone. `checks` are the failed checks that a REMOVE goes by. `history` is what the next
    run has to know, before anything was carried out. `healthy` is what the report proves of the node as it is now,
    whatever is done about it: None where it proves neither.
    """

    host: str
    action: Action
    reasons: tuple[str, ...]
    standing: Standing | None
    would: Action | None = None
    checks: tuple[str, ...] = ()
    history: History = NEW
    healthy: bool | None = None

    @property
    def in_service(self) -> bool | None:
        """Whether the node was in service when this was decided; None where the back end could not tell."""
        return None if self.standing is None else self.standing.inside


@dataclass
class _Findings:
    """What speaks against a node: `foreign` against the report as a whole; `unmeasured` are checks that count and have
    no result, `unknown` is what else nobody could tell."""

    foreign: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    evicting: dict[str, str] = field(default_factory=dict)  # sentences by check
    red: list[str] = field(default_factory=list)
    unmeasured: list[str] = field(default_factory=list)
    observed: list[str] = field(default_factory=list)

    def all_but_observed(self) -> tuple[str, ...]:
        return (*self.evicting.values(), *self.foreign, *self.red, *self.unmeasured, *self.unknown)

    def all(self) -> tuple[str, ...]:
        return (*self.all_but_observed(), *self.observed)

    def add(self, outcome: Outcome, sentence: str) -> None:
        """Take in a cell that is not green, and does not evict."""
        (self.red if outcome is Outcome.FAIL else self.unmeasured).append(sentence)


def decide(case: Case) -> Decision:
    """The decision on one node."""
    if case.expected and set(case.expected.values()) == {"observe"}:
        would = decide(replace(case, expected=dict.fromkeys(case.expected, "evict")))
        note = "policy only observes this node (every check has the level observe), so nothing is done"
        return replace(would, action=Action.OBSERVE, reasons=(note, *would.reasons), would=would.action, checks=())
    found = _look(case)
    good = not found.all_but_observed()
    history = _history(case, found, good)
    if case.standing is None:
        action, first = Action.HOLD, ["the back end cannot tell whether the node is in service"]
    elif case.standing.inside:
        action, first = _inside(case, case.standing, found, good, history)
    else:
        action, first = _outside(case, case.standing, good, history)
    counted = sum(level != "observe" for level in case.expected.values())
    fine = [f"all {counted} checks that count are green in report {case.report.run_id}"] if good else []
    checks = tuple(found.evicting) if action is Action.REMOVE else ()
    reasons = (*first, *fine, *found.all())
    healthy = True if good else False if (found.evicting or found.red) and _proven(case, found) else None
    return Decision(case.host, action, reasons, case.standing, checks=checks, history=history, healthy=healthy)


def _outside(case: Case, stands: Standing, good: bool, history: History) -> tuple[Action, list[str]]:
    first = []
    if case.word is not None and case.word.kind == "hold":
        first.append(str(case.word))
    if stands.owner:
        first.append(f"not gpugate's to let in: {stands.owner}")
    if stands.busy:
        first.append(f"not now: {stands.busy}")
    if case.report.profile != "admission":
        first.append(f"the report is of the profile {case.report.profile}, and only admission lets a node in")
    if stands.since is not None and case.report.started < stands.since:
        first.append(f"the report was begun before the node was taken out ({_at(stands.since)}): run the checks again")
    removed = stands.removed or case.history.removed
    if good and removed and history.greens < case.greens_to_return:
        needed = f"{case.greens_to_return} (gpugate_greens_to_return)"
        first.append(f"{history.greens} green reports in a row since it was removed; it needs {needed}")
    return (Action.STAY_OUT if first or not good else Action.ADMIT), first


def _inside(case: Case, stands: Standing, found: _Findings, good: bool, history: History) -> tuple[Action, list[str]]:
    if good:
        return Action.KEEP, []
    if not (found.evicting and _proven(case, found)):
        if history.unproven >= case.suspect_after:
            return Action.SUSPECT, [f"nothing could be told of it for {history.unproven} runs in a row"]
        return Action.HOLD, []
    if case.word is not None:
        return Action.HOLD, [f"would be removed, but is {case.word}"]
    if stands.busy:
        return Action.HOLD, [f"would be removed, but not now: {stands.busy}"]
    return Action.REMOVE, []


def _proven(case: Case, found: _Findings) -> bool:
    """Whether the report tells something about this boot of this machine that may be acted on."""
    return not found.foreign and case.host in case.report.hosts and not _unknown_machine(case)


def _history(case: Case, found: _Findings, good: bool) -> History:
    """What earlier runs found and this one; a run counts once, however often the gate is asked about it, and a partial
    one, by which nobody is decided on, never."""
    before, run = case.history, case.report.run_id
    if run <= before.last_run or case.report.scope != "whole":
        return before
    if good:
        return replace(before, last_run=run, greens=before.greens + (case.report.profile == "admission"), unproven=0)
    gaps = bool(found.foreign or found.unmeasured or found.unknown)
    return replace(before, last_run=run, greens=0, unproven=before.unproven + 1 if gaps else 0)


def _look(case: Case) -> _Findings:
    found = _Findings()
    _report_as_a_whole(case, found)
    _identity(case, found)
    _cells(case, found)
    return found


def _report_as_a_whole(case: Case, found: _Findings) -> None:
    report = case.report
    if not case.expected:
        found.foreign.append(f"policy expects no check of this node under the profile {report.profile}")
    if report.scope != "whole":
        found.foreign.append(f"the report is partial ({report.partial_because}): run all checks on all hosts")
    if report.run_id < case.history.last_run:
        found.foreign.append(
            f"this node was decided on by a newer report already ({case.history.last_run}): an older one says nothing"
        )
    times = {"the report": report.started.timestamp()}
    if case.host in report.hosts and (measured := report.hosts[case.host].identity.get("measured_unix_s")):
        try:
            times["the measurement"] = float(measured)
        except ValueError:
            found.foreign.append(f"the report gives {measured!r} as the time of the measurement")
    for what, time in times.items():
        age = case.now.timestamp() - time
        if not age <= case.max_age_s:
            limit = f"{_hours(case.max_age_s)} (gpugate_report_max_age_s)"
            found.foreign.append(f"{what} is {_hours(age)} old, and policy allows {limit}: run the checks again")
        elif age < -case.clock_skew_s:
            found.foreign.append(f"{what} is {-age:.0f} s in the future: look at the clocks, then run the checks again")


def _identity(case: Case, found: _Findings) -> None:
    """Compare policy, machine, boot and GPUs of the report with what they are now."""
    if case.twins:
        found.foreign.append(
            f"{', '.join(case.twins)} has the same GPUs (their UUIDs): one machine answers for several hosts, so look "
            "at their addresses in the inventory, then run the checks again"
        )
    suite = case.report.hosts.get(case.host)
    if suite is None:
        return  # every cell is missing, and says so
    said, present = suite.identity, case.present
    digest = said.get("policy_digest")
    if digest != case.policy_digest:
        found.foreign.append(
            "the report was made by another policy for this node "
            f"({(digest or 'unnamed')[:12]} instead of {case.policy_digest[:12]}): run the checks again"
        )
    if "measured_unix_s" not in said:
        found.unknown.append("the report does not say when the node was measured")
    uuids = None if present.gpu_uuids is None else ",".join(sorted(present.gpu_uuids))
    now = {"machine_id": present.machine_id, "boot_id": present.boot_id, "gpu_uuids": uuids}
    if present.driver != "":
        now["driver"] = present.driver
    if silent := [_NAMES[name] for name, value in now.items() if not value]:
        why = f": {present.problem}" if present.problem else ""
        found.unknown.append(f"not known of the node as it is now: {', '.join(silent)}{why}")
    if silent := [_NAMES[name] for name in now if not said.get(name)]:
        found.unknown.append(f"not known of the node as it was measured: {', '.join(silent)}")
    for name, value in now.items():
        if value and said.get(name) and value != said[name]:
            found.foreign.append(_CHANGED[name])


def _cells(case: Case, found: _Findings) -> None:
    suite = case.report.hosts.get(case.host)
    if suite is None:
        found.unmeasured.append("MISSING: the report does not have this host: run the checks on it")
        return
    for check, level in sorted(case.expected.items()):
        outcome, sentence = _outcome(case, check, suite.cells.get(check))
        if outcome.green:
            continue
        if level == "observe":
            found.observed.append(f"only observed: {sentence}")
        elif level == "evict" and outcome is Outcome.FAIL:
            found.evicting[check] = sentence
        else:
            found.add(outcome, sentence)
    for check in sorted(suite.cells.keys() - case.expected.keys()):
        outcome, sentence = _outcome(case, check, suite.cells[check])
        if not outcome.green:
            found.add(outcome, f"{sentence} (policy does not expect this check of this node)")


def _outcome(case: Case, check: str, cell: Cell | None) -> tuple[Outcome, str]:
    """The outcome that counts: policy, and not the report, says whether a waiver holds."""
    if cell is None:
        return Outcome.MISSING, f"{check} MISSING: policy expects it, and the report does not have it"
    waived = any(waiver.covers(case.host, check, case.now.date()) for waiver in case.waivers)
    if cell.outcome is Outcome.WAIVED and not waived:
        return Outcome.ERROR, f"{check} ERROR: the report has it as waived, and policy has no live waiver for it"
    return cell.outcome, f"{check} {cell.outcome}: {cell.message}"


def _unknown_machine(case: Case) -> bool:
    """Whether it is open that the report is about this boot of this machine.

    A GPU that fell off the bus has no UUID to compare, and is what eviction is for: unknown GPUs are no excuse here,
    other GPUs are (`foreign`).
    """
    said = case.report.hosts[case.host].identity
    return not all((said.get("machine_id"), said.get("boot_id"), case.present.machine_id, case.present.boot_id,
                    said.get("measured_unix_s")))  # fmt: skip


_NAMES = {"machine_id": "which machine it is", "boot_id": "which boot it is on", "gpu_uuids": "which GPUs it has",
          "driver": "which driver it runs"}  # fmt: skip
_CHANGED = {
    "machine_id": "the report is about another machine (its machine id differs): run the checks again",
    "boot_id": "the node has been rebooted since the report (its boot id differs): run the checks again",
    "gpu_uuids": "the node has other GPUs than in the report (their UUIDs differ): run the checks again",
    "driver": "the node runs another driver than in the report (their versions differ): run the checks again",
}


def _at(time: datetime) -> str:
    return time.astimezone().isoformat(timespec="seconds")


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if abs(seconds) >= 3600 else f"{seconds:.0f} s"
