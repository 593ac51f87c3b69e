"""What is believed of a burn that throttled, rested or was cut short; and how its samples are kept."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from gpugate.evidence.facts import Gap
from gpugate.evidence.types import SteadyState
from gpugate.probe.burn.facts import event_shares, plateau_power
from gpugate.probe.burn.predict import decided, headroom, temperature
from gpugate.probe.burn.series import MEMORY, Series
from gpugate.probe.burn.store import KEPT, MOST_SAMPLES, document, store

BOUND_C = 5.0
SLOWDOWN_C = 87.0
IDLE_C, IDLE_W, FULL_W = 30.0, 70.0, 650.0
SW_THERMAL, POWER_BRAKE = 0x20, 0x80
RATE_HZ = 11
AtTime = Callable[[float], float]


def burnt(
    rise: AtTime,
    seconds: float,
    *,
    reasons: Callable[[float], int] = lambda t: 0,
    watts: AtTime | None = lambda t: FULL_W,
    fan: AtTime | None = None,
    load: float = 1.0,
) -> Series:
    """The series of a GPU whose temperature follows `rise`, in whole degrees, under load for a part of the time."""
    now = SimpleNamespace(t=0.0)
    nothing = Gap("this card has no such sensor", 3)

    def sensors(names: list[str]) -> dict[str, object]:
        celsius = float(round(rise(now.t)))
        known: dict[str, object] = {
            "temperature_c": celsius,
            "below_slowdown_c": SLOWDOWN_C - celsius,
            "event_reasons": reasons(now.t),
        }
        if watts is not None:
            known["power_w"] = watts(now.t) if now.t else IDLE_W
        if fan is not None:
            known["fan_percent"] = fan(now.t)
        return {name: known.get(name, nothing) for name in names}

    series = Series(SimpleNamespace(sensors=sensors))  # type: ignore[arg-type]  # a device is its sensors to a series
    for i in range(1, int(seconds * RATE_HZ)):
        now.t = i / RATE_HZ
        series.sample(now.t, now.t * load)
    return series


def towards(steady: float, tau: float = 12.0) -> AtTime:
    """A first-order rise from 30 C."""
    return lambda t: steady + (IDLE_C - steady) * math.exp(-t / tau)


def held(steady: float, limit: float, tau: float = 12.0) -> AtTime:
    """The same, held at `limit` by the throttle."""
    return lambda t: min(limit, towards(steady, tau)(t))


def throttles(steady: float, limit: float, tau: float = 12.0) -> Callable[[float], int]:
    """The reasons of such a card: software slowdown for heat, as long as it would be hotter than its limit."""
    return lambda t: SW_THERMAL if towards(steady, tau)(t) > limit else 0


def saves(steady: float, limit: float, tau: float = 12.0) -> AtTime:
    """The power of such a card: as much as keeps it at its limit."""
    share = (limit - IDLE_C) / (steady - IDLE_C)
    return lambda t: FULL_W if towards(steady, tau)(t) <= limit else IDLE_W + share * (FULL_W - IDLE_W)


def throttled(steady: float, limit: float, seconds: float, tau: float = 12.0) -> Series:
    """The burn of such a card."""
    return burnt(
        held(steady, limit, tau), seconds, reasons=throttles(steady, limit, tau), watts=saves(steady, limit, tau)
    )


def test_free_burn_is_predicted() -> None:
    """Without throttling the fit is the prediction, and it is decided where it is clear of the bound."""
    found = headroom(burnt(towards(70), 60), BOUND_C, over=False)
    assert isinstance(found, SteadyState)
    assert found.low <= SLOWDOWN_C - 70 <= found.high
    assert decided(found, BOUND_C)


def test_throttled_card_is_predicted_from_before_the_throttle() -> None:
    """A card that throttles late is judged by the rise before it, not by where the throttle holds it."""
    found = headroom(throttled(92, 87, 60), BOUND_C, over=False)
    assert isinstance(found, SteadyState)
    assert found.high < BOUND_C
    assert found.value < 0


def test_throttled_card_is_predicted_at_full_power() -> None:
    """What the throttle takes of its power tells where it would settle with all of it, far beyond where it is held."""
    found = headroom(throttled(120, 87, 40, tau=20), BOUND_C, over=False)
    assert isinstance(found, SteadyState)
    assert found.low <= SLOWDOWN_C - 120 <= found.high
    assert found.value < -20
    assert found.high <= 0.5


def test_throttle_that_power_does_not_show_is_left_out() -> None:
    """Where the power sensor saw nothing of the throttle, only what came before it is fitted."""
    found = headroom(burnt(held(92, 87), 60, reasons=throttles(92, 87)), BOUND_C, over=False)
    assert isinstance(found, SteadyState)
    assert found.high < BOUND_C
    assert found.value < 0


def test_throttled_card_without_power_sensor_is_predicted_from_before_the_throttle() -> None:
    """Without power the load counts as constant, which it is until the throttle."""
    found = headroom(burnt(held(92, 87), 60, reasons=throttles(92, 87), watts=None), BOUND_C, over=False)
    assert isinstance(found, SteadyState)
    assert found.high < BOUND_C
    assert found.value < 0


def test_power_brake_does_not_make_a_card_cool() -> None:
    """A brake that halves the power half-way cools the card; the prediction is that of the power without it."""

    def braked(t: float) -> bool:
        return t > 20

    half = (FULL_W + IDLE_W) / 2

    def rise(t: float) -> float:
        if not braked(t):
            return towards(84)(t)
        return 57 + (towards(84)(20) - 57) * math.exp(-(t - 20) / 12)

    series = burnt(rise, 60, reasons=lambda t: POWER_BRAKE * braked(t), watts=lambda t: half if braked(t) else FULL_W)
    found = headroom(series, BOUND_C, over=True)
    assert isinstance(found, SteadyState)
    assert found.low <= SLOWDOWN_C - 84 <= found.high
    assert found.value == pytest.approx(SLOWDOWN_C - 84, abs=1.5)


def test_moving_fan_is_waited_for() -> None:
    """While the card's own fan still changes its speed, nobody knows the thermal resistance that there will be."""
    moving = headroom(burnt(towards(70), 60, fan=lambda t: round(30 + t / 2)), BOUND_C, over=True)
    assert isinstance(moving, Gap)
    assert "the fan still went from 50 to 60 %" in moving.unavailable
    assert isinstance(
        headroom(burnt(towards(70), 60, fan=lambda t: round(min(50, 30 + t))), BOUND_C, over=False), SteadyState
    )


def test_wide_interval_is_believed_only_when_nothing_more_comes() -> None:
    """A short burn of a noisy sensor goes on; cut off there, it says what it knows, with its interval."""
    noise = random.Random(3)  # noqa: S311  # repeatable
    series = burnt(lambda t: towards(75, 12)(t) + noise.gauss(0, 3), 20)
    waits = headroom(series, BOUND_C, over=False)
    assert isinstance(waits, Gap)
    assert "either way" in waits.unavailable
    found = headroom(series, BOUND_C, over=True)
    assert isinstance(found, SteadyState)
    assert found.low <= SLOWDOWN_C - 75 <= found.high
    assert found.high - found.low > 13


def test_card_that_throttles_at_once_is_no_better_than_where_it_is_held() -> None:
    """Where the rise was too short to fit, the level at which the throttle holds the card is the best that is said."""
    found = headroom(throttled(500, 87, 40), BOUND_C, over=False)
    assert isinstance(found, SteadyState)
    assert found.value == pytest.approx(0, abs=0.5)
    assert found.high < BOUND_C
    assert decided(found, BOUND_C)


def test_margin_beside_a_stuck_temperature_is_no_good_news() -> None:
    """A margin may be the memory's: where the core's own sensor stands still, nobody knows how hot it is."""
    series = burnt(towards(70), 60)
    series.values["temperature_c"] = [40.0] * len(series.times)
    found = headroom(series, BOUND_C, over=True)
    assert isinstance(found, Gap)
    assert "temperature_c stood still at 40" in found.unavailable
    hot = burnt(towards(86), 60)
    hot.values["temperature_c"] = [40.0] * len(hot.times)
    assert isinstance(headroom(hot, BOUND_C, over=True), SteadyState)


def test_power_of_a_rested_gpu_is_not_its_power_at_full_load() -> None:
    """Where the host left the GPU idle between launches, its low mean is the host's and no reason to blame the card."""
    busy = plateau_power(burnt(towards(70), 60), 30)
    rested = plateau_power(burnt(towards(70), 60, load=0.8), 30)
    assert busy == 650
    assert isinstance(rested, Gap)
    assert "the host did not keep it busy" in rested.unavailable


@pytest.mark.parametrize(("counted_s", "share"), [(0, 0.5), (54, 0.9)])
def test_share_of_a_reason_is_the_greater_of_samples_and_counter(counted_s: int, share: float) -> None:
    """A time counter that stands still while samples show its reason hides nothing, nor do samples between pulses."""
    times = dict.fromkeys(("sw_power_cap", "sw_thermal", "hw_thermal", "power_brake"), 0)
    gpu = SimpleNamespace(
        series=burnt(towards(70), 60, reasons=lambda t: SW_THERMAL if t > 30 else 0),
        mix_s=60.0,
        times_before=times,
        times_after=times | {"sw_thermal": counted_s * 10**9},
    )
    found = event_shares(gpu)  # type: ignore[arg-type]  # what it looks at of a GPU
    assert not isinstance(found, Gap)
    assert found["sw_thermal"] == pytest.approx(share, abs=0.01)
    assert found["power_brake"] == 0


def test_throttle_far_from_the_limit_is_no_prediction() -> None:
    """A card held cool by a throttle from elsewhere might be hot without it: a gap, never a comfortable number."""
    series = throttled(500, 60, 40)
    found = headroom(series, BOUND_C, over=True)
    assert isinstance(found, Gap)
    assert "throttled for heat" in found.unavailable
    assert isinstance(temperature(series, over=True), Gap)


def test_fit_that_contradicts_the_throttle_is_not_believed() -> None:
    """A rise that seemed to end far below the limit, and then throttled, is no prediction of comfort."""
    series = burnt(towards(60, 5), 60, reasons=lambda t: SW_THERMAL if t > 40 else 0)
    series.values["below_slowdown_c"][-200:] = [8.0] * 200
    found = headroom(series, BOUND_C, over=True)
    assert isinstance(found, Gap)
    assert "yet it throttled" in found.unavailable


def test_single_thermal_sample_is_a_blip() -> None:
    """One sample with a thermal reason does not cut the burn short."""
    found = headroom(
        burnt(towards(70), 60, reasons=lambda t: SW_THERMAL if 9.95 < t < 10.04 else 0), BOUND_C, over=False
    )
    assert isinstance(found, SteadyState)


def test_rested_card_is_not_called_cool() -> None:
    """A GPU that the host left idle between launches gives no good news."""
    series = burnt(towards(60), 60, load=0.7)
    found = headroom(series, BOUND_C, over=True)
    assert isinstance(found, Gap)
    assert "70% of the burn" in found.unavailable
    assert isinstance(temperature(series, over=True), Gap)


def test_rested_card_that_is_hot_all_the_same_is_called_hot() -> None:
    """Bad news is believed of a GPU even where it could have been worse."""
    found = headroom(burnt(towards(86), 60, load=0.7), BOUND_C, over=False)
    assert isinstance(found, SteadyState)
    assert found.high < BOUND_C


def test_burn_cut_short_by_heat_says_how_near_it_came() -> None:
    """A burn that was stopped in mid-rise beyond the bound reports that, and only once it is over."""
    series = burnt(towards(120, 30), 14)
    assert isinstance(headroom(series, BOUND_C, over=False), Gap)
    series = burnt(towards(160, 30), 17.5)
    found = headroom(series, BOUND_C, over=True)
    assert isinstance(found, SteadyState)
    assert found.high < BOUND_C


def test_missing_sensor_stays_missing() -> None:
    """A card without a memory sensor gets that reason as its memory's prediction."""
    found = temperature(burnt(towards(60), 30), MEMORY, over=True)
    assert found == Gap("this card has no such sensor", 3)


def test_sensor_that_fails_midway_takes_its_fact_with_it() -> None:
    """Samples before a failure are not averaged as if they were the whole burn."""
    series = burnt(towards(60), 30)
    series.gaps["power_w"] = Gap("field 186 answered 999 (Unknown Error)", 999)
    assert series.mean("power_w", 15) == Gap("field 186 answered 999 (Unknown Error)", 999)


def test_undecided_is_what_spans_the_bound() -> None:
    """Neither a gap nor an interval across the bound is a decision."""
    assert not decided(Gap("no samples"), BOUND_C)
    assert not decided(SteadyState(6.0, 4.0, 8.0, 10.0, 0.3), BOUND_C)


def test_only_the_newest_samples_are_kept(tmp_path: Path) -> None:
    """Old files go, the newest twenty stay, and nothing half-written is left."""
    for i in range(KEPT + 5):
        told = store(tmp_path, {"kernel": str(i)})
        os.utime(told.path, (i, i))
    files = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert len(files) == KEPT
    assert Path(told.path).name in files


def test_same_samples_make_the_same_file(tmp_path: Path) -> None:
    """The file holds no time of its own, so its digest is that of the samples."""
    first, second = store(tmp_path / "a", {"kernel": "k"}), store(tmp_path / "b", {"kernel": "k"})
    assert first.sha256 == second.sha256


def test_long_burn_is_thinned_out() -> None:
    """However long the burn, a bounded number of samples is kept, all sensors in step."""
    content = document("k", {"GPU-1": burnt(towards(60), 600)})["gpus"]["GPU-1"]
    assert MOST_SAMPLES / 2 < len(content["seconds"]) <= MOST_SAMPLES
    assert len(content["seconds"]) == len(content["temperature_c"])
    assert content["unavailable"]["memory_temperature_c"] == "this card has no such sensor"
    assert "temperature_c" not in content["unavailable"]
