"""What a burn says about each GPU, as evidence. Memory use is not here: it is measured from outside, afterwards."""

from __future__ import annotations

from typing import Any

from ...evidence.facts import Gap, to_json
from ...evidence.request import BurnRequest
from ..reading import printable
from .gpu import BurningGpu
from .node import Outcome
from .predict import decided, headroom, rested, temperature
from .series import CLOCK, MEMORY, POWER, REASON_BITS, REASONS, TEMPERATURE, Series

_LEAST_RISE_W = 10.0


def facts_of(gpu: BurningGpu, outcome: Outcome, request: BurnRequest) -> dict[str, Any]:
    """The fields of a BurnGpu as plain JSON data, without the memory use, which is measured outside."""
    series, answer, half = gpu.series, gpu.answer, gpu.seconds / 2
    predicted = headroom(series, request.headroom_c, over=True)
    ended, reason = outcome.ended, outcome.reason
    if gpu.stopped:
        ended, reason = "aborted", gpu.stopped
    elif ended == "maximum" and decided(predicted, request.headroom_c):
        ended, reason = "settled", "its own prediction was clear; other GPUs' were not"
    return {
        "uuid": gpu.uuid,
        "ended": ended,
        "reason": printable(reason),
        "seconds": gpu.seconds,
        "samples": len(series.times),
        "threads_launched": gpu.threads_launched,
        "threads_completed": answer.threads_completed,
        "mismatches": answer.mismatches,
        "first_mismatch": to_json(answer.first),
        "tflops": to_json(_tflops(gpu, half)),
        "power_w": to_json(plateau_power(series, half)),
        "sm_mhz": to_json(series.mean(CLOCK, half)),
        "max_temperature_c": to_json(_highest(series, TEMPERATURE)),
        "below_slowdown_c": to_json(predicted),
        "memory_c": to_json(temperature(series, MEMORY)),
        "resistance_c_per_w": to_json(_resistance(gpu)),
        "event_shares": to_json(event_shares(gpu)),
        "pcie_generation": to_json(gpu.pcie_generation),
        "pcie_width": to_json(gpu.pcie_width),
        "nvlink_states": to_json(gpu.nvlink_states),
        "ecc_uncorrected_gained": to_json(_gained(gpu.idle.ecc_uncorrected, gpu.device.ecc_uncorrected())),
    }


def _tflops(gpu: BurningGpu, after_s: float) -> float | Gap:
    """Operations of the plateau's launches over the time in which they ran; gaps between launches are the host's."""
    work = [(busy, operations) for end, busy, operations in gpu.work if end >= after_s]
    busy = sum([seconds for seconds, _ in work])
    return sum([operations for _, operations in work]) / busy / 1e12 if busy > 0 else Gap("no launch completed")


def plateau_power(series: Series, after_s: float) -> float | Gap:
    """Mean power from `after_s` on; a GPU that was left idle in between did not show what it draws."""
    return rested(series) or series.mean(POWER, after_s)


def _highest(series: Series, name: str) -> float | Gap:
    points = series.points(name)
    if isinstance(points, Gap):
        return points
    return max([value for _, value in points]) if points else Gap("the burn ended before its first sample")


def _resistance(gpu: BurningGpu) -> float | Gap:
    """(steady - idle temperature) / (power above idle)."""
    if gpu.series.throttled_at() is not None:
        return Gap("the card throttled for heat: temperature and power were not those of one load")
    steady, power, idle = temperature(gpu.series), plateau_power(gpu.series, gpu.seconds / 2), gpu.idle
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
    if not isinstance(before, Gap) and not isinstance(after, Gap) and gpu.seconds > 0:
        counted = {reason: (after[reason] - before[reason]) / 1e9 / gpu.seconds for reason in after}
    reasons = gpu.series.points(REASONS)
    if isinstance(reasons, Gap):
        return reasons
    if not reasons:
        return Gap("the burn ended before its first sample")
    shares = {}
    for name, bit in REASON_BITS.items():
        if counted.get(name, 0.0) < 0:
            return Gap(f"the driver's time counter of {name} ran backwards during the burn")
        sampled = sum([1 for _, mask in reasons if int(mask) & bit]) / len(reasons)
        shares[name] = max(sampled, min(1.0, counted.get(name, 0.0)))
    return shares


def _gained(before: int | Gap, after: int | Gap) -> int | Gap:
    if isinstance(before, Gap):
        return before
    if isinstance(after, Gap):
        return after
    return after - before if after >= before else Gap(f"the driver's count went back from {before} to {after}")
