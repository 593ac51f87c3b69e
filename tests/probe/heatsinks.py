"""Cards whose true steady state is known: heat sinks from good to bad, with all that disturbs a burn."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from gpugate.evidence.facts import Gap
from gpugate.probe.burn.predict import RAMP_S
from gpugate.probe.burn.series import Series

RATE_HZ = 11
SETTLING = 5.0  # time constants
SLOWDOWN_C = 90.0
POWER_CAP, SW_THERMAL = 0x4, 0x20
_IDLE_W, _FULL_W, _NOISE_W = 70.0, 700.0, 3.0


@dataclass(frozen=True)
class Sink:
    """A card on its heat sink. Times in seconds, temperatures in C, shares of what they stand beside.

    `rise`: above ambient at full power, of which `die` with `die_s`. `leak`: share of power that the heat adds.
    `neighbours`: what they add to ambient at last, with `neighbours_s`. `fans`: the heat sink's resistance ends at so
    much of what it was, from the moment when the card has risen by `fans_from` of its rise on, over `fans_s`.
    `sway`: how far power wanders, with the period `sway_s`. `limit_c`: where the card throttles. `left_c`: heat of an
    earlier burn. `lag_s`: of the sensor. `frozen_s`: when it sticks.
    """

    tau: float
    rise: float
    ambient: float = 30.0
    noise: float = 0.0
    floors: bool = False
    die: float = 0.0
    die_s: float = 1.5
    leak: float = 0.0
    neighbours: float = 0.0
    neighbours_s: float = 60.0
    fans: float = 1.0
    fans_from: float = 0.0
    fans_s: float = 10.0
    fans_shown: bool = False
    cap_w: float = math.inf
    sway: float = 0.0
    sway_s: float = 60.0
    limit_c: float = math.inf
    left_c: float = 0.0
    lag_s: float = 0.0
    frozen_s: float = math.inf


@dataclass
class Burnt:
    """The series of one burn, and the temperature at which it would settle unthrottled."""

    series: Series
    steady_c: float


class _Device:
    """What a series asks of a card: its sensors, by name."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._none = Gap("this card has no such sensor", 3)

    def sensors(self, names: list[str]) -> dict[str, Any]:
        return {name: self.values.get(name, self._none) for name in names}


def burnt(sink: Sink, seconds: float, seed: int, power: bool = True) -> Burnt:
    """Burn a card for so long. `power`: whether it has a power sensor."""
    chance = random.Random(seed)  # noqa: S311  # repeatable noise
    device, step = _Device(), 1 / RATE_HZ
    per_w = sink.rise / _FULL_W
    phase = chance.uniform(0, 2 * math.pi)
    base = per_w * (1 - sink.die) * _IDLE_W + sink.left_c
    die, neighbours, resistance, blown = per_w * sink.die * _IDLE_W, 0.0, 1.0, 0.0
    true = seen = cold = sink.ambient + base + die
    reasons, free = 0, []

    def read(watts: float, stuck: bool) -> None:
        value = seen + chance.gauss(0, sink.noise)
        celsius = float(math.floor(value) if sink.floors else math.floor(value + 0.5))
        if not stuck:
            device.values |= {"temperature_c": celsius, "below_slowdown_c": SLOWDOWN_C - celsius}
        device.values["event_reasons"] = reasons
        if power:
            device.values["power_w"] = watts + chance.gauss(0, _NOISE_W)
        if sink.fans_shown:
            device.values["fan_percent"] = round(30 + 50 * blown)

    read(_IDLE_W, stuck=False)
    series = Series(device)  # type: ignore[arg-type]  # a device is its sensors to a series
    for i in range(1, int(seconds * RATE_HZ) + 1):
        t = i * step
        cool = _FULL_W * (1 + sink.sway * math.sin(2 * math.pi * t / sink.sway_s + phase))
        ask = cool * (1 + sink.leak * (true - cold) / sink.rise)
        reasons = POWER_CAP if ask > sink.cap_w else 0
        watts = _IDLE_W + (min(ask, sink.cap_w) - _IDLE_W) * min(1.0, math.floor(1 + 4 * t / RAMP_S) / 4)
        if true > sink.limit_c:
            reasons |= SW_THERMAL
            watts = _IDLE_W + (watts - _IDLE_W) * max(0.1, 1 - 0.1 * (true - sink.limit_c)) ** 2
        elif t > RAMP_S:
            free.append(min(cool, sink.cap_w))
        if sink.fans != 1.0 and (blown > 0 or true >= sink.ambient + sink.fans_from * sink.rise):
            blown = min(1.0, blown + step / sink.fans_s)
            resistance = 1 + (sink.fans - 1) * blown
        neighbours += (sink.neighbours - neighbours) * step / sink.neighbours_s
        base += (per_w * (1 - sink.die) * resistance * watts + neighbours - base) * step / (sink.tau * resistance)
        die += (per_w * sink.die * watts - die) * step / sink.die_s
        true = sink.ambient + base + die
        seen = seen + (true - seen) * step / sink.lag_s if sink.lag_s else true
        read(watts, t > sink.frozen_s)
        series.sample(t, t)
    full = median(free[len(free) * 2 // 3 :]) if free else _FULL_W
    return Burnt(series, _steady(sink, full, cold))


def _steady(sink: Sink, watts: float, cold: float) -> float:
    """Where a card ends that draws `watts` and what it leaks with heat, once fans and neighbours have done theirs."""
    end = sink.rise / _FULL_W * watts * ((1 - sink.die) * sink.fans + sink.die)
    leak = sink.leak / sink.rise if math.isinf(sink.cap_w) else 0.0
    return (sink.ambient + sink.neighbours + end * (1 - leak * cold)) / (1 - end * leak)


Family = Callable[[random.Random, Sink], Sink]
# What may disturb a burn, by name; `clean` is the heat sink alone, with its noise.
FAMILIES: dict[str, Family] = {
    "clean": lambda r, s: s,
    "hot start": lambda r, s: replace(s, left_c=r.uniform(2, 15)),
    "quick die": lambda r, s: replace(s, die=r.uniform(0.1, 0.35), die_s=r.uniform(1, 2)),
    "leakage": lambda r, s: replace(s, leak=r.uniform(0.01, 0.05)),
    "power cap": lambda r, s: replace(s, cap_w=r.uniform(450, 690), leak=0.03),
    "power sways": lambda r, s: replace(s, sway=r.uniform(0.01, 0.05), sway_s=r.uniform(20, 120)),
    "neighbours": lambda r, s: replace(
        s, neighbours=s.rise * r.uniform(0.03, 0.15), neighbours_s=s.tau * r.uniform(1, 4)
    ),
    "unseen fans": lambda r, s: replace(
        s, fans=r.uniform(0.7, 0.95), fans_from=r.uniform(0.3, 0.7), fans_s=r.uniform(5, 30)
    ),
    "seen fans": lambda r, s: replace(FAMILIES["unseen fans"](r, s), fans_shown=True),
    "failing fans": lambda r, s: replace(
        s, fans=r.uniform(1.05, 1.2), fans_from=r.uniform(0.2, 0.6), fans_s=r.uniform(2, 20)
    ),
    "throttle": lambda r, s: replace(s, limit_c=SLOWDOWN_C, ambient=SLOWDOWN_C - s.rise * r.uniform(0.5, 0.95)),
    "slow sensor": lambda r, s: replace(s, lag_s=r.uniform(0.5, 1.5)),
    "several": lambda r, s: replace(
        s,
        die=r.uniform(0.1, 0.35),
        die_s=r.uniform(1, 2),
        leak=r.uniform(0, 0.03),
        neighbours=s.rise * r.uniform(0, 0.1),
        neighbours_s=s.tau * r.uniform(1, 4),
        left_c=r.uniform(0, 8),
        sway=r.uniform(0, 0.02),
    ),
}


def drawn(family: str, seed: int) -> Sink:
    """A card of a family: time constants and rises from good to bad, noise of 0 to 1.5 C, both ways of rounding."""
    chance = random.Random(f"{family} {seed}")  # noqa: S311
    plain = Sink(
        tau=math.exp(chance.uniform(math.log(8), math.log(120))),
        rise=chance.uniform(15, 70),
        ambient=chance.uniform(20, 35),
        noise=chance.uniform(0, 1.5),
        floors=chance.random() < 0.5,
    )
    return FAMILIES[family](chance, plain)
