"""One GPU that burns: a short queue of launches; with each that completes a sample and the accumulated answer."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_void_p
from dataclasses import dataclass

from ...errors import ProbeError
from ...evidence.facts import Gap
from ..cuda.driver import Cuda, CudaError
from ..cuda.kernel import Answer, BurnKernel
from ..kernels import FLOP_PER_STEP
from ..nvml import Device
from .series import Series

LAUNCH_S = 0.09  # device time of one launch: a sample each, 11 Hz
_LEAST_DEPTH, _MOST_DEPTH = 2, 40
# The queue must outlast the moments in which a loaded host does not run this process. Two launches do on a real card;
# a clock that runs faster than the wall's needs more of them.
_BRIDGED_S = 0.05
_FIRST_ITERATIONS = 1024
_CALIBRATION_S = 0.005
_MOST_ITERATIONS = 1 << 30
_SEED_STEP = 0x9E3779B1


class Abort(ProbeError):
    """The burn of the whole node must stop now; the text says why and where."""


@dataclass(frozen=True)
class Idle:
    """What the GPU showed before the load."""

    temperature_c: float | Gap
    power_w: float | Gap
    ecc_uncorrected: int | Gap


@dataclass
class _Slot:
    """One launch in the queue, between two events."""

    begin: c_void_p
    end: c_void_p
    iterations: int = 0


class BurningGpu:
    """A GPU from its calibration to the last launch of its burn.

    `seconds`: its device time since `start`. `stopped`: why its burn ended before the others', empty where it did not.
    """

    def __init__(self, cuda: Cuda, handle: int, device: Device, uuid: str) -> None:
        self.uuid, self.device = uuid, device
        self.idle = Idle(device.temperature(), device.power_draw(), device.ecc_uncorrected())
        self.times_before = device.event_reason_times()
        self.times_after: dict[str, int] | Gap | None = None
        self.stopped = ""
        self.series = Series(device)
        self.seconds = 0.0
        self.work: list[tuple[float, float, float]] = []  # end, busy seconds and operations of each launch
        self.pcie_generation: int | Gap = Gap("the burn ended before the link was looked at")
        self.pcie_width: int | Gap = self.pcie_generation
        self.nvlink_states: list[int] | Gap = self.pcie_generation
        self.answer = Answer(0, 0, None)
        self._cuda, self._launches, self._busy_s = cuda, 0, 0.0
        with self._blame():
            self._kernel = BurnKernel(cuda, handle)
            self._started, self._started_wall = cuda.event(), time.monotonic()
            self._free = [self._slot()]
            self._queue: deque[_Slot] = deque()
            self._iterations = _FIRST_ITERATIONS
            self._calibrate()

    @property
    def name(self) -> str:
        """How messages call this GPU."""
        return f"GPU {self.device.index} ({self.uuid})"

    @property
    def threads_launched(self) -> int:
        return self._kernel.threads_launched

    @property
    def tflops(self) -> float:
        """Rate of the latest launch."""
        _, busy, operations = self.work[-1] if self.work else (0.0, 1.0, 0.0)
        return operations / busy / 1e12

    def start(self) -> None:
        """Start the GPU's clock and its load."""
        with self._blame():
            self._kernel.select()
            self._kernel.mark(self._started)
            self._started_wall = time.monotonic()
            self._fill()

    def step(self) -> bool:
        """Take in what has completed, queue anew and sample; False when nothing has completed. Raises Abort."""
        with self._blame():
            self._kernel.select()
            if not self._take():
                return False
            self._fill()
            self._check()
        self._cuda.calling = "NVML"  # for the watchdog, which looks at one place
        self.series.sample(self.seconds, self._busy_s)
        lost = self.series.lost()
        if lost is not None:
            raise Abort(f"{self.name} cannot be watched any longer: {lost.unavailable}")
        return True

    def drain(self) -> None:
        """Let what is queued run out, without a sample. Raises Abort."""
        with self._blame():
            self._kernel.select()
            self._kernel.wait()
            self._take()
            self._check()

    def stop(self, reason: str) -> None:
        """End this GPU's own burn; the others go on. Raises Abort."""
        self.drain()
        self.stopped = reason
        self.times_after = self.device.event_reason_times()

    def look(self) -> None:
        """Read what only shows under load and needs no dense sampling."""
        self.pcie_generation, self.pcie_width = self.device.pcie_generation(), self.device.pcie_width()
        self.nvlink_states = self.device.nvlink_states()

    def _calibrate(self) -> None:
        slot = self._free[0]
        while True:
            self._launch(slot)
            self._kernel.wait()
            seconds = self._cuda.seconds_between(slot.begin, slot.end)
            if seconds >= _CALIBRATION_S or self._iterations >= _MOST_ITERATIONS:
                break
            self._iterations *= 4
        self._rescale(slot.iterations, seconds)

    def _slot(self) -> _Slot:
        return _Slot(self._cuda.event(), self._cuda.event())

    def _launch(self, slot: _Slot) -> None:
        self._launches += 1
        slot.iterations = self._iterations
        self._kernel.mark(slot.begin)
        self._kernel.launch(slot.iterations, self._launches * _SEED_STEP & 0xFFFFFFFF)
        self._kernel.mark(slot.end)

    def _fill(self) -> None:
        pace = self.seconds / max(time.monotonic() - self._started_wall, 1e-3)
        depth = min(_MOST_DEPTH, max(_LEAST_DEPTH, math.ceil(_BRIDGED_S * pace / LAUNCH_S)))
        while len(self._queue) < depth:
            slot = self._free.pop() if self._free else self._slot()
            self._launch(slot)
            self._queue.append(slot)

    def _take(self) -> bool:
        taken = False
        while self._queue and self._cuda.ready(self._queue[0].end):
            slot = self._queue.popleft()
            self.seconds = self._cuda.seconds_between(self._started, slot.end)
            busy = self._cuda.seconds_between(slot.begin, slot.end)
            self.work.append((self.seconds, busy, float(FLOP_PER_STEP) * self._kernel.threads * slot.iterations))
            self._busy_s += busy
            self._rescale(slot.iterations, busy)
            self._free.append(slot)
            taken = True
        if taken:
            self.answer = self._kernel.answer()
        return taken

    def _rescale(self, iterations: int, seconds: float) -> None:
        """Keep launches near LAUNCH_S when the clocks move, in steps of a quarter octave: siblings do the same work."""
        if seconds > 0 and not 0.8 < seconds / LAUNCH_S < 1.2:
            wanted = iterations * LAUNCH_S / seconds
            quarters = round(4 * math.log2(max(wanted / _FIRST_ITERATIONS, 1.0)))
            self._iterations = min(_MOST_ITERATIONS, int(_FIRST_ITERATIONS * 2 ** (quarters / 4)) // 8 * 8)

    def _check(self) -> None:
        if self.answer.mismatches:
            first = self.answer.first
            where = f", first in thread {first.thread}: {first.found:#x} for {first.expected:#x}" if first else ""
            raise Abort(f"{self.name} calculated wrong in {self.answer.mismatches} threads{where}")

    @contextmanager
    def _blame(self) -> Iterator[None]:
        """Name this GPU in CUDA's refusals, and to whoever watches for calls that hang."""
        self._cuda.serving = self.name
        try:
            yield
        except CudaError as error:
            raise Abort(f"{self.name}: {error}") from error
