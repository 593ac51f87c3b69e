"""The fit on made-up series whose steady state is known: what it says, and when it says that it cannot tell."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from gpugate.evidence.facts import Gap
from gpugate.probe.burn.fit import Estimate, Point, estimate

RATE_HZ = 11


def rise(
    steady: float, start: float, tau: float, seconds: float, *, noise: float = 0.0, seed: int = 0, sensor: str = "round"
) -> list[Point]:
    """Samples of a sensor in whole degrees on the way from `start` to `steady`."""
    random_source = random.Random(seed)  # noqa: S311  # repeatable noise
    steps: dict[str, Callable[[float], float]] = {"round": round, "floor": math.floor, "exact": float}
    points = []
    for i in range(1, int(seconds * RATE_HZ) + 1):
        t = i / RATE_HZ
        value = steady + (start - steady) * math.exp(-t / tau) + random_source.gauss(0, noise)
        points.append((t, float(steps[sensor](value))))
    return points


def settled(points: list[Point], load: list[float] | None = None, idle: float | None = None) -> Estimate:
    """The estimate of a series that has to have one."""
    found = estimate(points, load, idle)
    assert isinstance(found, Estimate)
    assert found.unsettled is None
    return found


def why_not(points: list[Point]) -> str:
    """Why a series leads to nothing."""
    found = estimate(points)
    why = found.unavailable if isinstance(found, Gap) else found.unsettled
    assert why is not None
    return why


@pytest.mark.parametrize("sensor", ["round", "floor"])
@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("seconds", [20, 45, 120])
def test_interval_holds_the_truth(seconds: float, noise: float, sensor: str) -> None:
    """Without power and idle reading too, at least 95% of the predictions that are given hold the true steady state."""
    held = given = 0
    for seed in range(20):
        random_source = random.Random(1000 + seed)  # noqa: S311
        steady, start, tau = random_source.uniform(50, 95), random_source.uniform(28, 40), random_source.uniform(8, 25)
        found = estimate(rise(steady, start, tau, seconds, noise=noise, seed=seed, sensor=sensor))
        assert isinstance(found, Estimate)
        if found.unsettled is None:
            given += 1
            held += found.state.low <= steady <= found.state.high
    assert given >= 8
    assert held >= 0.95 * given


def test_long_series_settle_on_the_value() -> None:
    """Five time constants of a sensor in whole degrees give the steady state, tau and a narrow interval."""
    state = settled(rise(67.3, 29.0, 12.0, 60), idle=29.0).state
    assert state.value == pytest.approx(67.3, abs=0.6)
    assert state.tau_s == pytest.approx(12.0, rel=0.15)
    assert state.high - state.low < 4
    assert state.rms < 0.5


def test_interval_is_no_narrower_than_the_sensor_s_step() -> None:
    """However many samples there are, the interval spans at least the one degree that the sensor counts in."""
    state = settled(rise(67.3, 29.0, 8.0, 300, noise=0.5)).state
    assert state.high - state.low >= 1.0


def test_falling_series_settle_as_rising_ones_do() -> None:
    """Degrees below slowdown fall while the card heats; the prediction is the temperature's, upside down."""
    points = rise(70.0, 30.0, 10.0, 25)
    up = settled(points, idle=30.0).state
    down = settled([(t, 87 - value) for t, value in points], idle=57.0).state
    assert down.value == pytest.approx(87 - up.value, abs=0.02)
    assert down.low == pytest.approx(87 - up.high, abs=0.02)
    assert down.high == pytest.approx(87 - up.low, abs=0.02)


def test_load_is_what_the_value_is_asked_for() -> None:
    """A card that never drew more than 80% of the load is told where it would settle at all of it."""
    points = rise(30 + 0.8 * 50, 30.0, 12.0, 60, sensor="exact")
    state = settled(points, [0.8] * len(points), 30.0).state
    assert state.value == pytest.approx(80.0, abs=1.0)
    assert state.low <= 80.0 <= state.high


@pytest.mark.parametrize("seed", range(10))
def test_less_than_a_time_constant_is_no_prediction(seed: int) -> None:
    """A rise seen for a third of its time constant is never called settled."""
    assert why_not(rise(80.0, 30.0, 60.0, 20, noise=0.2, seed=seed))


def test_straight_line_has_no_steady_state_in_sight() -> None:
    """A temperature that climbs steadily is not extrapolated."""
    why = why_not([(t / 10, 30.0 + t / 20) for t in range(400)])
    assert "steady" in why or "time constant" in why


def test_stuck_sensor_is_no_steady_state() -> None:
    """A sensor that never moves under load is called stuck, not settled."""
    assert "stuck" in why_not([(t / 10, 45.0) for t in range(600)])


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.8])
@pytest.mark.parametrize("after", [0.3, 0.5, 1.0, 1.5])
def test_sensor_that_sticks_on_its_way_is_no_steady_state(after: float, noise: float) -> None:
    """A rise that breaks off at once is not taken for a plateau."""
    points = rise(80.0, 30.0, 20.0, 60, noise=noise)
    stuck = points[int(after * 20 * RATE_HZ)][1]
    found = estimate([(t, value if t < after * 20 else stuck) for t, value in points], idle=30.0)
    assert isinstance(found, Estimate)
    assert found.unsettled is not None
    assert "it may be stuck" in found.unsettled


def test_rise_that_changes_its_mind_is_no_steady_state() -> None:
    """A rise that turns into another one half-way is not taken for the mean of both."""
    first, then = rise(60.0, 30.0, 10.0, 40, noise=0.3), rise(75.0, 60.0, 10.0, 40, noise=0.3)
    assert "stray" in why_not([*first, *((t + 40, value) for t, value in then)])


@pytest.mark.parametrize("tau", [4.0, 12.0, 40.0])
def test_plateau_of_a_quiet_sensor_is_not_called_stuck(tau: float) -> None:
    """A sensor without noise stands still where the card has settled, and that is no fault."""
    for time_constants in (4, 6, 10):
        state = settled(rise(67.3, 30.0, tau, time_constants * tau), idle=30.0).state
        assert state.low <= 67.3 <= state.high


def test_too_few_samples_are_said_to_be_too_few() -> None:
    """A handful of samples gives a Gap that counts them."""
    assert "11 samples" in why_not(rise(70.0, 30.0, 5.0, 1))


def test_samples_in_one_moment_are_no_rise() -> None:
    """Samples that were held up and came all at once are not fitted."""
    assert "bunched together" in why_not([(20.0, 40.0 + i % 2) for i in range(60)])


def test_no_samples_are_a_gap() -> None:
    """An empty series is a Gap, not an exception."""
    assert isinstance(estimate([]), Gap)


@pytest.mark.parametrize("seed", range(8))
def test_slow_heat_sink_behind_a_quick_die_is_not_overlooked(seed: int) -> None:
    """Where a slow time constant hides below a quick one, the short burn does not claim the early plateau."""
    random_source = random.Random(seed)  # noqa: S311
    points = []
    for i in range(1, 20 * RATE_HZ):
        t = i / RATE_HZ
        value = 30 + 20 * (1 - math.exp(-t / 2)) + 30 * (1 - math.exp(-t / 80)) + random_source.gauss(0, 0.3)
        points.append((t, float(round(value))))
    for idle in (None, 30.0):
        found = estimate(points, idle=idle)
        assert isinstance(found, Estimate)
        assert found.unsettled is not None or found.state.high >= 80.0


def test_whole_life_of_a_burn_gives_no_overconfident_stop() -> None:
    """Refitted while it goes on, a burn towards 3 C inside the bound is never once seen wholly outside of it."""
    for seed in range(6):
        points = rise(79.0, 30.0, 15.0, 60, noise=0.4, seed=seed)
        for seconds in range(10, 60, 5):
            found = estimate(points[: seconds * RATE_HZ], idle=30.0)
            assert isinstance(found, Estimate)
            assert found.unsettled is not None or found.state.low <= 82.0


def test_sensor_that_is_renewed_once_a_second_is_no_surer() -> None:
    """Samples that repeat each other count as what they are: the interval still holds the truth."""
    held = 0
    for seed in range(40):
        points = rise(70.0, 30.0, 20.0, 50, noise=0.8, seed=seed)
        renewed = [(t, points[i - i % RATE_HZ][1]) for i, (t, _) in enumerate(points)]
        found = estimate(renewed, idle=30.0)
        assert isinstance(found, Estimate)
        held += found.state.low <= 70.0 <= found.state.high
    assert held >= 38
