"""Where will it settle? A first-order fit T(t) = S + (T0 - S) * exp(-t / tau) over a burn's samples.

For a given tau the model is linear in S and T0, so the search is over tau alone. The interval of S is the profile
likelihood's: all S that some tau explains about as well as the best one does. Unlike a linearised interval it opens
up where the samples cannot tell a slow rise to a high value from a quick one to a low value, which is exactly where a
short burn must not be believed.

The sensor counts whole degrees. Its steps are neither small nor independent, so: a residual never counts as less than
a step's own standard deviation; residuals that follow each other count as fewer observations; and the interval is
wider by half a step on both sides, which no averaging takes away.

A card has more than one time constant: the die is quick, the heat sink slow. Where the second one hides under the fit
it shows as a drift of the last residuals. A large drift means that the model does not hold; a small one widens the
interval on its side, by what the drift would still add if it died away by a quarter in each quarter of the burn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...evidence.facts import Gap
from ...evidence.types import SteadyState

Point = tuple[float, float]

BINS = 48
LEAST_POINTS = 24
SENSOR_STEP = 1.0
_STEP_DEVIATION = SENSOR_STEP / math.sqrt(12)
_LEAST_TAU_S = 0.5
_MOST_TAU = 20.0  # in lengths of the series: beyond that the samples are a straight line
_TAUS = 36
_FINE_TAUS = 14
_Z = 1.959964  # 97.5% of the normal distribution
_MOST_CORRELATION = 0.9
_MOST_DRIFT = 0.75
_DRIFT_GOES_ON = 4.0


@dataclass(frozen=True)
class Estimate:
    """The best fit, and `unsettled`: why it must not be taken for a prediction (None: it may)."""

    state: SteadyState
    unsettled: str | None


def settle(points: Sequence[Point]) -> SteadyState | Gap:
    """The steady value of a series of (device seconds, value), or why it cannot be told yet."""
    found = estimate(points)
    if isinstance(found, Gap):
        return found
    return found.state if found.unsettled is None else Gap(found.unsettled)


def estimate(points: Sequence[Point]) -> Estimate | Gap:
    """The best fit with all that speaks against it; a Gap where there is nothing to fit."""
    if len(points) < LEAST_POINTS:
        return Gap(f"only {len(points)} samples, a fit needs {LEAST_POINTS}")
    values = [value for _, value in points]
    if max(values) == min(values):
        return Gap(
            f"the sensor stood still at {values[0]:g} under load for {points[-1][0] - points[0][0]:.1f} s: it is stuck"
        )
    series = _binned(points)
    length = series[-1][0] - series[0][0]
    coarse = _geometric(_LEAST_TAU_S, _MOST_TAU * length, _TAUS)
    best = min((_given_tau(series, tau) for tau in coarse), key=lambda fit: fit.squares)
    ratio = coarse[1] / coarse[0]
    best = min(
        (_given_tau(series, tau) for tau in _geometric(best.tau / ratio, best.tau * ratio, _FINE_TAUS)),
        key=lambda fit: fit.squares,
    )
    residuals = [value - best.steady - best.swing * math.exp(-(t - series[0][0]) / best.tau) for t, value in series]
    freedom = _freedom(residuals)
    drift = _drift(residuals)
    variance = max(best.squares / (len(series) - 3), _STEP_DEVIATION**2) * (len(series) - 3) / freedom
    allowance = variance * _student(freedom) ** 2
    low, high, open_end = _interval(series, best, coarse, allowance)
    state = SteadyState(
        value=best.steady,
        low=low - SENSOR_STEP / 2 + min(0.0, drift) * _DRIFT_GOES_ON,
        high=high + SENSOR_STEP / 2 + max(0.0, drift) * _DRIFT_GOES_ON,
        tau_s=best.tau,
        rms=math.sqrt(best.squares / len(series)),
    )
    if open_end:
        return Estimate(
            state, f"after {length:.1f} s the samples still fit any slower rise: no steady value is in sight"
        )
    if best.tau > length:
        return Estimate(state, f"{length:.1f} s are less than one time constant of {best.tau:.1f} s")
    if abs(drift) > _MOST_DRIFT:
        return Estimate(state, f"after {length:.1f} s the samples still drift away from the fit, by {drift:+.1f}")
    return Estimate(state, None)


@dataclass(frozen=True)
class _Fit:
    """Least squares for one tau: steady value, swing (T0 - S), sum of squares, and S's variance per unit variance."""

    tau: float
    steady: float
    swing: float
    squares: float
    spread: float


def _given_tau(series: Sequence[Point], tau: float) -> _Fit:
    start = series[0][0]
    decay = [math.exp((start - t) / tau) for t, _ in series]
    n = len(series)
    sum_d, sum_dd = sum(decay), sum([d * d for d in decay])
    sum_y, sum_dy = sum([y for _, y in series]), sum([d * y for d, (_, y) in zip(decay, series)])
    determinant = n * sum_dd - sum_d * sum_d
    if determinant <= 1e-9 * n * n:  # nothing bends: this tau is a constant or a line too long
        mean = sum_y / n
        return _Fit(tau, mean, 0.0, sum([(y - mean) ** 2 for _, y in series]), math.inf)
    steady = (sum_dd * sum_y - sum_d * sum_dy) / determinant
    swing = (n * sum_dy - sum_d * sum_y) / determinant
    squares = sum([(y - steady - swing * d) ** 2 for d, (_, y) in zip(decay, series)])
    return _Fit(tau, steady, swing, squares, sum_dd / determinant)


def _interval(
    series: Sequence[Point], best: _Fit, coarse: Sequence[float], allowance: float
) -> tuple[float, float, bool]:
    """Lowest and highest S within the allowance over all tau, and whether the slowest tau is still among them."""
    likely = [tau for tau in coarse if _given_tau(series, tau).squares - best.squares <= allowance]
    ratio = coarse[1] / coarse[0]
    first, last = min(likely, default=best.tau) / ratio, max(likely, default=best.tau) * ratio
    low = high = best.steady
    for tau in [best.tau, *_geometric(first, last, _FINE_TAUS)]:
        fit = _given_tau(series, tau)
        room = allowance - (fit.squares - best.squares)
        if room < 0:
            continue
        if math.isinf(fit.spread):
            return low, high, True
        reach = math.sqrt(room * fit.spread)
        low, high = min(low, fit.steady - reach), max(high, fit.steady + reach)
    return low, high, bool(likely) and likely[-1] == coarse[-1]


def _binned(points: Sequence[Point]) -> list[Point]:
    """At most BINS means over equal spans of time."""
    start, end = points[0][0], points[-1][0]
    width = (end - start) / BINS or 1.0
    bins: dict[int, list[Point]] = {}
    for point in points:
        bins.setdefault(min(int((point[0] - start) / width), BINS - 1), []).append(point)
    return [
        (sum([t for t, _ in members]) / len(members), sum([y for _, y in members]) / len(members))
        for _, members in sorted(bins.items())
    ]


def _drift(residuals: Sequence[float]) -> float:
    """How much the last quarter of the residuals lies above the quarter before it."""
    quarter = len(residuals) // 4
    last, before = residuals[-quarter:], residuals[-2 * quarter : -quarter]
    return sum(last) / quarter - sum(before) / quarter


def _freedom(residuals: Sequence[float]) -> float:
    """Degrees of freedom after three parameters, with residuals that follow each other counted as fewer."""
    total = sum([r * r for r in residuals])
    if total == 0:
        return len(residuals) - 3.0
    together = sum([a * b for a, b in zip(residuals, residuals[1:])]) / total
    correlation = min(max(together, 0.0), _MOST_CORRELATION)
    return max(3.0, len(residuals) * (1 - correlation) / (1 + correlation) - 3)


def _student(freedom: float) -> float:
    """97.5% of Student's t, by its expansion around the normal (Abramowitz and Stegun 26.7.5)."""
    z = _Z
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def _geometric(first: float, last: float, count: int) -> list[float]:
    step = (last / first) ** (1 / (count - 1))
    return [first * step**i for i in range(count)]
