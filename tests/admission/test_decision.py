"""The decision table, cell by cell, and what holds for all of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from typing import Any, get_args

import pytest
from cases import GPUS, IDENTITY, LEVELS, NOW, case, cells, report
from gpugate.admission import Action, Case, History, Present, Standing, Word, decide
from gpugate.admission.standing import NEW
from gpugate.policy import Level, Waiver
from gpugate.report.reader import Cell, HostCells, Report
from gpugate.verdict import Outcome
from hypothesis import given, settings
from hypothesis import strategies as st

FAIL, ERROR, MISSING, WAIVED = Outcome.FAIL, Outcome.ERROR, Outcome.MISSING, Outcome.WAIVED
ADMIT, KEEP, STAY_OUT, REMOVE, HOLD = Action.ADMIT, Action.KEEP, Action.STAY_OUT, Action.REMOVE, Action.HOLD
SUSPECT = Action.SUSPECT


def without(name: str) -> dict[str, str]:
    """The report's identity without one property."""
    return {key: value for key, value in IDENTITY.items() if key != name}


def other(name: str) -> dict[str, str]:
    """The report's identity with one property changed."""
    return IDENTITY | {name: "other"}


# what the report and the node are like, what happens outside and inside, and what the reason has to say
TABLE: dict[str, tuple[dict[str, Any], Action, Action, str]] = {
    "green": ({}, ADMIT, KEEP, "all 2 checks that count are green"),
    "FAIL that may evict": ({"report": report(cells(thermal_headroom=FAIL))}, STAY_OUT, REMOVE, "headroom FAIL"),
    "FAIL that may not": ({"report": report(cells(errors_ecc=FAIL))}, STAY_OUT, HOLD, "errors.ecc FAIL"),
    "ERROR": ({"report": report(cells(thermal_headroom=ERROR))}, STAY_OUT, HOLD, "headroom ERROR"),
    "MISSING": ({"report": report(cells(thermal_headroom=MISSING))}, STAY_OUT, HOLD, "headroom MISSING"),
    "no cell": ({"report": report(cells(thermal_headroom=None))}, STAY_OUT, HOLD, "report does not have it"),
    "no host": ({"report": report(hosts={})}, STAY_OUT, HOLD, "does not have this host"),
    "red and only observed": ({"report": report(cells(host_clock=FAIL))}, ADMIT, KEEP, "only observed: host.clock"),
    "FAIL and ERROR": (
        {"report": report(cells(thermal_headroom=FAIL, errors_ecc=ERROR))}, STAY_OUT, REMOVE, "errors.ecc ERROR"),
    "waived by nobody": ({"report": report(cells(errors_ecc=WAIVED))}, STAY_OUT, HOLD, "no live waiver"),
    "unexpected red": ({"report": report(cells(site_extra=FAIL))}, STAY_OUT, HOLD, "does not expect this check"),
    "unexpected green": ({"report": report(cells(site_extra=Outcome.PASS))}, ADMIT, KEEP, "green"),
    "nothing expected": ({"expected": {}}, STAY_OUT, HOLD, "expects no check"),
    "stale": ({"report": report(started=NOW - timedelta(hours=2))}, STAY_OUT, HOLD, "2.0 h old"),
    "measured long ago": (
        {"report": report(identity=IDENTITY | {"measured_unix_s": "1000.0"})}, STAY_OUT, HOLD, "the measurement is"),
    "measured no time": (
        {"report": report(identity=IDENTITY | {"measured_unix_s": "noon"})}, STAY_OUT, HOLD, "'noon'"),
    "measured nan": ({"report": report(identity=IDENTITY | {"measured_unix_s": "nan"})}, STAY_OUT, HOLD, "nan"),
    "never said when": ({"report": report(identity=without("measured_unix_s"))}, STAY_OUT, HOLD, "does not say when"),
    "from the future": ({"report": report(started=NOW + timedelta(minutes=1))}, STAY_OUT, HOLD, "in the future"),
    "partial": ({"report": report(scope="partial", partial_because="-k x")}, STAY_OUT, HOLD, "partial (-k x)"),
    "other policy": ({"policy_digest": "d-2"}, STAY_OUT, HOLD, "another policy"),
    "policy unnamed": ({"report": report(identity=without("policy_digest"))}, STAY_OUT, HOLD, "another policy"),
    "other machine": ({"report": report(identity=other("machine_id"))}, STAY_OUT, HOLD, "another machine"),
    "rebooted": ({"present": Present("m-1", "b-2", GPUS)}, STAY_OUT, HOLD, "rebooted"),
    "other GPUs": ({"present": Present("m-1", "b-1", frozenset({"GPU-a"}))}, STAY_OUT, HOLD, "other GPUs"),
    "other driver": (
        {"present": Present("m-1", "b-1", GPUS, driver="2"), "report": report(identity=IDENTITY | {"driver": "1"})},
        STAY_OUT, HOLD, "another driver"),
    "same driver": (
        {"present": Present("m-1", "b-1", GPUS, driver="1"), "report": report(identity=IDENTITY | {"driver": "1"})},
        ADMIT, KEEP, "green"),
    "driver not known now": ({"present": Present("m-1", "b-1", GPUS, "lost", None)}, STAY_OUT, HOLD, "which driver"),
    "driver not known then": ({"present": Present("m-1", "b-1", GPUS, driver="580.1")}, STAY_OUT, HOLD, "which driver"),
    "unreachable": ({"present": Present(problem="no route")}, STAY_OUT, HOLD, "no route"),
    "GPUs not known now": ({"present": Present("m-1", "b-1", None, "GPU is lost")}, STAY_OUT, HOLD, "GPU is lost"),
    "no GPUs now": ({"present": Present("m-1", "b-1", frozenset())}, STAY_OUT, HOLD, "which GPUs"),
    "boot not known then": ({"report": report(identity=without("boot_id"))}, STAY_OUT, HOLD, "as it was measured"),
    "FAIL, and unreachable": (
        {"report": report(cells(thermal_headroom=FAIL)), "present": Present(problem="no route")},
        STAY_OUT, HOLD, "no route"),
    "FAIL, and rebooted": (
        {"report": report(cells(thermal_headroom=FAIL)), "present": Present("m-1", "b-2", GPUS)},
        STAY_OUT, HOLD, "rebooted"),
    "FAIL, and partial": (
        {"report": report(cells(thermal_headroom=FAIL), scope="partial", partial_because="-x")},
        STAY_OUT, HOLD, "partial"),
    "FAIL, and stale": (
        {"report": report(cells(thermal_headroom=FAIL), started=NOW - timedelta(hours=2))}, STAY_OUT, HOLD, "old"),
    "FAIL, and the GPU is gone": (
        {"report": report(cells(thermal_headroom=FAIL), identity=without("gpu_uuids")),
         "present": Present("m-1", "b-1", None, "GPU is lost")},
        STAY_OUT, REMOVE, "headroom FAIL"),
    "nightly and green": ({"report": report(profile="nightly")}, STAY_OUT, KEEP, ""),
    "nightly and FAIL": (
        {"report": report(cells(thermal_headroom=FAIL), profile="nightly")}, STAY_OUT, REMOVE, "headroom FAIL"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_outside(name: str) -> None:
    """A node outside comes in only when everything is green and proven; the reason says what is not."""
    changes, outside, _, reason = TABLE[name]
    decision = decide(case(False, **changes))
    assert decision.action is outside, decision.reasons
    assert reason in "; ".join(decision.reasons)


@pytest.mark.parametrize("name", TABLE)
def test_inside(name: str) -> None:
    """A node inside leaves only for a proven FAIL that may evict; the reason says what is wrong or not known."""
    changes, _, inside, reason = TABLE[name]
    decision = decide(case(True, **changes))
    assert decision.action is inside, decision.reasons
    assert reason in "; ".join(decision.reasons)


@pytest.mark.parametrize("name", TABLE)
def test_unknown_service_is_held(name: str) -> None:
    """Where the back end cannot tell whether a node is in service, nothing is done to it."""
    decision = decide(case(None, **TABLE[name][0]))
    assert decision.action is HOLD
    assert "cannot tell" in "; ".join(decision.reasons)


AGO = NOW - timedelta(minutes=1)
HELD = Word("hold", "ada", "swapping a fan", "OPS-7", AGO, NOW + timedelta(hours=1))
RELEASED = replace(HELD, kind="release", why="false alarm")
BAD = {"report": report(cells(thermal_headroom=FAIL))}
GAPS = {"report": report(cells(errors_ecc=ERROR))}

# what is known of the node beside its report, where it stands, what happens, and what the first reason has to say
BESIDE: dict[str, tuple[dict[str, Any], Standing, Action, str]] = {
    "drained by somebody": ({}, Standing(False, owner="root: disk"), STAY_OUT, "not gpugate's to let in: root: disk"),
    "upgrade under way": ({}, Standing(False, busy="driver upgrade"), STAY_OUT, "not now: driver upgrade"),
    "bad, upgrade under way": (BAD, Standing(True, busy="driver upgrade"), HOLD, "but not now: driver upgrade"),
    "held outside": ({"word": HELD}, Standing(False), STAY_OUT, "held by ada until"),
    "held inside, and bad": (BAD | {"word": HELD}, Standing(True), HOLD, "swapping a fan"),
    "held inside, and good": ({"word": HELD}, Standing(True), KEEP, "green"),
    "released, and bad": (BAD | {"word": RELEASED}, Standing(True), HOLD, "released by ada"),
    "released outside, and bad": (BAD | {"word": RELEASED}, Standing(False), STAY_OUT, "headroom FAIL"),
    "released outside, and good": ({"word": RELEASED}, Standing(False), ADMIT, "green"),
    "first green after removal": ({"greens_to_return": 2}, Standing(False, removed=True), STAY_OUT, "1 green report"),
    "second green after removal": (
        {"greens_to_return": 2, "history": History("2026", 1, 0, True)}, Standing(False), ADMIT, "green"),
    "the same green twice": (
        {"greens_to_return": 2, "history": History(report().run_id, 1, 0, True)}, Standing(False), STAY_OUT, "1 green"),
    "new node": ({"greens_to_return": 2}, Standing(False), ADMIT, "green"),
    "older than another": ({"history": History("2027", 5)}, Standing(False), STAY_OUT, "by a newer report already"),
    "bad, older than another": (BAD | {"history": History("2027")}, Standing(True), HOLD, "by a newer report already"),
    "older than the removal": ({}, Standing(False, removed=True, since=AGO), STAY_OUT, "begun before the node was"),
    "second gap": (GAPS | {"history": History("2026", 0, 1)}, Standing(True), HOLD, "errors.ecc ERROR"),
    "third gap": (GAPS | {"history": History("2026", 0, 2)}, Standing(True), SUSPECT, "for 3 runs in a row"),
    "third gap, the same run": (
        GAPS | {"history": History(report().run_id, 0, 2)}, Standing(True), HOLD, "errors.ecc ERROR"),
    "third gap, outside": (GAPS | {"history": History("2026", 0, 2)}, Standing(False), STAY_OUT, "errors.ecc ERROR"),
}  # fmt: skip


@pytest.mark.parametrize("name", BESIDE)
def test_beside_the_report(name: str) -> None:
    """Owners, people's words, maintenance and earlier runs count as they should, and are said first."""
    changes, standing, action, reason = BESIDE[name]
    decision = decide(case(**{"standing": standing} | changes))
    assert decision.action is action, decision.reasons
    assert any(reason in said for said in decision.reasons[:2])


@pytest.mark.parametrize(
    ("changes", "before", "after"),
    [
        ({}, History("2026", 1, 2), (2, 0)),
        (BAD, History("2026", 1, 2), (0, 0)),
        (GAPS, History("2026", 1, 2), (0, 3)),
        ({"report": report(hosts={})}, History("2026", 1, 2), (0, 3)),
        ({"present": Present(problem="no route")}, History("2026", 1, 2), (0, 3)),
        ({"report": report(profile="nightly")}, History("2026", 1, 2), (1, 0)),
        ({}, History("2027", 1, 2), (1, 2)),
    ],
)
def test_what_the_next_run_has_to_know(changes: dict[str, Any], before: History, after: tuple[int, int]) -> None:
    """Green admission reports and runs without a result are counted in a row, each run once, none from the past."""
    history = decide(case(True, history=before, **changes)).history
    assert (history.greens, history.unproven) == after
    assert history.last_run == max(before.last_run, report().run_id)


def test_a_partial_run_is_no_newer_report() -> None:
    """Whoever shows the gate a partial report has not made the whole one before it worthless."""
    partial = report(cells(thermal_headroom=FAIL), scope="partial", partial_because="-k x")
    assert decide(case(True, report=partial, history=History("2026", 1, 2))).history == History("2026", 1, 2)


def test_only_admission_lets_in() -> None:
    """A green nightly report names the reason why it does not admit."""
    assert "only admission lets a node in" in decide(case(report=report(profile="nightly"))).reasons[0]


@pytest.mark.parametrize(
    ("changes", "action"),
    [
        ({}, ADMIT),
        ({"check": "errors.xid"}, STAY_OUT),
        ({"host": "gpu1"}, STAY_OUT),
        ({"expires": NOW.date()}, ADMIT),
        ({"expires": date(2026, 2, 28)}, STAY_OUT),
    ],
)
def test_waivers_are_policys(changes: dict[str, Any], action: Action) -> None:
    """A waived cell counts only under a waiver of the policy for that host and check that still holds."""
    known: dict[str, Any] = {
        "check": "errors.*",
        "host": "gpu0",
        "who": "Ada",
        "why": "x",
        "ticket": "T",
        "expires": date(2026, 4, 1),
    }
    decision = decide(case(report=report(cells(errors_ecc=WAIVED)), waivers=(Waiver(**known | changes),)))
    assert decision.action is action


@pytest.mark.parametrize(("in_service", "changed", "would"), [
    (False, {}, ADMIT), (False, {"errors_ecc": FAIL}, STAY_OUT), (True, {}, KEEP),
    (True, {"errors_ecc": FAIL}, REMOVE), (True, {"errors_ecc": ERROR}, HOLD),
])  # fmt: skip
def test_observe_does_nothing(in_service: bool, changed: dict[str, Outcome], would: Action) -> None:
    """Where policy only observes, nothing is done, and the decision says what would be."""
    levels: dict[str, Level] = dict.fromkeys(LEVELS, "observe")
    decision = decide(case(in_service, expected=levels, report=report(cells(**changed))))
    assert (decision.action, decision.would) == (Action.OBSERVE, would)
    assert not decision.action.changes


@pytest.mark.parametrize(
    ("changes", "healthy"),
    [
        ({}, True),
        ({"standing": Standing(False, owner="root")}, True),
        ({"report": report(cells(thermal_headroom=FAIL))}, False),
        ({"report": report(cells(errors_ecc=FAIL))}, False),
        ({"report": report(cells(errors_ecc=ERROR))}, None),
        ({"report": report(cells(thermal_headroom=FAIL), started=NOW - timedelta(hours=2))}, None),
        ({"report": report(cells(thermal_headroom=FAIL)), "present": Present(None, None, None, "down")}, None),
        ({"expected": dict.fromkeys(LEVELS, "observe"), "report": report(cells(thermal_headroom=FAIL))}, False),
    ],
)
def test_health_is_what_is_proven(changes: dict[str, Any], healthy: bool | None) -> None:
    """A node is healthy or at fault only where the report proves it of the node as it is now, whoever keeps it out."""
    assert decide(case(True, **changes)).healthy is healthy


def test_weightiest_reason_comes_first() -> None:
    """What removes a node is said before what is merely not known."""
    decision = decide(case(True, report=report(cells(thermal_headroom=FAIL, errors_ecc=ERROR, host_clock=FAIL))))
    assert [reason.split(":")[0] for reason in decision.reasons] == [
        "thermal.headroom FAIL", "errors.ecc ERROR", "only observed"]  # fmt: skip


CHECKS = ["a.a", "b.b", "c.c"]
identities = st.fixed_dictionaries(
    {},
    optional={name: st.sampled_from([value, "other", ""]) for name, value in IDENTITY.items()},
)
some_cells = st.dictionaries(st.sampled_from([*CHECKS, "x.x"]), st.builds(Cell, st.sampled_from(Outcome)))
reports = st.builds(
    Report,
    sha256=st.just("5ha"),
    run_id=st.just("run"),
    started=st.sampled_from([NOW - timedelta(minutes=10), NOW - timedelta(days=2), NOW + timedelta(days=1)]),
    profile=st.sampled_from(["admission", "nightly", "quick"]),
    scope=st.sampled_from(["whole", "partial"]),
    partial_because=st.just("-k"),
    hosts=st.dictionaries(st.sampled_from(["gpu0", "gpu1"]), st.builds(HostCells, identities, some_cells)),
)
presents = st.builds(
    Present,
    st.sampled_from(["m-1", None, "other"]),
    st.sampled_from(["b-1", None, "other"]),
    st.sampled_from([GPUS, None, frozenset(), frozenset({"GPU-c"})]),
)
waivers = st.lists(
    st.builds(Waiver, check=st.sampled_from(CHECKS), host=st.sampled_from(["gpu0", "gpu1"]), who=st.just("Ada"),
              why=st.just("x"), ticket=st.just("T"), expires=st.sampled_from([date(2026, 2, 1), date(2027, 1, 1)])),
    max_size=2,
).map(tuple)  # fmt: skip
standings = st.builds(
    Standing, st.booleans(), owner=st.sampled_from(["", "root"]), busy=st.sampled_from(["", "upgrade"]),
    removed=st.booleans(), since=st.sampled_from([None, NOW - timedelta(days=1), NOW - timedelta(minutes=1)]),
)  # fmt: skip
histories = st.builds(
    History,
    st.sampled_from(["", "2026", report().run_id, "2027"]),
    st.integers(0, 3),
    st.integers(0, 3),
    st.booleans(),
)
near = st.builds(  # mostly what a good report has, so that the interesting corners are reached
    case,
    standing=st.one_of(st.sampled_from([Standing(True), Standing(False), None]), standings),
    history=st.one_of(st.just(NEW), histories),
    word=st.sampled_from([None, None, HELD, RELEASED]),
    greens_to_return=st.integers(1, 3),
    expected=st.dictionaries(st.sampled_from(CHECKS), st.sampled_from(get_args(Level))),
    waivers=waivers,
    report=st.one_of(
        reports,
        some_cells.map(report),
        st.just(dict.fromkeys(CHECKS, Cell(Outcome.PASS))).map(report),
        st.builds(report, st.fixed_dictionaries({c: st.builds(Cell, st.sampled_from(Outcome)) for c in CHECKS})),
    ),
    present=st.one_of(st.just(Present("m-1", "b-1", GPUS)), presents),
)


def green(node: Case, check: str) -> bool:
    """Whether a cell is green by the letter of the rule, worked out apart from the code under test."""
    suite = node.report.hosts.get(node.host)
    cell = suite.cells.get(check) if suite else None
    if cell is None or cell.outcome in (FAIL, ERROR, MISSING):
        return False
    live = [w for w in node.waivers if w.check == check and w.host == "gpu0" and w.expires >= NOW.date()]
    return cell.outcome is Outcome.PASS or bool(live)


@settings(max_examples=500, deadline=None)
@given(near)
def test_nothing_missing_unknown_or_red_is_ever_admitted(node: Case) -> None:
    """Whoever is admitted was outside, and has a whole, fresh admission report of this node, all green."""
    if decide(node).action is not ADMIT:
        return
    assert node.standing is not None
    assert (node.standing.inside, node.standing.owner, node.standing.busy) == (False, "", "")
    assert node.word is not HELD
    assert node.report.run_id >= node.history.last_run
    if node.standing.removed or node.history.removed:
        assert node.greens_to_return <= node.history.greens + (node.report.run_id > node.history.last_run)
    assert (node.report.profile, node.report.scope) == ("admission", "whole")
    assert timedelta(0) <= NOW - node.report.started <= timedelta(hours=1)
    assert node.report.hosts["gpu0"].identity == IDENTITY
    assert node.present == Present("m-1", "b-1", GPUS)
    assert any(level != "observe" for level in node.expected.values())
    assert all(green(node, check) for check, level in node.expected.items() if level != "observe")


@settings(max_examples=500, deadline=None)
@given(near)
def test_no_lack_of_evidence_ever_removes(node: Case) -> None:
    """Whoever is removed was inside, and has a FAIL at level evict, measured on this boot of this machine."""
    if decide(node).action is not REMOVE:
        return
    assert node.standing is not None
    assert node.standing.inside
    assert not node.standing.busy
    assert node.word is None
    assert node.report.run_id >= node.history.last_run
    assert node.report.scope == "whole"
    assert timedelta(0) <= NOW - node.report.started <= timedelta(hours=1)
    suite = node.report.hosts["gpu0"]
    assert [
        c for c, level in node.expected.items() if level == "evict" and suite.cells.get(c, Cell(ERROR)).outcome is FAIL
    ]
    assert (node.present.machine_id, node.present.boot_id) == ("m-1", "b-1")
    assert {k: v for k, v in suite.identity.items() if k != "gpu_uuids"} == without("gpu_uuids")


@settings(max_examples=300, deadline=None)
@given(near)
def test_red_is_never_kept_silently(node: Case) -> None:
    """A node stays inside without an alert only when it would also have been green enough to come in by this report."""
    if decide(node).action is KEEP:
        fresh = replace(node, standing=Standing(False), history=NEW, word=None)
        outside = decide(replace(fresh, report=replace(node.report, profile="admission")))
        assert outside.action is ADMIT


@settings(max_examples=300, deadline=None)
@given(near)
def test_every_decision_has_a_reason(node: Case) -> None:
    """No node is left without a sentence that says why."""
    decision = decide(node)
    assert decision.reasons
    assert all(reason.strip() for reason in decision.reasons)
