"""Where will it settle, and how far can that be believed? The thermal model, fitted to a burn's samples.

The search is over tau alone, and the interval is the posterior's over all of them: it opens up where a slow rise to a
high value explains the samples as well as a quick one to a low value does, which is exactly where a short burn must not
be believed. Samples that scatter more than they should widen it, and samples that lie off the fit together are no rise
to a steady value at all: a sensor that sticks, a fan that stops.

Fans are faster where it gets hotter, and when they will be nobody knows beforehand. So the interval's end on the side
of less swing is wider, until the samples have seen what a swing of that size sets in motion.

The sensor counts whole degrees, rounded or cut off: the interval is wider by half a step on both sides, which no
averaging takes away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

from ...evidence.facts import Gap
from ...evidence.types import SteadyState
from .thermal import SENSOR_STEP, Fit, Model, binned

Point = tuple[float, float]

LEAST_POINTS = 12
DIE_S = 1.5  # how quickly a die follows its power
_LEAST_BINS = 8
_COARSE_TAUS, _FINE_TAUS = 14, 16
_LEAST_TAU_S, _QUICK_TAU_S = 3.0, 3.2  # no heat sink is as quick as that
_MOST_TAU = 4.0  # in lengths of the series: beyond that the samples are a straight line
_FREE = 4  # what a fit takes of the bins' freedom: the smaller terms are held by their priors
_UNLIKELY, _LIKELY = 12.0, 2.0  # less than the best, in log likelihood
_NEGLIGIBLE, _NEAR_C = 1e-5, 0.005
_FANS, _FANS_SEEN = 0.2, 4.0  # in parts of the swing; in tau
_MOST_SLOW = 0.1  # probability that the burn saw less than one time constant
_MOST_ALIKE, _STUCK_ALIKE = 1.2, 0.4  # in units of the variance that was expected


@dataclass(frozen=True)
class Estimate:
    """The best fit; `spread`: half of its interval, fans apart; `unsettled`: why it is no prediction, None if it is."""

    state: SteadyState
    spread: float
    unsettled: str | None


def estimate(
    points: Sequence[Point],
    load: Sequence[float] | None = None,
    idle: float | None = None,
    fast_s: float = DIE_S,
) -> Estimate | Gap:
    """Fit samples (seconds since the load came, value) of one sensor, rising or falling.

    `load`: for each sample 0 at idle, 1 at the power for which the steady value is asked; None: 1 throughout. `idle`:
    what the sensor showed before the load; None: not known, and nothing is before the first sample. `fast_s`: the time
    constant of what is quick about it. A Gap where there is nothing to fit.
    """
    if len(points) < LEAST_POINTS:
        return Gap(f"only {len(points)} samples, a fit needs {LEAST_POINTS}")
    values = [value for _, value in points]
    begun = points[0][0] if idle is None else 0.0
    length = points[-1][0] - begun
    if max(values) == min(values):
        return Gap(f"the sensor stood still at {values[0]:g} under load for {length:.1f} s: it is stuck")
    bins = binned(points, load or [1.0] * len(points), begun)
    if len(bins) < _LEAST_BINS:
        return Gap(f"the {len(points)} samples of {length:.1f} s are bunched together: there is no rise to be seen")
    noise = sum([(b - a) ** 2 for a, b in zip(values, values[1:])]) / 2 / (len(values) - 1)
    model = Model(bins, noise, idle, fast_s)
    fits, slowest = _likely(model, length)
    best = max(fits, key=lambda fit: fit.log(1.0))
    mixture = _mixture(fits, _excess(best))
    low, middle, high = (_quantile(mixture, part) for part in (0.025, 0.5, 0.975))
    start = bins[0].value if idle is None else idle
    fans = _FANS * (middle - start) * min(1.0, max(0.0, (_FANS_SEEN - length / best.tau) / 2))
    state = SteadyState(
        value=middle,
        low=low - SENSOR_STEP / 2 - max(0.0, fans),
        high=high + SENSOR_STEP / 2 - min(0.0, fans),
        tau_s=best.tau,
        rms=math.sqrt(sum(map(mul, best.residuals, best.residuals)) / len(bins)),
    )
    slow = sum([share for share, fit in zip(mixture.shares, fits) if fit.tau > length])
    alike = _alike(best, model.weights)
    still = points[-1][0] - next(t for t, value in reversed(points) if value != values[-1])
    why = None
    if slowest:
        why = f"after {length:.1f} s the samples still fit any slower rise: no steady value is in sight"
    elif slow > _MOST_SLOW:
        why = f"{length:.1f} s may well be less than one time constant (the best guess is {best.tau:.1f} s)"
    elif still > length / 3 and (alike > _STUCK_ALIKE or best.tau < _QUICK_TAU_S):
        why = f"the sensor has stood still at {values[-1]:g} for {still:.1f} s, and broke off its rise: it may be stuck"
    elif alike > _MOST_ALIKE:
        why = f"the samples of {length:.1f} s are no rise to a steady value: they stray from the best fit together"
    return Estimate(state, (high - low + SENSOR_STEP) / 2, why)


def _likely(model: Model, length: float) -> tuple[list[Fit], bool]:
    """Fits over all tau that are at all likely, and whether the slowest that there is is one of them."""
    slowest = max(_MOST_TAU * length, 2 * _LEAST_TAU_S)
    coarse = [model.fit(tau) for tau in _geometric(_LEAST_TAU_S, slowest, _COARSE_TAUS)]
    best = max(coarse, key=lambda fit: fit.log(1.0))
    least = best.log(_excess(best)) - _UNLIKELY
    likely = [i for i, fit in enumerate(coarse) if fit.log(_excess(best)) > least]
    first, last = max(likely[0] - 1, 0), min(likely[-1] + 1, len(coarse) - 1)
    fine = [model.fit(tau) for tau in _geometric(coarse[first].tau, coarse[last].tau, _FINE_TAUS)]
    top = max(fit.log(_excess(best)) for fit in fine)
    return fine, last == len(coarse) - 1 and fine[-1].log(_excess(best)) > top - _LIKELY


def _excess(best: Fit) -> float:
    """How many times the variance that was expected the samples have around the best fit; at least 1."""
    return max(1.0, best.misfit / (len(best.residuals) - _FREE))


@dataclass(frozen=True)
class _Mixture:
    """Normal distributions of the steady value, one for each tau: probability, mean and standard deviation."""

    shares: list[float]
    means: list[float]
    deviations: list[float]


def _mixture(fits: Sequence[Fit], excess: float) -> _Mixture:
    top = max(fit.log(excess) for fit in fits)
    shares = [math.exp(fit.log(excess) - top) for fit in fits]
    return _Mixture(
        [share / sum(shares) for share in shares],
        [fit.steady for fit in fits],
        [math.sqrt(fit.variance * excess) for fit in fits],
    )


def _quantile(mixture: _Mixture, part: float) -> float:
    parts = [
        (share, mean, deviation * math.sqrt(2))
        for share, mean, deviation in zip(mixture.shares, mixture.means, mixture.deviations)
        if share > _NEGLIGIBLE
    ]
    low = min([mean - 5 * width for _, mean, width in parts])
    high = max([mean + 5 * width for _, mean, width in parts])
    while high - low > _NEAR_C:
        middle = (low + high) / 2
        below = sum([share * math.erfc((mean - middle) / width) for share, mean, width in parts]) / 2
        low, high = (middle, high) if below < part else (low, middle)
    return (low + high) / 2


def _alike(best: Fit, weights: Sequence[float]) -> float:
    """What residuals next to each other have in common: their covariance, in units of the variance that was expected.

    Noise, however much of it, has none; a curve of another shape has.
    """
    strays = [r * math.sqrt(weight) for r, weight in zip(best.residuals, weights)]
    return sum([a * b for a, b in zip(strays, strays[1:])]) / (len(strays) - _FREE)


def _geometric(first: float, last: float, count: int) -> list[float]:
    step = (last / first) ** (1 / (count - 1))
    return [first * step**i for i in range(count)]
