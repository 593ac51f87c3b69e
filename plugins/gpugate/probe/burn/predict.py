"""The steady state that a burn leads to, and when it may be believed.

A card that throttles for heat is not on its way to a steady state: the throttle holds it at its limit, whatever its
cooling. A fit over that part would call the limit "settled" and fine. So only the part before the throttle is fitted.
Where that part is too short, one thing is still known: at full load the card came as near to slowdown as it is held
now, so its headroom is no better than that. When this is already beyond the bound it is reported as such; when it is
not (a throttle forced from elsewhere, or by hot memory), there is no prediction.

A host that is too slow to keep the queue filled lets the GPU rest between launches, and a rested GPU looks cool. A
margin may be the memory's, and tells nothing of a core whose own sensor is stuck. Then only bad news is believed.
"""

from __future__ import annotations

from ...evidence.facts import Gap
from ...evidence.types import SteadyState
from .fit import SENSOR_STEP, Estimate, Point, estimate
from .series import HEADROOM, TEMPERATURE, Series

# The load rises in steps over the first second, and a step response starts at the step.
RAMP_S = 1.0
_NOW_S = 1.0
_CONSISTENT_C = 1.0
_LEAST_LOADED = 0.95


def headroom(series: Series, bound_c: float, over: bool) -> SteadyState | Gap:
    """Predicted steady degrees below slowdown. `over`: the burn is over and nothing more will be learnt."""
    points = series.points(HEADROOM)
    if isinstance(points, Gap):
        return points
    free, throttled = _free(series, points)
    found = estimate(free)
    now = _level(points)
    why: Gap | None
    if isinstance(found, Estimate) and found.unsettled is None:
        if not throttled or (now is not None and found.state.value <= now + _CONSISTENT_C):
            doubt = _stuck(series) or rested(series)
            return found.state if doubt is None or found.state.high < bound_c else doubt
        why = Gap(f"before it throttled the samples led to {found.state.value:.1f} C, and yet it throttled")
    else:
        why = found if isinstance(found, Gap) else Gap(str(found.unsettled))
    if (throttled or over) and now is not None and now + SENSOR_STEP / 2 < bound_c:
        shape = estimate([(t, value) for t, value in points if t >= RAMP_S])
        if isinstance(shape, Estimate):
            return SteadyState(now, now - SENSOR_STEP / 2, now + SENSOR_STEP / 2, shape.state.tau_s, shape.state.rms)
    if throttled:
        return Gap(
            f"the card throttled for heat from {series.times[series.throttled_at() or 0]:.1f} s on; {why.unavailable}"
        )
    return why


def temperature(series: Series, name: str = TEMPERATURE) -> SteadyState | Gap:
    """Predicted steady temperature of a sensor without throttling."""
    points = series.points(name)
    if isinstance(points, Gap):
        return points
    free, throttled = _free(series, points)
    found = estimate(free)
    why = found.unavailable if isinstance(found, Gap) else found.unsettled
    if isinstance(found, Estimate) and why is None:
        return rested(series) or found.state
    return Gap(f"{why}; from then on the card throttled for heat" if throttled else str(why))


def decided(prediction: SteadyState | Gap, bound_c: float) -> bool:
    """Whether the 95% interval lies wholly on one side of the bound."""
    return not isinstance(prediction, Gap) and (prediction.low > bound_c or prediction.high < bound_c)


def rested(series: Series) -> Gap | None:
    """The Gap that says that the GPU was not under load all the time."""
    share = series.loaded_share(RAMP_S)
    if share >= _LEAST_LOADED:
        return None
    return Gap(f"the GPU was under load for {share:.0%} of the burn only: the host did not keep it busy")


def _stuck(series: Series) -> Gap | None:
    """The Gap that says that the core's sensor did not move while the card came under load."""
    points = series.points(TEMPERATURE)
    if isinstance(points, Gap):
        return None  # no such sensor is another thing than one that lies
    values = {value for _, value in points}
    if len(values) != 1:
        return None
    return Gap(f"{TEMPERATURE} stood still at {min(values):g} under load for {series.times[-1]:.1f} s: it is stuck")


def _free(series: Series, points: list[Point]) -> tuple[list[Point], bool]:
    """The part after the ramp and before thermal throttling, and whether there was any throttling."""
    end = series.throttled_at()
    return [(t, value) for t, value in points[:end] if t >= RAMP_S], end is not None


def _level(points: list[Point]) -> float | None:
    """The mean of the last second."""
    recent = [value for t, value in points if t >= points[-1][0] - _NOW_S] if points else []
    return sum(recent) / len(recent) if recent else None
