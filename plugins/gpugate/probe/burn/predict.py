"""The steady state that a burn leads to, and when it may be believed.

The question is where the card would settle at full load without a throttle. The full load's power is the one that the
card draws in the mix while nothing but its power limit holds it: the median of the last third of such samples, when it
is warm and leaks most. The limit itself says nothing: not every card reaches it. What it draws at each moment drives
the model, so the ramp, a cap that wanders and a throttle are inputs to the fit and not its errors. Where power is not
known the load counts as constant, and only what lies between the ramp and a throttle is fitted.

A card that throttles for heat is not on its way to a steady state: the throttle holds it at its limit, whatever its
cooling. Its power falls meanwhile, and what it would be at full power follows from that. One more thing is known: at
full load it comes at least as near to slowdown as it is held now. When that is beyond the bound, the prediction is no
better; when it is not (a throttle forced from elsewhere, or by hot memory), there is none.

A host that is too slow to keep the queue filled lets the GPU rest between launches, and a rested GPU looks cool. A
margin may be the memory's, and tells nothing of a core whose own sensor is stuck. Then only bad news is believed.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median

from ...evidence.facts import Gap
from ...evidence.types import SteadyState
from .fit import DIE_S, Estimate, Point, estimate
from .series import FAN, HEADROOM, MEMORY, POWER, REASON_BITS, REASONS, TEMPERATURE, Series
from .thermal import SENSOR_STEP

# The load rises in steps over the first second.
RAMP_S = 1.0
_NOW_S = 1.0
_CONSISTENT_C = 1.0
_LEAST_LOADED = 0.95
_LEAST_RISE_W = 10.0
_LEAST_FREE = 10  # samples, of which the last third is what a free card draws
_HELD = sum(bit for name, bit in REASON_BITS.items() if name != "sw_power_cap")
_THROTTLED_LOAD = 0.98  # a throttle that leaves more than this is not seen in the power
_WIDEST_C = 6.5  # half of the interval
_FAN_MOVES = 3  # percent points in the last third of the burn
_MEMORY_S = 4.0  # HBM follows its load more slowly than a die does


def headroom(series: Series, bound_c: float, over: bool) -> SteadyState | Gap:
    """Predicted steady degrees below slowdown. `over`: the burn is over and nothing more will be learnt."""
    points = series.points(HEADROOM)
    if isinstance(points, Gap):
        return points
    found = _settled(series, HEADROOM, series.idle.below_slowdown_c)
    throttled = series.throttled_at()
    beyond = _beyond(points, bound_c) if over or throttled is not None else None
    if isinstance(found, Gap):
        why = _stuck(series) or rested(series) or found  # the cause, before what it did to the fit
    elif beyond is not None and found.state.value <= beyond + _CONSISTENT_C:
        return _no_better_than(beyond, found.state)
    elif throttled is None:
        doubt = (None if over else _too_wide(found)) or _stuck(series) or rested(series)
        return found.state if doubt is None or found.state.high < bound_c else doubt
    else:
        why = Gap(f"the samples lead to {found.state.value:.1f} C below slowdown, and yet it throttled")
    if beyond is not None:
        shape = estimate([(t, value) for t, value in points if t > RAMP_S])
        if isinstance(shape, Estimate):
            return _at(beyond, shape.state)
    return _after_throttle(series, why)


def temperature(series: Series, name: str = TEMPERATURE, *, over: bool) -> SteadyState | Gap:
    """Predicted steady temperature of a sensor without throttling. `over`: as above."""
    if name in series.gaps:
        return series.gaps[name]
    at_rest = {TEMPERATURE: series.idle.temperature_c, MEMORY: series.idle.memory_temperature_c}
    found = _settled(series, name, at_rest[name])
    if isinstance(found, Gap):
        return _after_throttle(series, rested(series) or found)
    doubt = (None if over else _too_wide(found)) or rested(series)
    return found.state if doubt is None else _after_throttle(series, doubt)


def decided(prediction: SteadyState | Gap, bound_c: float) -> bool:
    """Whether the 95% interval lies wholly on one side of the bound."""
    return not isinstance(prediction, Gap) and (prediction.low > bound_c or prediction.high < bound_c)


def rested(series: Series) -> Gap | None:
    """The Gap that says that the GPU was not under load all the time."""
    share = series.loaded_share(RAMP_S)
    if share >= _LEAST_LOADED:
        return None
    return Gap(f"the GPU was under load for {share:.0%} of the burn only: the host did not keep it busy")


def _settled(series: Series, name: str, at_rest: float | Gap) -> Estimate | Gap:
    """What the samples of one sensor lead to, or why they lead to nothing yet."""
    found = _estimate(series, name, at_rest)
    if isinstance(found, Estimate) and found.unsettled is not None:
        return Gap(found.unsettled)
    return _fan_moves(series) or found


def _estimate(series: Series, name: str, at_rest: float | Gap) -> Estimate | Gap:
    """The thermal model of one sensor, at the power that the card draws unthrottled."""
    points = series.points(name)
    if isinstance(points, Gap):
        return points
    fast_s = _MEMORY_S if name == MEMORY else DIE_S
    load, throttled = _load(series), series.throttled_at()
    if load is None:
        return estimate([(t, value) for t, value in points[:throttled] if t > RAMP_S], fast_s=fast_s)
    if throttled is not None and sum(load[throttled:]) > _THROTTLED_LOAD * len(load[throttled:]):
        points, load = points[:throttled], load[:throttled]
    return estimate(points, load, None if isinstance(at_rest, Gap) else at_rest, fast_s)


def _load(series: Series) -> list[float] | None:
    """Power of each sample: 0 at idle, 1 where nothing but the power limit holds it. None where that is not known.

    A sample shows the power of a launch; where the GPU rested before it, that counts for the part in which it worked.
    """
    power, reasons = series.points(POWER), series.points(REASONS)
    if isinstance(power, Gap):
        return None
    end = series.throttled_at()
    if isinstance(reasons, Gap):  # and so are the shares of throttling: no PASS
        free = [watts for t, watts in power if t > RAMP_S]
    else:
        free = [watts for (t, watts), (_, mask) in zip(power[:end], reasons) if t > RAMP_S and not int(mask) & _HELD]
    if len(free) < _LEAST_FREE:
        return None
    full = median(free[len(free) * 2 // 3 :])
    idle = 0.0 if isinstance(series.idle.power_w, Gap) else series.idle.power_w
    if full - idle < _LEAST_RISE_W:
        return None
    return [busy * (watts - idle) / (full - idle) for busy, (_, watts) in zip(series.busy_shares(), power)]


def _after_throttle(series: Series, why: Gap) -> Gap:
    """`why` there is no prediction, with the throttle, where there was one, as what may have been its cause."""
    at = series.throttled_at()
    return (
        why if at is None else Gap(f"the card throttled for heat from {series.times[at]:.1f} s on; {why.unavailable}")
    )


def _too_wide(found: Estimate) -> Gap | None:
    """The Gap that says that the value is not known well enough to be compared with others."""
    if found.spread <= _WIDEST_C:
        return None
    return Gap(f"the steady value would be {found.state.value:.1f}, and that only to {found.spread:.1f} C either way")


def _fan_moves(series: Series) -> Gap | None:
    """The Gap that says that the card's fan still changes its speed, and the thermal resistance with it."""
    points = series.points(FAN)
    if isinstance(points, Gap) or not points:
        return None  # most cards have none
    recent = [percent for t, percent in points if t >= points[-1][0] * 2 / 3]
    if max(recent) - min(recent) <= _FAN_MOVES:
        return None
    return Gap(f"the fan still went from {recent[0]:g} to {recent[-1]:g} % in the last third of the burn")


def _no_better_than(level: float, state: SteadyState) -> SteadyState:
    """The prediction of a card that is at this level already, and held there."""
    held = _at(level, state)
    return replace(state, value=min(state.value, level), low=min(state.low, held.low), high=min(state.high, held.high))


def _at(level: float, state: SteadyState) -> SteadyState:
    """A level that is known to the sensor's step; the rest is the fit's."""
    return replace(state, value=level, low=level - SENSOR_STEP / 2, high=level + SENSOR_STEP / 2)


def _stuck(series: Series) -> Gap | None:
    """The Gap that says that the core's sensor did not move while the card came under load."""
    points = series.points(TEMPERATURE)
    if isinstance(points, Gap):
        return None  # no such sensor is another thing than one that lies
    values = {value for _, value in points}
    if len(values) != 1:
        return None
    return Gap(f"{TEMPERATURE} stood still at {min(values):g} under load for {series.times[-1]:.1f} s: it is stuck")


def _beyond(points: list[Point], bound_c: float) -> float | None:
    """The mean of the last second where that is beyond the bound, None where it is not."""
    recent = [value for t, value in points if t >= points[-1][0] - _NOW_S]
    level = sum(recent) / len(recent) if recent else bound_c
    return level if level + SENSOR_STEP / 2 < bound_c else None
