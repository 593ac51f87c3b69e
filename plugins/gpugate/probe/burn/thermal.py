"""The thermal model of one sensor: a heat sink of first order with what it lacks, as a ridge regression for one tau.

T' = (ambient + R * load(t) - T) / tau, with the load 0 at idle and 1 at the power for which the steady value is asked:
for a given tau this is linear in ambient, starting temperature and R. No card is only that, so there are more terms,
each of them small beforehand, in parts of the swing: the die, which follows the load within seconds; the layers between
die and fins; what comes late, as neighbours and chassis heat up; a change half-way, as by fans. Where the samples tell
of such a term it is fitted. Where they cannot, its prior is what it may still amount to, and the steady value is known
that much worse. That, not the noise, is what a short burn does not know.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

SENSOR_STEP = 1.0
BINS = 36
# Standard deviations, in parts of the swing, of what the heat sink alone lacks.
_DIE, _LAYERS, _NEIGHBOURS, _LATE = 0.3, 0.025, 0.05, 0.015
_LAYERS_TAU, _NEIGHBOURS_TAU = 0.25, 4.0  # their time constants, in tau
_LATE_FROM = 0.5  # in lengths of the series
_EARLY, _EARLY_S = 0.1, 2.0  # error of the die's term in parts of the swing, which dies away in so many `fast_s`
_AMBIENT_C, _START_C = 8.0, 1.0  # of the reading at idle: an earlier burn may have left heat
_UNKNOWN = 1000.0
_UNKNOWN_C = 20.0  # of the first sample, where there was no reading at idle


@dataclass(frozen=True)
class Bin:
    """Samples next to each other: seconds, mean value, mean load and how many they are."""

    seconds: float
    value: float
    load: float
    count: int


@dataclass(frozen=True)
class Fit:
    """What the samples say for one tau: the steady value with its variance, and how likely they are.

    `misfit`: sum of squares in units of what was expected, `weight` the rest of the log likelihood.
    """

    tau: float
    steady: float
    variance: float
    misfit: float
    weight: float
    residuals: list[float]

    def log(self, excess: float) -> float:
        """Log likelihood where the variance of all samples is `excess` times what was expected."""
        return self.weight - self.misfit / excess / 2


def binned(points: Sequence[tuple[float, float]], load: Sequence[float], begun: float) -> list[Bin]:
    """Means over spans of time that grow with time since `begun`, as everything is quickest at first."""
    bins: list[Bin] = []
    origin, length, first = begun, points[-1][0] - begun, 0
    for k in range(1, BINS + 1):
        edge = origin + length * (0.25 * k / BINS + 0.75 * (k / BINS) ** 2)
        last = first
        while last < len(points) and (points[last][0] <= edge or k == BINS):
            last += 1
        end = points[last - 1][0]
        if last > first and end > begun:
            count = last - first
            value = sum([v for _, v in points[first:last]]) / count
            bins.append(Bin(end - begun, value, sum(load[first:last]) / count, count))
            begun, first = end, last
    return bins


class Model:
    """Fits of one series for one tau after the other. `noise`: variance of a sample; `idle`: the value before the load.

    The terms: ambient, start, heat sink, die, layers, neighbours, late. `weights`: 1 / variance of each bin.
    """

    _AT_LAST = (1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0)  # what becomes of each under load 1

    def __init__(self, bins: Sequence[Bin], noise: float, idle: float | None, fast_s: float) -> None:
        self._values = [b.value for b in bins]
        self._widths = [b.seconds for b in bins]
        self._loads = [b.load for b in bins]
        self._ends = [sum(self._widths[: i + 1]) for i in range(len(bins))]
        self.weights = [1 / variance for variance in self._variances(bins, noise, fast_s)]
        self._die = _lag(self._loads, self._widths, fast_s)
        late = _LATE_FROM * self._ends[-1]
        self._late = [load if end > late else 0.0 for load, end in zip(self._loads, self._ends)]
        self._around = bins[0].value if idle is None else idle
        self._ambient_c, self._start_c = (_UNKNOWN_C, _UNKNOWN_C) if idle is None else (_AMBIENT_C, _START_C)
        self._seen = max(abs(bins[-1].value - self._around), 3 * SENSOR_STEP)

    def fit(self, tau: float) -> Fit:
        """All priors are normal, so the posterior of the steady value is so too."""
        terms = self._terms(tau)
        swing = self._seen / max(1 - math.exp(-self._ends[-1] / tau), 0.05)
        small = [part * swing for part in (_DIE, _LAYERS, _NEIGHBOURS, _LATE)]
        within = [self._ambient_c, self._start_c, _UNKNOWN, *small]
        around = [self._around, self._around] + [0.0] * 5
        weighted = [list(map(mul, term, self.weights)) for term in terms]
        matrix = [[sum(map(mul, row, terms[j])) for j in range(i + 1)] for i, row in enumerate(weighted)]
        right = [sum(map(mul, row, self._values)) for row in weighted]
        misfit = sum([w * y * y for w, y in zip(self.weights, self._values)])
        weight = 0.0
        for i, (mean, deviation) in enumerate(zip(around, within)):
            matrix[i][i] += deviation**-2
            right[i] += mean * deviation**-2
            misfit += (mean / deviation) ** 2
            weight -= math.log(deviation)
        factor = _cholesky(matrix)
        weight -= sum([math.log(row[-1]) for row in factor])
        u, v = _forward(factor, right), _forward(factor, self._AT_LAST)
        solution = _backward(factor, u)
        fitted = [sum(map(mul, solution, row)) for row in zip(*terms)]
        return Fit(
            tau=tau,
            steady=sum(map(mul, u, v)),
            variance=sum(map(mul, v, v)),
            misfit=misfit - sum(map(mul, u, u)),
            weight=weight,
            residuals=[y - f for y, f in zip(self._values, fitted)],
        )

    def _terms(self, tau: float) -> list[list[float]]:
        widths = self._widths
        ambient = _lag([1.0] * len(widths), widths, tau)
        sink = _lag(self._loads, widths, tau)
        return [
            ambient,
            [1.0 - share for share in ambient],
            sink,
            self._die,
            _lag(self._loads, widths, tau * _LAYERS_TAU),
            _lag(sink, widths, tau * _NEIGHBOURS_TAU),
            _lag(self._late, widths, tau),
        ]

    def _variances(self, bins: Sequence[Bin], noise: float, fast_s: float) -> list[float]:
        """Of each bin's mean: the samples' noise, the sensor's step, and at first the die's own way.

        However many samples there are, a mean counts as no better than the sensor's step.
        """
        early = _EARLY * (bins[-1].value - bins[0].value)
        return [
            noise / b.count
            + SENSOR_STEP**2 / 12
            + (early * math.exp(-(end - b.seconds / 2) / (_EARLY_S * fast_s))) ** 2
            for b, end in zip(bins, self._ends)
        ]


def _lag(drive: Sequence[float], widths: Sequence[float], tau: float) -> list[float]:
    """Means over the bins of x' = (drive - x) / tau, x = 0 at first, with a drive that is constant in each bin."""
    x, means = 0.0, []
    for goal, width in zip(drive, widths):
        left = math.exp(-width / tau)
        means.append(goal + (x - goal) * (1.0 - left) * tau / width)
        x = goal + (x - goal) * left
    return means


def _cholesky(lower: Sequence[Sequence[float]]) -> list[list[float]]:
    """The lower factor of a symmetric matrix, of which the lower half is given."""
    factor: list[list[float]] = []
    for i, given in enumerate(lower):
        row: list[float] = []
        for j in range(i):
            row.append((given[j] - sum(map(mul, row, factor[j]))) / factor[j][j])
        row.append(math.sqrt(given[i] - sum(map(mul, row, row))))
        factor.append(row)
    return factor


def _forward(factor: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    found: list[float] = []
    for row, value in zip(factor, right):
        found.append((value - sum(map(mul, row, found))) / row[-1])
    return found


def _backward(factor: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    found = list(right)
    for i in reversed(range(len(found))):
        found[i] = (found[i] - sum([factor[k][i] * found[k] for k in range(i + 1, len(found))])) / factor[i][i]
    return found
