"""Predictions of simulated cards whose steady state is known, a third of the way to it: how near, and how honest.

`tools/measure_prediction.py` prints the same figures as a table.
"""

from __future__ import annotations

import pytest
from gpugate.evidence.facts import Gap
from gpugate.evidence.types import SteadyState
from gpugate.probe.burn.predict import decided, headroom, temperature
from heatsinks import FAMILIES, SETTLING, SLOWDOWN_C, Sink, burnt, drawn

NEVER_C = -1000.0  # a bound that no card is beyond: then the prediction is the fit's alone
BOUND_C = 5.0
NEAR_C = 1.5


def test_clean_cards_are_predicted_at_a_third_of_the_settling_time() -> None:
    """Of 500 cards from good to bad 90% and more are settled, within 1.5 C, and the 95% intervals hold the truth."""
    runs, settled, near, held = 500, 0, 0, 0
    for seed in range(runs):
        card = drawn("clean", seed)
        burn = burnt(card, SETTLING / 3 * card.tau, seed)
        found = headroom(burn.series, NEVER_C, over=False)
        if isinstance(found, Gap):
            continue
        truth = SLOWDOWN_C - burn.steady_c
        settled += 1
        near += abs(found.value - truth) <= NEAR_C
        held += found.low <= truth <= found.high
    assert settled >= 0.9 * runs
    assert near >= 0.95 * settled
    assert held >= 0.93 * settled


@pytest.mark.parametrize("time_constants", [1.1, SETTLING / 3, 3.0])
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "clean"])
def test_disturbed_cards_are_not_confidently_wrong(family: str, time_constants: float) -> None:
    """Whatever disturbs the burn, the interval holds the truth or there is no prediction, but for one card in 20."""
    runs, wrong = 20, 0
    for seed in range(runs):
        card = drawn(family, seed)
        burn = burnt(card, time_constants * card.tau, seed)
        found = temperature(burn.series, over=False)
        wrong += isinstance(found, SteadyState) and not found.low <= burn.steady_c <= found.high
    assert wrong <= 0.05 * runs


def test_most_disturbed_cards_are_predicted_in_the_end() -> None:
    """Honesty does not consist in saying nothing: after four time constants most have a prediction, near by."""
    for family in set(FAMILIES) - {"clean", "throttle", "seen fans"}:
        found = []
        for seed in range(10):
            card = drawn(family, 100 + seed)
            burn = burnt(card, 4 * card.tau, seed)
            told = temperature(burn.series, over=False)
            if isinstance(told, SteadyState):
                found.append(abs(told.value - burn.steady_c))
        assert len(found) >= 8, family
        assert sorted(found)[len(found) // 2] <= NEAR_C, family


def test_throttling_cards_are_beyond_the_bound() -> None:
    """A card that throttles in mid-burn is decided against, with the headroom that it would have at full power."""
    for seed in range(20):
        card = drawn("throttle", seed)
        burn = burnt(card, 4 * card.tau, seed)
        found = headroom(burn.series, BOUND_C, over=False)
        assert isinstance(found, SteadyState)
        assert decided(found, BOUND_C)
        assert found.high < BOUND_C
        assert found.low <= SLOWDOWN_C - burn.steady_c or found.value <= NEAR_C


def test_card_without_power_sensor_is_predicted_too() -> None:
    """Where the power is not known, the samples after the ramp lead to the same end."""
    for seed in range(10):
        card = Sink(tau=15.0, rise=30.0 + 2 * seed, noise=0.3, die=0.2)
        burn = burnt(card, 2.5 * card.tau, seed, power=False)
        found = temperature(burn.series, over=False)
        assert isinstance(found, SteadyState)
        assert found.low <= burn.steady_c <= found.high
        assert found.value == pytest.approx(burn.steady_c, abs=2 * NEAR_C)


@pytest.mark.parametrize("seed", range(5))
def test_sensor_that_sticks_in_mid_burn_is_no_prediction(seed: int) -> None:
    """A card whose sensor stops on its way up is neither fine nor settled."""
    card = Sink(tau=20.0, rise=60.0, noise=0.3, die=0.15, frozen_s=8.0 + 4 * seed)
    found = headroom(burnt(card, 70, seed).series, BOUND_C, over=True)
    assert isinstance(found, Gap)


def test_clear_cards_are_decided_early_and_near_ones_in_time() -> None:
    """20 C from the bound two time constants are enough, 3 C inside of it three."""
    for away, time_constants in ((20.0, 2.0), (3.0, 3.2)):
        for seed, tau in enumerate((10.0, 20.0, 40.0)):
            card = Sink(tau, 45.0, SLOWDOWN_C - BOUND_C - away - 45.0, noise=0.3, die=0.2)
            found = headroom(burnt(card, time_constants * tau, seed).series, BOUND_C, over=False)
            assert isinstance(found, SteadyState)
            assert decided(found, BOUND_C)
            assert found.low > BOUND_C
