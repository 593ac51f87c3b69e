"""What a burn says about each GPU, as evidence. Memory use is not here: it is measured from outside, afterwards."""

from __future__ import annotations

from typing import Any

from ...evidence.facts import Gap, to_json
from ...evidence.request import BurnRequest
from ..reading import Result, printable
from .gpu import BurningGpu, Counters
from .node import Outcome
from .predict import decided, headroom, rested, temperature
from .series import (
    CLOCK,
    FAN,
    HEADROOM,
    MEMORY,
    PCIE_GENERATION,
    PCIE_WIDTH,
    POWER,
    REASON_BITS,
    REASONS,
    TEMPERATURE,
    Series,
)

_LEAST_RISE_W = 10.0
_NO_SAMPLE = Gap("the burn ended before its first sample")
_WHOLE_NUMBERS, _BYTES = ("s8",), ("stream", "memory")


def facts_of(gpu: BurningGpu, outcome: Outcome, request: BurnRequest) -> dict[str, Any]:
    """The fields of a BurnGpu as plain JSON data, without the memory use, which is measured outside."""
    series, answer, half = gpu.series, gpu.answer, gpu.mix_s / 2
    predicted = headroom(series, request.headroom_c, over=True)
    ended, reason = outcome.ended, outcome.reason
    if gpu.stopped:
        ended, reason = "aborted", gpu.stopped
    elif ended == "maximum" and decided(predicted, request.headroom_c):
        ended, reason = "settled", f"its prediction was clear of {request.headroom_c:g} C when {outcome.reason}"
    with gpu.asking_nvml():
        before, after = gpu.before, Counters.read(gpu.device)
        shares = event_shares(gpu)
    return {
        "uuid": gpu.uuid,
        "ended": ended,
        "reason": printable(reason),
        "seconds": gpu.mix_s,
        "samples": len(series.times),
        "samples_per_s": to_json(len(series.times) / gpu.mix_s if gpu.mix_s > 0 else _NO_SAMPLE),
        "threads_launched": gpu.threads_launched,
        "threads_completed": answer.threads_completed,
        "mismatches": answer.wrong_words,
        "wrong": to_json(gpu.located),
        "rates": to_json(gpu.rates()),
        "memory_test": to_json(gpu.memory_test()),
        "power_w": to_json(plateau_power(series, half)),
        "sm_mhz": to_json(series.mean(CLOCK, half)),
        "max_temperature_c": to_json(_highest(gpu, TEMPERATURE)),
        "max_fan_percent": to_json(_highest(gpu, FAN)),
        "below_slowdown_c": to_json(predicted),
        "memory_c": to_json(temperature(series, MEMORY, over=True)),
        "resistance_c_per_w": to_json(_resistance(gpu)),
        "event_shares": to_json(shares),
        "pcie_generation": to_json(_lowest(series, PCIE_GENERATION, half)),
        "pcie_width": to_json(_lowest(series, PCIE_WIDTH, half)),
        "pcie_replays_gained": to_json(_gained(before.pcie_replays, after.pcie_replays)),
        "nvlink_states": to_json(gpu.nvlink_states),
        "ecc_corrected_gained": to_json(_gained(before.ecc_corrected, after.ecc_corrected)),
        "ecc_uncorrected_gained": to_json(_gained(before.ecc_uncorrected, after.ecc_uncorrected)),
        "rows_remapped_gained": to_json(_gained(before.rows_remapped, after.rows_remapped)),
    }


def live(gpu: BurningGpu) -> dict[str, Any]:
    """What is to be seen of a GPU while it burns; None for what its sensors do not say."""
    series = gpu.latest_series
    shown = {name: series.latest(name) for name in (TEMPERATURE, HEADROOM, POWER, CLOCK)}
    return {
        "index": gpu.device.index,
        "uuid": gpu.uuid,
        "seconds": gpu.seconds,
        "phase": gpu.phase,
        **{name: None if isinstance(value, Gap) else value for name, value in shown.items()},
        "rate": _rate(gpu.latest),
        "mismatches": gpu.answer.wrong_words,
    }


def _rate(units: dict[str, float]) -> str | None:
    """Rates of a launch in words, what is alike together."""
    whole = sum([rate for work, rate in units.items() if work in _WHOLE_NUMBERS])
    moved = sum([rate for work, rate in units.items() if work in _BYTES])
    broken = sum(units.values()) - whole - moved
    parts = [(broken, 1e12, "TFLOP/s"), (whole, 1e12, "TOP/s"), (moved, 1e9, "GB/s")]
    return " + ".join(f"{rate / scale:.1f} {unit}" for rate, scale, unit in parts if rate > 0) or None


def plateau_power(series: Series, after_s: float) -> float | Gap:
    """Mean power from `after_s` on; a GPU that was left idle in between did not show what it draws."""
    return rested(series) or series.mean(POWER, after_s)


def _highest(gpu: BurningGpu, name: str) -> float | Gap:
    """The highest value of the whole burn."""
    found: list[float] = []
    for series in (gpu.series, gpu.series_after_mix):
        points = series.points(name)
        if isinstance(points, Gap):
            return points
        found += [value for _, value in points]
    return max(found) if found else _NO_SAMPLE


def _lowest(series: Series, name: str, after_s: float) -> int | Gap:
    """The lowest value of the plateau; a link that is slow only now and then is slow."""
    points = series.points(name, after_s)
    if isinstance(points, Gap):
        return points
    return int(min([value for _, value in points])) if points else _NO_SAMPLE


def _resistance(gpu: BurningGpu) -> float | Gap:
    """(steady - idle temperature) / (power above idle)."""
    if gpu.series.throttled_at() is not None:
        return Gap("the card throttled for heat: temperature and power were not those of one load")
    steady, power, idle = temperature(gpu.series, over=True), plateau_power(gpu.series, gpu.mix_s / 2), gpu.series.idle
    if isinstance(steady, Gap):
        return steady
    if isinstance(power, Gap):
        return power
    if isinstance(idle.temperature_c, Gap):
        return idle.temperature_c
    if isinstance(idle.power_w, Gap):
        return idle.power_w
    rise = power - idle.power_w
    if rise < _LEAST_RISE_W:
        return Gap(f"the burn drew {power:.0f} W, {idle.power_w:.0f} W at idle: no load to speak of")
    return (steady.value - idle.temperature_c) / rise


def event_shares(gpu: BurningGpu) -> dict[str, float] | Gap:
    """Share of the burn's time by reason: by samples, and by the driver's own time counters where they tell of more.

    A counter knows of pulses between samples; one that stands still while the samples show its reason is not believed.
    """
    before, after = gpu.times_before, gpu.times_after or gpu.device.event_reason_times()
    counted = {}
    if not isinstance(before, Gap) and not isinstance(after, Gap) and gpu.mix_s > 0:
        counted = {reason: (after[reason] - before[reason]) / 1e9 / gpu.mix_s for reason in after}
    reasons = gpu.series.points(REASONS)
    if isinstance(reasons, Gap):
        return reasons
    if not reasons:
        return _NO_SAMPLE
    shares = {}
    for name, bit in REASON_BITS.items():
        if counted.get(name, 0.0) < 0:
            return Gap(f"the driver's time counter of {name} ran backwards during the burn")
        sampled = sum([1 for _, mask in reasons if int(mask) & bit]) / len(reasons)
        shares[name] = max(sampled, min(1.0, counted.get(name, 0.0)))
    return shares


def _gained(before: Result[int], after: Result[int]) -> Result[int]:
    if isinstance(before, Gap):
        return before
    if isinstance(after, Gap):
        return after
    return after - before if after >= before else Gap(f"the driver's count went back from {before} to {after}")
