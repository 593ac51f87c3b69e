"""What one GPU's sensors said before and during the burn, on the clock of that GPU."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Any

from ...evidence.facts import Gap
from ..nvml import Device
from ..reading import Result
from .fit import Point

GPU_IS_LOST, RESET_REQUIRED = 15, 16  # nvmlReturn_t
HEADROOM, TEMPERATURE, MEMORY = "below_slowdown_c", "temperature_c", "memory_temperature_c"
POWER, CLOCK, MEMORY_CLOCK, FAN = "power_w", "sm_mhz", "memory_mhz", "fan_percent"
REASONS = "event_reasons"
PCIE_GENERATION, PCIE_WIDTH, PCIE_REPLAYS = "pcie_generation", "pcie_width", "pcie_replays"
SENSORS = (
    TEMPERATURE,
    HEADROOM,
    MEMORY,
    POWER,
    CLOCK,
    MEMORY_CLOCK,
    FAN,
    REASONS,
    PCIE_GENERATION,
    PCIE_WIDTH,
    PCIE_REPLAYS,
)
# nvmlClocksEventReasons, by the names of the evidence.
REASON_BITS = {"hw_slowdown": 0x8, "hw_thermal": 0x40, "power_brake": 0x80, "sw_thermal": 0x20, "sw_power_cap": 0x4}
_THERMAL = 0x20 | 0x40
# A single sample with a thermal reason is a blip; from three on the throttle holds the card.
_THROTTLED_SAMPLES = 3


@dataclass(frozen=True)
class Idle:
    """What the GPU showed before the load."""

    temperature_c: Result[float]
    below_slowdown_c: Result[float]
    memory_temperature_c: Result[float]
    power_w: Result[float]


class Series:
    """Samples of one GPU. A sensor that once gave a Gap is not asked again: its fact will be that Gap."""

    def __init__(self, device: Device) -> None:
        """Reads every sensor once, before the load: `idle`."""
        self._device = device
        self._asked = list(SENSORS)
        self.times: list[float] = []
        self.values: dict[str, list[Any]] = {name: [] for name in SENSORS}
        self.gaps: dict[str, Gap] = {}
        self.busy_s: list[float] = []
        self._thermal: list[int] = []
        first = self._read()
        self.idle = Idle(first[TEMPERATURE], first[HEADROOM], first[MEMORY], first[POWER])

    def sample(self, seconds: float, busy_s: float) -> None:
        """Read every sensor once; `seconds` is the GPU's own time since its burn began, `busy_s` how much it worked."""
        for name, value in self._read().items():
            if not isinstance(value, Gap):
                self.values[name].append(value)
        if REASONS not in self.gaps and self.values[REASONS][-1] & _THERMAL:
            self._thermal.append(len(self.times))
        self.times.append(seconds)
        self.busy_s.append(busy_s)

    def _read(self) -> dict[str, Any]:
        """What the sensors say that have not failed yet."""
        found = self._device.sensors(self._asked)
        failed = {name: value for name, value in found.items() if isinstance(value, Gap)}
        if failed:
            self.gaps.update(failed)
            self._asked = [name for name in self._asked if name not in failed]
        return found

    def latest(self, name: str) -> Result[Any]:
        """A sensor's last value, or the Gap that it gave."""
        if name in self.gaps:
            return self.gaps[name]
        return self.values[name][-1] if self.values[name] else Gap("the burn ended before its first sample")

    def lost(self) -> Gap | None:
        """The Gap that says that the driver has lost this GPU, if it has, or that its temperature is not known."""
        for gap in self.gaps.values():
            if gap.code in (GPU_IS_LOST, RESET_REQUIRED):
                return gap
        return self.gaps.get(HEADROOM)

    def loaded_share(self, after_s: float) -> float:
        """The part of the time since `after_s` in which a launch ran; 0 where there are not two samples."""
        place = bisect.bisect_left(self.times, after_s)
        span = self.times[-1] - self.times[place] if place < len(self.times) else 0.0
        return (self.busy_s[-1] - self.busy_s[place]) / span if span > 0 else 0.0

    def busy_shares(self) -> list[float]:
        """For each sample, the part of the time since the one before in which a launch ran."""
        spans = zip([0.0, *self.times], self.times, [0.0, *self.busy_s], self.busy_s)
        return [min(1.0, (worked - before) / (t - last)) if t > last else 1.0 for last, t, before, worked in spans]

    def throttled_at(self) -> int | None:
        """The place of the first sample under thermal throttling, None where the burn was free of it."""
        return self._thermal[0] if len(self._thermal) >= _THROTTLED_SAMPLES else None

    def points(self, name: str, after_s: float = 0.0) -> list[Point] | Gap:
        """(seconds, value) of a sensor, or the Gap that it gave."""
        if name in self.gaps:
            return self.gaps[name]
        return [(t, v) for t, v in zip(self.times, self.values[name]) if t >= after_s]

    def mean(self, name: str, after_s: float) -> float | Gap:
        """Mean of a sensor from `after_s` on."""
        points = self.points(name, after_s)
        if isinstance(points, Gap):
            return points
        if not points:
            return Gap(f"no samples after {after_s:.1f} s")
        return sum([value for _, value in points]) / len(points)
