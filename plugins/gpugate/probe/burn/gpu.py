"""One GPU that burns: a short queue of launches; with each that completes a sample and the accumulated answer."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_void_p
from dataclasses import dataclass, replace

from ...errors import ProbeError
from ...evidence.facts import Gap
from ...evidence.request import MIX as THE_MIX
from ...evidence.request import WORKS, BurnRequest
from ...evidence.types import MemoryTest, Mismatch
from .. import kernels
from ..cuda.driver import NVML, Cuda, CudaError
from ..cuda.kernel import NO_ANSWER, SLOTS, Answer, Kernels, warps_of
from ..nvml import Device
from ..reading import Result
from .jobs import LAUNCH_S, MEMORY, MIX, RAMP, RATES, Compute, Fill, Job, Sweep
from .memory import MemoryTester
from .predict import RAMP_S
from .series import Series

_LEAST_DEPTH, _MOST_DEPTH = 2, 40
# The queue must outlast the moments in which a loaded host does not run this process. Two launches do on a real card;
# a clock that runs faster than the wall's needs more of them.
_BRIDGED_S = 0.05
_UNLIMITED_ROUNDS = 0xFFFFFFFF
_GUESSED_HZ = 1e9  # of a driver that does not tell the clock
_LEAST_CYCLES, _MOST_CYCLES = 10_000, 1 << 40
_MOST_CHANGE = 8.0  # of the cycles at once
_RAMP_STEPS = 4
_RATE_S = 1.0
_SETTLING_LAUNCHES = 2  # of a work alone, in which the clock finds its place
_MOST_STREAM_BYTES, _STREAM_PART = 8 << 30, 4


class Abort(ProbeError):
    """The burn of the whole node must stop now; the text says why and where."""


@dataclass(frozen=True)
class Counters:
    """What must not grow under load."""

    ecc_corrected: Result[int]
    ecc_uncorrected: Result[int]
    rows_remapped: Result[int]
    pcie_replays: Result[int]

    @classmethod
    def read(cls, device: Device) -> Counters:
        rows = device.row_remap()
        gap = rows.gap("corrected_rows") or rows.gap("uncorrected_rows")
        remapped = gap or rows.corrected_rows + rows.uncorrected_rows
        return cls(device.ecc_corrected(), device.ecc_uncorrected(), remapped, device.pcie_replays())


@dataclass
class _Slot:
    """A place in the queue: a launch between two events, with a copy of the result (see `Kernels`)."""

    number: int
    begin: c_void_p
    end: c_void_p
    job: Job | None = None
    launch: int = 0
    cycles: int = 0


class BurningGpu:
    """A GPU from the preparation to the end of its memory test.

    `seconds`: its device time since `start`, `mix_s`: of that the part up to the last launch of the mix. `stopped`: why
    its burn ended before the others', empty where it did not. `phase`: that of its latest launch.
    """

    def __init__(self, cuda: Cuda, handle: int, device: Device, uuid: str, request: BurnRequest) -> None:
        self.uuid, self.device, self._request = uuid, device, request
        self.stopped, self.phase = "", RAMP
        self.seconds = self.mix_s = 0.0
        self.answer, self.located = NO_ANSWER, list[Mismatch]()
        self.latest: dict[str, float] = {}  # rates of the latest launch, by work, in units a second
        self.times_after: Result[dict[str, int]] | None = None
        self.nvlink_states: Result[list[int]] = Gap("the burn ended before the links were looked at")
        self._cuda, self._busy_s = cuda, 0.0
        with self.asking_nvml():
            self.before, self.times_before = Counters.read(device), device.event_reason_times()
            self.series, self.series_after_mix = Series(device), Series(device)
        self._measured: dict[str, list[tuple[float, float]]] = {}  # by work: units and busy seconds of each launch
        self._idle_works: list[str] = []
        self._memory = MemoryTester(cuda, request.memory_share)
        self._offsets: dict[int, int] = {}  # bytes into the tested memory, by launch
        self._mixing, self._barrier = True, False
        self._queue: deque[_Slot] = deque()
        self._plan: Iterator[Job | None] | None = self._everything()
        self._heard = time.monotonic()
        with self._blame():
            self._kernels = Kernels(cuda, handle)
            if request.work != THE_MIX and request.work not in self._kernels.works:
                able = ", ".join(self._kernels.works)
                raise Abort(f"{self.name} cannot do {request.work}; it can do {able}")
            self._kernels.load_tables()
            self._roles = kernels.roles(request.work, self._kernels.capability)
            self._cycles = int((self._kernels.clock_hz or _GUESSED_HZ) * LAUNCH_S)
            self._stream_bytes = min(_MOST_STREAM_BYTES, cuda.free_bytes() // _STREAM_PART)
            self._stream = cuda.allocate(self._stream_bytes)
            self._started, self._started_wall = cuda.event(), time.monotonic()
            self._free = [_Slot(number, cuda.event(), cuda.event()) for number in range(SLOTS)]

    @property
    def name(self) -> str:
        """How messages call this GPU."""
        return f"GPU {self.device.index} ({self.uuid})"

    @property
    def threads_launched(self) -> int:
        return self._kernels.threads_launched

    @property
    def works(self) -> list[str]:
        """What this GPU does one after the other once it is hot."""
        return self._kernels.works if self._request.work == THE_MIX else [self._request.work]

    @property
    def done(self) -> bool:
        """Whether nothing is queued and nothing will be."""
        return self._plan is None and not self._queue

    @property
    def waiting_s(self) -> float:
        """Wall time since a launch completed, while some are queued."""
        return time.monotonic() - self._heard if self._queue else 0.0

    @property
    def latest_series(self) -> Series:
        """The series that the latest sample went to."""
        return self.series_after_mix if self.series_after_mix.times else self.series

    def start(self) -> None:
        """Start the GPU's clock and its load."""
        with self._blame():
            self._kernels.select()
            self._kernels.mark(self._started)
            self._started_wall = self._heard = time.monotonic()
            self._fill()

    def step(self) -> bool:
        """Take in what has completed and queue anew; False when nothing has completed. Raises Abort."""
        if self.done:
            return False
        with self._blame():
            self._kernels.select()
            taken = self._take()
            self._fill()
        return taken

    def sample(self) -> None:
        """Read the sensors, after a step that took something in. Raises Abort where that cannot go on."""
        if self._plan is None:
            return  # what is queued runs out, and the card cools down
        mixing = self.phase in (RAMP, MIX)
        series = self.series if mixing else self.series_after_mix
        with self.asking_nvml():
            series.sample(self.seconds, self._busy_s)
            if not mixing:
                self._end_times()
        lost = series.lost()
        if lost is not None:
            raise Abort(f"{self.name} cannot be watched any longer: {lost.unavailable}")

    def end_mix(self) -> None:
        """Go on to the rates and the memory test."""
        self._mixing = False

    def wind_up(self) -> None:
        """Queue nothing more; what is queued runs out."""
        self._plan = None

    def stop(self, reason: str) -> None:
        """End this GPU's own burn; the others go on."""
        self.stopped = reason
        self.wind_up()
        with self.asking_nvml():
            self._end_times()

    def look(self) -> None:
        """Read what only shows under load and needs no dense sampling."""
        with self.asking_nvml():
            self.nvlink_states = self.device.nvlink_states()

    @contextmanager
    def asking_nvml(self) -> Iterator[None]:
        """NVML is asked about this GPU: for the watchdog."""
        self._cuda.calling, self._cuda.serving = NVML, self.name
        yield
        self._cuda.calling = "no function"

    def rates(self) -> dict[str, float] | Gap:
        """Tera-operations a second by work, of stream 10^9 bytes a second; a Gap unless every work was measured."""
        if self._idle_works:
            return Gap(f"{', '.join(self._idle_works)} did nothing in a launch of its own")
        found = {}
        for work in self.works:
            launches = self._measured.get(work, [])[_SETTLING_LAUNCHES:]
            units, busy = (sum([column[i] for column in launches]) for i in (0, 1))
            if busy <= 0:
                return Gap(f"{work} was not measured alone: {self.stopped or 'the burn ended before'}")
            found[work] = units / busy / (1e9 if work == "stream" else 1e12)
        return found

    def memory_test(self) -> MemoryTest | Gap:
        """What the memory test showed, or why there is nothing to show."""
        return Gap(f"the memory was not tested: {self.stopped}") if self.stopped else self._memory.result()

    def _end_times(self) -> None:
        """The mix is over: read how long which reason held the clocks in it."""
        if self.times_after is None:
            self.times_after = self.device.event_reason_times()

    # the plan

    def _everything(self) -> Iterator[Job | None]:
        """All launches of the burn; None where everything before must have run."""
        yield from self._mix()
        for work in self.works:
            roles = kernels.roles(work, self._kernels.capability)
            if work == "stream":
                yield None
                yield Fill(RATES, roles)
            for _ in range(_SETTLING_LAUNCHES + math.ceil(_RATE_S / LAUNCH_S)):
                yield Compute(RATES, roles)
        yield None
        self._kernels.stream_no_more()
        self._cuda.free(self._stream)
        yield from self._memory.plan()

    def _mix(self) -> Iterator[Job | None]:
        """Endless: a quarter of the warps more with each step, then all of them, until the mix is over."""
        launch = streaming = 0
        while self._mixing:
            # By launches, which may be far ahead in the queue; by the clock where a slow host leaves gaps between them.
            ramped = max(launch * LAUNCH_S, self.seconds) / RAMP_S
            steps = min(_RAMP_STEPS, 1 + int(ramped * _RAMP_STEPS))
            roles = self._roles & (1 << 4 * kernels.WARPS_A_BLOCK * steps // _RAMP_STEPS) - 1
            phase = RAMP if ramped < 1 else MIX
            if warps_of(roles, "stream") != streaming:  # each of them has a slice of the buffer
                streaming = warps_of(roles, "stream")
                yield None
                yield Fill(phase, roles)
            yield Compute(phase, roles)
            launch += 1

    # the queue

    def _fill(self) -> None:
        pace = self.seconds / max(time.monotonic() - self._started_wall, 1e-3)
        depth = min(_MOST_DEPTH, max(_LEAST_DEPTH, math.ceil(_BRIDGED_S * pace / LAUNCH_S)))
        while self._plan is not None and len(self._queue) < depth:
            if self._barrier and self._queue:
                return
            self._barrier = False
            try:
                job = next(self._plan)
            except StopIteration:
                self._plan = None
                return
            if job is None:
                self._barrier = True
            else:
                self._launch(job)

    def _launch(self, job: Job) -> None:
        slot = self._free.pop()
        slot.job, slot.cycles = job, self._cycles
        if not self._queue:
            self._heard = time.monotonic()
        self._kernels.mark(slot.begin)
        if isinstance(job, Compute):
            self._kernels.burn(job.roles, _UNLIMITED_ROUNDS, slot.cycles, slot.number)
        elif isinstance(job, Fill):
            self._kernels.stream_over(self._stream, self._stream_bytes, job.roles, slot.number)
        else:
            self._kernels.sweep(job.base, job.size // 4, job.expect, job.write, job.descending, slot.number)
        self._kernels.mark(slot.end)
        slot.launch = self._kernels.launches
        if isinstance(job, Sweep):
            self._offsets[slot.launch] = job.offset
        self._queue.append(slot)

    def _take(self) -> bool:
        taken = False
        while self._queue and self._cuda.ready(self._queue[0].end):
            slot = self._queue.popleft()
            self._free.append(slot)
            taken, self._heard = True, time.monotonic()
            self.seconds = self._cuda.seconds_between(self._started, slot.end)
            busy = self._cuda.seconds_between(slot.begin, slot.end)
            self._busy_s += busy
            before, self.answer = self.answer, self._kernels.answer(slot.number)
            idle = self._account(slot, busy, before)
            self._check(slot, before)
            if idle and self.phase in (RAMP, MIX):
                raise Abort(f"{self.name}: {', '.join(idle)} did nothing in launch {slot.launch}")
            self._idle_works += idle
        return taken

    def _account(self, slot: _Slot, busy: float, before: Answer) -> list[str]:
        """Book what a launch did; the works that it should have done and did not do at all."""
        job, answer = slot.job, self.answer
        assert job is not None  # noqa: S101  # a slot in the queue has one; for mypy
        self.phase = job.phase
        if job.phase in (RAMP, MIX):
            self.mix_s = self.seconds
        if isinstance(job, Compute):
            self._adapt(slot, busy)
            done = {
                work: (answer.rounds[work] - before.rounds[work]) * kernels.operations(work, self._kernels.capability)
                for work in self._kernels.works
                if warps_of(job.roles, work)
            }
            self.latest = {work: units / busy for work, units in done.items()} if busy > 0 else {}
            if job.phase == RATES:
                for work, units in done.items():
                    self._measured.setdefault(work, []).append((units, busy))
            return [work for work, units in done.items() if units <= 0]
        if isinstance(job, Sweep):
            self.latest = {MEMORY: job.moved / busy} if busy > 0 else {}
            self._memory.took(job, busy, answer.wrong_words - before.wrong_words, answer.vectors - before.vectors)
        return []

    def _adapt(self, slot: _Slot, busy: float) -> None:
        """Keep launches near LAUNCH_S when the clocks move. Any length will do: what is done is counted."""
        if busy > 0:
            change = min(_MOST_CHANGE, max(1 / _MOST_CHANGE, LAUNCH_S / busy))
            self._cycles = min(_MOST_CYCLES, max(_LEAST_CYCLES, int(slot.cycles * change)))

    def _check(self, slot: _Slot, before: Answer) -> None:
        """Raises Abort where a work that policy calls fatal went wrong in this launch, or may have."""
        wrong = self.answer.wrong_words - before.wrong_words
        if not wrong:
            return
        new = [self._placed(one) for one in self.answer.located[len(before.located) :]]
        self.located += new
        suspects = {one.work for one in new} or self._suspects(slot)
        if suspects - (set(WORKS) - set(self._request.fatal)):  # a work that nobody knows is no lesser fault
            first = new[0] if new else None
            where = (
                f", first in {first.work} on multiprocessor {first.sm}, block {first.block}, thread {first.thread}, "
                f"launch {first.launch}, round {first.round}, word {first.word}: {first.expected:#010x} was due, "
                f"{first.found:#010x} found, xor {first.expected ^ first.found:#010x}"
                if first
                else f" in launch {slot.launch}"
            )
            raise Abort(f"{self.name} calculated wrong: {self.answer.wrong_words} words{where}")

    def _suspects(self, slot: _Slot) -> set[str]:
        """The works of a launch that may have gone wrong, where no record of it says which did.

        Records are full after the first few wrong words. Those that could be blamed already are not fatal, or the burn
        would have ended; they go on being blamed.
        """
        works = {MEMORY} if isinstance(slot.job, Sweep) else set()
        if isinstance(slot.job, Compute):
            works = {work for work in self._kernels.works if warps_of(slot.job.roles, work)}
        known = {one.work for one in self.located}
        return works & known or works

    def _placed(self, one: Mismatch) -> Mismatch:
        """A word of the memory test, counted from the start of the tested memory.

        A launch that never was, as a sick device may write, keeps the count as it came: the word is wrong all the same.
        """
        if one.work != MEMORY:
            return one
        return replace(one, word=one.word + self._offsets.get(one.launch, 0) // 4)

    def _abandon(self) -> None:
        """CUDA refuses: do not even wait for what is queued."""
        self._plan = None
        self._queue.clear()

    @contextmanager
    def _blame(self) -> Iterator[None]:
        """Name this GPU in CUDA's refusals, and to whoever watches for calls that hang."""
        self._cuda.serving = self.name
        try:
            yield
        except CudaError as error:
            self._abandon()
            raise Abort(f"{self.name}: {error}") from error
