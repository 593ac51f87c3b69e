"""expect and judge: findings say their rule, and nothing passes by default."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from gpugate.evidence.facts import Gap
from gpugate.verdict import Expect, Gathered, Outcome, Verdict, judge, traced
from healthy import healthy, policy, with_fact

TODAY = date(2026, 9, 21)


def judged(function: Callable[..., None], evidence: Any = None, **changes: Any) -> Verdict:
    owner = policy(checks={"site.it": "admit"}, **changes)
    return judge("site.it", function, Gathered("gpu0", evidence or healthy(), None, "n"), owner, TODAY)


@pytest.mark.parametrize(
    ("record", "good"),
    [
        (lambda e: e("x", 650.5).within(650, 1, "W"), True),
        (lambda e: e("x", 651.1).within(650, 1, "W"), False),
        (lambda e: e("x", math.nan).within(650, 1, "W"), False),
        (lambda e: e("x", math.inf).at_least(1), False),
        (lambda e: e("x", None).at_least(1), False),
        (lambda e: e("x", True).at_least(1), False),
        (lambda e: e("x", "5").at_most(9), False),
        (lambda e: e("x", 5).at_most(5), True),
        (lambda e: e("x", 1).equals(True), False),
        (lambda e: e("x", True).equals(True), True),
        (lambda e: e("x", 5).equals(5.0), True),
        (lambda e: e("x", None).equals(0), False),
        (lambda e: e("x", "a").one_of([]), False),
        (lambda e: e("x", "a").one_of(["a", "b"]), True),
        (lambda e: e("x", []).none(), True),
        (lambda e: e("x", ["pid 7"]).none(), False),
        (lambda e: e("x", [""]).none(), False),
        (lambda e: e("x", 1).holds(1, "odd"), False),
        (lambda e: e("x", 1).holds(True, "odd"), True),
    ],
)
def test_rules(record: Callable[[Expect], None], good: bool) -> None:
    """A rule holds only for a real value inside its bounds: no NaN, None, text or truth value passes for a number."""
    recorder = Expect()
    record(recorder)
    assert [finding.ok for finding in recorder.findings] == [good]


def test_finding_prints_its_own_rule() -> None:
    """A red verdict says value, unit, bound, where the bound comes from, which GPU, and what to do."""

    def check(node: Any, policy: Any, expect: Expect) -> None:
        for gpu in node.gpus:
            expect("requested limit", gpu.power.limit_w, at=gpu).within(policy.requested_power_w, 1, "W", next="fix it")

    said = judged(check, with_fact(healthy(), "gpus.3.power.limit_w", 700.0)).headline
    gpu = healthy().gpus[3]
    assert said == (
        f"GPU 3 ({gpu.uuid}, serial {gpu.serial}, {gpu.bus_id}): requested limit is 700 W, outside: has to be "
        "650 +/- 1 W [policy gpugate_power_limit_w]; next: fix it"
    )


def test_origins_are_found_once_a_policy() -> None:
    """A policy whose values know their variables is made once, and says the same as one made anew."""
    mine = policy()
    assert traced(mine) is traced(mine)
    for name in ("headroom_c", "requested_power_w", "reference", "driver_allowed", "persistence"):
        first, again, anew = (getattr(traced(of), name) for of in (mine, mine, policy()))
        assert first is again
        assert (first, getattr(first, "origin", None)) == (anew, getattr(anew, "origin", None))
        assert type(first) is type(anew)


def test_every_bad_gpu_is_named() -> None:
    """A check goes on after a bad GPU, so that one run names all of them."""

    def check(node: Any, policy: Any, expect: Expect) -> None:
        for gpu in node.gpus:
            expect("x", gpu.index, at=gpu).at_most(5)

    assert [finding.gpu.index for finding in judged(check).bad if finding.gpu] == [6, 7]


def test_check_without_findings_is_an_error() -> None:
    """A check that looked at nothing proves nothing."""
    assert judged(lambda node, policy, expect: None).outcome is Outcome.ERROR


def test_check_that_breaks_is_an_error() -> None:
    """An exception in a check is an ERROR that names it, even after a good finding."""

    def check(node: Any, policy: Any, expect: Expect) -> None:
        expect("x", 1).equals(1)
        raise ZeroDivisionError("oops")

    verdict = judged(check)
    assert verdict.outcome is Outcome.ERROR
    assert "ZeroDivisionError: oops" in verdict.headline


def test_measured_thing_without_a_rule_is_an_error() -> None:
    """Naming what was measured and forgetting its rule judges nothing, whatever else the check found good."""

    def check(node: Any, policy: Any, expect: Expect) -> None:
        expect("x", 1).equals(1)
        expect("temperature", 999)

    verdict = judged(check)
    assert verdict.outcome is Outcome.ERROR
    assert verdict.headline == "the check names temperature and has no rule for it"


@pytest.mark.parametrize("stop", [pytest.skip, pytest.fail, pytest.xfail, pytest.exit, sys.exit])
def test_check_that_skips_or_exits_is_an_error(stop: Callable[[str], None]) -> None:
    """Leaving a check by skip, fail, xfail or exit is an ERROR, and never the end of the run."""

    def check(node: Any, policy: Any, expect: Expect) -> None:
        expect("x", 1).equals(1)
        stop("enough")

    verdict = judged(check)
    assert verdict.outcome is Outcome.ERROR
    assert "enough" in verdict.headline


def test_failure_outranks_a_later_gap() -> None:
    """What was measured outside its bounds stays said when a later GPU cannot be read."""

    def check(node: Any, policy: Any, expect: Expect) -> None:
        for gpu in node.gpus:
            expect("limit", gpu.power.limit_w, at=gpu).at_most(600)

    verdict = judged(check, with_fact(healthy(), "gpus.7.power.limit_w", Gap("lost", 15)))
    assert verdict.outcome is Outcome.FAIL
    assert "limit_w could not be measured: lost" in verdict.headline


def test_unjudged_gpu_is_an_error() -> None:
    """A check that leaves out a GPU has not passed."""

    def check(node: Any, policy: Any, expect: Expect) -> None:
        for gpu in node.gpus[:7]:
            expect("x", 1, at=gpu).equals(1)

    assert "only 7 of the 8" in judged(check).headline


def test_waiver_turns_red_into_waived_and_keeps_the_cause() -> None:
    """A live waiver makes FAIL and ERROR green but leaves them readable; MISSING cannot be waived."""
    from gpugate.errors import NotGathered

    waiver = {
        "check": "site.it",
        "host": "gpu0",
        "who": "ann",
        "why": "known",
        "ticket": "OPS-1",
        "expires": "2026-12-01",
    }

    def bad(node: Any, policy: Any, expect: Expect) -> None:
        expect("x", 1).equals(2)

    verdict = judged(bad, waivers=[waiver])
    assert verdict.outcome is Outcome.WAIVED
    assert verdict.outcome.green
    assert "without it FAIL: x is 1" in verdict.headline
    owner = policy(checks={"site.it": "admit"}, waivers=[waiver])
    gone = judge("site.it", bad, Gathered("gpu0", None, NotGathered("down")), owner, TODAY)
    assert gone.outcome is Outcome.MISSING


def test_marginal_is_green_and_visible() -> None:
    """A value near its bound passes, and says so."""

    def check(node: Any, policy: Any, expect: Expect) -> None:
        expect("memory in use", 93.0).at_most(95.0, "%", comfortable=90.0)

    verdict = judged(check)
    assert verdict.outcome is Outcome.PASS
    assert verdict.marginal
    assert "marginal" in verdict.headline


def test_gap_on_one_gpu_hides_no_failure_on_another() -> None:
    """A GPU that cannot be read does not keep the check from finding the bad one after it; both are said."""

    def check(node: Any, policy: Any, expect: Expect) -> None:
        for gpu in node.gpus:
            expect("limit", gpu.power.limit_w, at=gpu).at_most(660)

    evidence = with_fact(healthy(), "gpus.5.power.limit_w", 700.0)
    for n in (0, 2):
        evidence = with_fact(evidence, f"gpus.{n}.power.limit_w", Gap("lost", 15))
    verdict = judged(check, evidence)
    assert verdict.outcome is Outcome.FAIL
    assert [finding.gpu.index for finding in verdict.bad if finding.gpu] == [5]
    assert verdict.reason.startswith("GPU 0 (")
    assert verdict.reason.endswith("limit_w could not be measured: lost (GPU 2 too)")
    assert len(verdict.findings) == 6


def test_gaps_alone_stay_an_error() -> None:
    """GPUs that cannot be read make an ERROR, however good the others are."""

    def check(node: Any, policy: Any, expect: Expect) -> None:
        for gpu in node.gpus:
            expect("limit", gpu.power.limit_w, at=gpu).at_most(660)

    verdict = judged(check, with_fact(healthy(), "gpus.*.power.limit_w", Gap("lost", 15)))
    assert verdict.outcome is Outcome.ERROR
    assert verdict.reason.endswith("lost (GPUs 1, 2, 3, 4, 5, 6, 7 too)")
