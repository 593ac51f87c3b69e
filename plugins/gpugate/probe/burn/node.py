"""All GPUs of the node burn together; one loop serves them, so that no launch is queued while nobody samples."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Callable

from ...errors import ProbeError
from ...evidence.facts import Gap
from ...evidence.request import BurnRequest
from .gpu import Abort, BurningGpu
from .jobs import LAUNCH_S
from .predict import RAMP_S, decided, headroom, temperature
from .series import HEADROOM, MEMORY

_TELL_EVERY_S = 1.0  # wall
_LOOK_EVERY_S = 1.0  # device time; later looks come in steps of 5%, as late samples tell little news
_LOOK_GROWTH = 1.05


class Hung(ProbeError):
    """A GPU does not come to the end of a launch; nothing more is to be had from its driver."""


@dataclass(frozen=True)
class Outcome:
    """How the burn ended: settled, maximum or aborted, why, and the device seconds that the mix took.

    `sampler_core_share`: the processor time of all sampling over the wall time of the burn.
    """

    ended: str
    reason: str
    seconds: float
    sampler_core_share: float


@dataclass(frozen=True)
class Watch:
    """What may end a burn from outside, and who wants to hear of it.

    `give_up_at` and `last_call` are readings of time.monotonic(): then to stop in good order, and to wait for no launch
    any longer. `hangs_after_s`: the wall time that a launch may take. `told_to_stop`: does somebody want the burn to
    end. `beat` is called in every round, `tell` about once a second.
    """

    give_up_at: float
    last_call: float
    hangs_after_s: float
    told_to_stop: Callable[[], bool]
    beat: Callable[[], None]
    tell: Callable[[], None]


def burn(gpus: Sequence[BurningGpu], request: BurnRequest, watch: Watch) -> Outcome:
    """Burn until every GPU's headroom is decided, `max_s` is over or something is wrong; in good order, go on to the
    rates and the memory test. A GPU that comes too near to slowdown stops alone.

    Raises Hung where a launch does not come to its end.
    """
    began = time.monotonic()
    crew = _Crew(gpus, request, watch)
    try:
        ended, reason = crew.mix()
        crew.afterwards()
    except Abort as abort:
        ended, reason = "aborted", str(abort)
    late = crew.wind_up()
    if late and ended != "aborted":  # what the last launches show counts as much as what the first ones show
        ended, reason = "aborted", late
    watch.tell()
    share = crew.sampling_s / (time.monotonic() - began)
    return Outcome(ended, reason, max(gpu.mix_s for gpu in gpus), share)


class _Crew:
    """The GPUs under load, served in turn."""

    def __init__(self, gpus: Sequence[BurningGpu], request: BurnRequest, watch: Watch) -> None:
        self._gpus, self._request, self._watch = gpus, request, watch
        self._waiting = list(gpus)
        self._burning: list[BurningGpu] = []
        self._pause, self._told = _Pause(), time.monotonic()
        self.sampling_s = 0.0

    def mix(self) -> tuple[str, str]:
        """The mix, up to its own end: settled or maximum, and why. Raises Abort."""
        request = self._request
        unseen: list[BurningGpu] = []
        look_at = _LOOK_EVERY_S
        while True:
            self._start_next()
            served = self._round()
            if not self._burning and not self._waiting:
                raise Abort("every GPU came too near to slowdown")
            unseen = [gpu for gpu in unseen if not gpu.stopped]
            seconds = 0.0 if self._waiting else min(gpu.seconds for gpu in self._burning)
            if seconds >= look_at and not unseen:
                look_at = max(seconds + _LOOK_EVERY_S, seconds * _LOOK_GROWTH)
                unseen = list(self._burning)
            if unseen:  # one GPU a round, so that no launch waits for eight fits
                gpu = unseen.pop()
                with self._sampling():
                    gpu.look()
                if seconds < request.min_s:
                    continue
                if not is_decided(gpu, request):
                    unseen = []
                elif not unseen:
                    return "settled", f"every prediction was clear of {request.headroom_c:g} C after {seconds:.1f} s"
            if seconds >= request.max_s:
                return "maximum", f"the burn reached its maximum of {request.max_s:g} s"
            self._pause.after(served, len(self._burning))

    def afterwards(self) -> None:
        """Each work alone, then the memory test, of those that still burn. Raises Abort."""
        for gpu in self._burning:
            gpu.end_mix()
        while any(not gpu.done for gpu in self._burning):
            self._pause.after(self._round(), len(self._burning))

    def wind_up(self) -> str:
        """Let run out what is queued; what goes wrong in that, in words."""
        trouble = ""
        for gpu in self._gpus:
            gpu.wind_up()
        while any(not gpu.done for gpu in self._gpus):
            self._watch.beat()
            served = 0
            for gpu in self._gpus:
                try:
                    served += gpu.step()
                except Abort as abort:
                    trouble = trouble or str(abort)
                self._insist(gpu)
            self._pause.after(served, len(self._gpus))
        return trouble

    def _start_next(self) -> None:
        """The node's power supply sees one GPU after the other, not all at once."""
        while self._waiting:
            place = 1 - len(self._waiting) / len(self._gpus)
            if self._burning and self._burning[0].seconds < RAMP_S * place:
                return
            gpu = self._waiting.pop(0)
            gpu.start()
            self._burning.append(gpu)

    def _round(self) -> int:
        """Serve every GPU once; how many had something. Raises Abort."""
        self._watch.beat()
        served = []
        for gpu in self._burning:
            if gpu.step():
                served.append(gpu)
            self._insist(gpu)
        with self._sampling():
            for gpu in served:
                gpu.sample()
        for gpu in list(self._burning):
            heat = _too_hot(gpu, self._request)
            if heat:
                gpu.stop(heat)
            if gpu.stopped and gpu.done:
                self._burning.remove(gpu)
        now = time.monotonic()
        if now - self._told >= _TELL_EVERY_S:
            self._told = now
            self._watch.tell()
        if self._watch.told_to_stop():
            raise Abort("it was told to stop")
        if now >= self._watch.give_up_at:
            raise Abort(f"the deadline of {self._request.deadline_s:g} s (wall) came before the burn's own end")
        return len(served)

    @contextlib.contextmanager
    def _sampling(self) -> Iterator[None]:
        begun = time.thread_time()
        yield
        self.sampling_s += time.thread_time() - begun

    def _insist(self, gpu: BurningGpu) -> None:
        waiting = gpu.waiting_s
        if waiting > self._watch.hangs_after_s or (waiting and time.monotonic() > self._watch.last_call):
            raise Hung(f"the burn was ended: a launch on {gpu.name} has not come to its end for {waiting:.1f} s")


def is_decided(gpu: BurningGpu, request: BurnRequest) -> bool:
    """Whether this GPU's predicted headroom is clear of the bound, and its memory, if it has a sensor, predicted too.

    Where the headroom is lost nobody waits for the memory.
    """
    predicted = headroom(gpu.series, request.headroom_c, over=False)
    if isinstance(predicted, Gap) or not decided(predicted, request.headroom_c):
        return False
    if predicted.high < request.headroom_c or MEMORY in gpu.series.gaps:
        return True
    return not isinstance(temperature(gpu.series, MEMORY, over=False), Gap)


def _too_hot(gpu: BurningGpu, request: BurnRequest) -> str:
    """Why this GPU has to stop now; its neighbours, which each have this bound, go on and are measured."""
    left = gpu.latest_series.latest(HEADROOM)
    if gpu.stopped or isinstance(left, Gap) or left >= request.abort_below_slowdown_c:
        return ""
    return (
        f"{gpu.name} came to {left:g} C below slowdown after {gpu.seconds:.1f} s, "
        f"and the burn stops below {request.abort_below_slowdown_c:g} C"
    )


class _Pause:
    """Sleeps a small part of what a launch takes on the wall, as seen from here: neither spins nor starves a GPU."""

    _PART, _LEAST_S, _MOST_S = 0.5, 0.0002, 0.06

    def __init__(self) -> None:
        self._launch_s, self._since = LAUNCH_S, time.monotonic()
        self._served = 0

    def after(self, served: int, burning: int) -> None:
        """Sleep, unless this round had work: then there may be more."""
        self._served += served
        if self._served >= 2 * burning:
            now = time.monotonic()
            self._launch_s = (now - self._since) * burning / max(self._served, 1)
            self._since, self._served = now, 0
        if not served:
            time.sleep(min(self._MOST_S, max(self._LEAST_S, self._launch_s * self._PART)))
