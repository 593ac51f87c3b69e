"""The first-order fit: its interval holds the truth, and it says when it cannot know."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from gpugate.evidence.facts import Gap
from gpugate.evidence.types import SteadyState
from gpugate.probe.burn.fit import Point, estimate, settle

RATE_HZ = 11


def rise(
    steady: float, start: float, tau: float, seconds: float, *, noise: float = 0.0, seed: int = 0, sensor: str = "round"
) -> list[Point]:
    """Samples of a sensor in whole degrees on the way from `start` to `steady`."""
    random_source = random.Random(seed)  # noqa: S311  # repeatable noise
    steps: dict[str, Callable[[float], float]] = {"round": round, "floor": math.floor, "exact": float}
    points = []
    for i in range(int(seconds * RATE_HZ)):
        t = i / RATE_HZ
        value = steady + (start - steady) * math.exp(-t / tau) + random_source.gauss(0, noise)
        points.append((t, float(steps[sensor](value))))
    return points


@pytest.mark.parametrize("sensor", ["round", "floor"])
@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("seconds", [20, 45, 120])
def test_interval_holds_the_truth(seconds: float, noise: float, sensor: str) -> None:
    """Of the predictions that are given at all, at least 90% hold the true steady state in their 95% interval."""
    held = given = 0
    for seed in range(40):
        random_source = random.Random(1000 + seed)  # noqa: S311
        steady, start, tau = random_source.uniform(50, 95), random_source.uniform(28, 40), random_source.uniform(8, 25)
        found = settle(rise(steady, start, tau, seconds, noise=noise, seed=seed, sensor=sensor))
        if isinstance(found, SteadyState):
            given += 1
            held += found.low <= steady <= found.high
    assert given >= 10
    assert held >= 0.9 * given


def test_long_series_settle_on_the_value() -> None:
    """Five time constants of a sensor in whole degrees give the steady state, tau and a narrow interval."""
    found = settle(rise(67.3, 29.0, 12.0, 60))
    assert isinstance(found, SteadyState)
    assert found.value == pytest.approx(67.3, abs=0.6)
    assert found.tau_s == pytest.approx(12.0, rel=0.1)
    assert found.high - found.low < 2.5
    assert found.rms < 0.5


def test_interval_is_no_narrower_than_the_sensor_s_step() -> None:
    """However many samples there are, the interval spans at least the one degree that the sensor counts in."""
    found = settle(rise(67.3, 29.0, 8.0, 300, noise=0.5))
    assert isinstance(found, SteadyState)
    assert found.high - found.low >= 1.0


def test_falling_series_settle_too() -> None:
    """Degrees below slowdown fall while the card heats; the fit does not care for the direction."""
    found = settle([(t, 87 - value) for t, value in rise(70.0, 30.0, 10.0, 50)])
    assert isinstance(found, SteadyState)
    assert found.low <= 17.0 <= found.high


@pytest.mark.parametrize("seed", range(10))
def test_less_than_a_time_constant_is_no_prediction(seed: int) -> None:
    """A rise seen for a third of its time constant is never called settled."""
    assert isinstance(settle(rise(80.0, 30.0, 60.0, 20, noise=0.2, seed=seed)), Gap)


def test_straight_line_has_no_steady_state_in_sight() -> None:
    """A temperature that climbs steadily is not extrapolated."""
    found = settle([(t / 10, 30.0 + t / 20) for t in range(400)])
    assert isinstance(found, Gap)
    assert "steady" in found.unavailable or "time constant" in found.unavailable


def test_stuck_sensor_is_no_steady_state() -> None:
    """A sensor that never moves under load is called stuck, not settled."""
    found = settle([(t / 10, 45.0) for t in range(600)])
    assert isinstance(found, Gap)
    assert "stuck" in found.unavailable


def test_too_few_samples_are_said_to_be_too_few() -> None:
    """A handful of samples gives a Gap that counts them."""
    found = settle(rise(70.0, 30.0, 5.0, 1))
    assert isinstance(found, Gap)
    assert "11 samples" in found.unavailable


def test_no_samples_are_a_gap() -> None:
    """An empty series is a Gap, not an exception."""
    assert isinstance(settle([]), Gap)


@pytest.mark.parametrize("seed", range(8))
def test_slow_heat_sink_behind_a_quick_die_is_not_overlooked(seed: int) -> None:
    """Where a second, slower time constant hides below the first, the short burn does not claim the early plateau."""
    random_source = random.Random(seed)  # noqa: S311
    points = []
    for i in range(20 * RATE_HZ):
        t = i / RATE_HZ
        value = 30 + 20 * (1 - math.exp(-t / 2)) + 30 * (1 - math.exp(-t / 80)) + random_source.gauss(0, 0.3)
        points.append((t, float(round(value))))
    found = estimate(points)
    assert isinstance(found, Gap) or found.unsettled is not None or found.state.high >= 80.0 or found.state.rms > 1.0


def test_whole_life_of_a_burn_gives_no_overconfident_stop() -> None:
    """Refitted while it goes on, a burn towards 3 C inside the bound is never once seen wholly outside of it."""
    for seed in range(6):
        points = rise(79.0, 30.0, 15.0, 60, noise=0.4, seed=seed)
        for seconds in range(10, 60, 5):
            found = settle(points[: seconds * RATE_HZ])
            assert isinstance(found, Gap) or found.low <= 82.0
