"""All GPUs of the node burn together; one loop serves them, so that no launch is queued while nobody samples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable

from ...evidence.facts import Gap
from ...evidence.request import BurnRequest
from .gpu import LAUNCH_S, Abort, BurningGpu
from .predict import RAMP_S, decided, headroom, temperature
from .series import CLOCK, HEADROOM, MEMORY, POWER, TEMPERATURE

_TELL_EVERY_S = 1.0  # wall
_LOOK_EVERY_S = 1.0  # device time; later looks come in steps of 5%, as late samples tell little news
_LOOK_GROWTH = 1.05


@dataclass(frozen=True)
class Outcome:
    """How the burn ended: settled, maximum or aborted, why, and the device seconds that it took."""

    ended: str
    reason: str
    seconds: float


def burn(
    gpus: Sequence[BurningGpu],
    request: BurnRequest,
    give_up_at: float,
    tell: Callable[[str], None],
    beat: Callable[[], None],
) -> Outcome:
    """Burn until every GPU's headroom is decided, `max_s` is over or something is wrong. A GPU that comes too near to
    slowdown stops alone.

    `give_up_at` is the reading of time.monotonic() at which to stop in good order. `beat` is called in every round.
    """
    try:
        outcome = _serve(gpus, request, give_up_at, tell, beat)
    except Abort as abort:
        outcome = Outcome("aborted", str(abort), 0.0)
    for gpu in (gpu for gpu in gpus if not gpu.stopped):
        beat()
        try:
            gpu.drain()
        except Abort as abort:  # what the last launches show counts as much as what the first ones show
            if outcome.ended != "aborted":
                outcome = Outcome("aborted", str(abort), 0.0)
    _tell(gpus, tell)
    return Outcome(outcome.ended, outcome.reason, max(gpu.seconds for gpu in gpus))


def _serve(
    gpus: Sequence[BurningGpu],
    request: BurnRequest,
    give_up_at: float,
    tell: Callable[[str], None],
    beat: Callable[[], None],
) -> Outcome:
    waiting = list(gpus)
    burning: list[BurningGpu] = []
    unseen: list[BurningGpu] = []
    pause, look_at, told = _Pause(), _LOOK_EVERY_S, time.monotonic()
    while True:
        beat()
        # The node's power supply sees one GPU after the other, not all at once.
        while waiting and (not burning or burning[0].seconds >= RAMP_S * (1 - len(waiting) / len(gpus))):
            gpu = waiting.pop(0)
            gpu.start()
            burning.append(gpu)
        served = 0
        for gpu in list(burning):
            if gpu.step():
                served += 1
                if heat := _too_hot(gpu, request):
                    gpu.stop(heat)
                    burning.remove(gpu)
                    unseen = [other for other in unseen if other is not gpu]
        now = time.monotonic()
        if now - told >= _TELL_EVERY_S:
            told = now
            _tell(burning, tell)
        if now >= give_up_at:
            return Outcome(
                "aborted", f"the deadline of {request.deadline_s:g} s (wall) came before the burn's own end", 0.0
            )
        if not burning and not waiting:
            return Outcome("aborted", "every GPU came too near to slowdown", 0.0)
        seconds = 0.0 if waiting else min(gpu.seconds for gpu in burning)
        if seconds >= look_at and not unseen:
            look_at = max(seconds + _LOOK_EVERY_S, seconds * _LOOK_GROWTH)
            unseen = list(burning)
        if unseen:  # one GPU a round, so that no launch waits for eight fits
            gpu = unseen.pop()
            gpu.look()
            if seconds < request.min_s:
                continue
            if not is_decided(gpu, request):
                unseen = []
            elif not unseen:
                clear = f"every prediction was clear of {request.headroom_c:g} C after {seconds:.1f} s"
                return Outcome("settled", clear, 0.0)
        if seconds >= request.max_s:
            return Outcome("maximum", f"the burn reached its maximum of {request.max_s:g} s", 0.0)
        pause.after(served, len(burning))


def is_decided(gpu: BurningGpu, request: BurnRequest) -> bool:
    """Whether this GPU's predicted headroom is clear of the bound, and its memory, if it has a sensor, predicted too.

    Where the headroom is lost nobody waits for the memory.
    """
    predicted = headroom(gpu.series, request.headroom_c, over=False)
    if isinstance(predicted, Gap) or not decided(predicted, request.headroom_c):
        return False
    if predicted.high < request.headroom_c or MEMORY in gpu.series.gaps:
        return True
    return not isinstance(temperature(gpu.series, MEMORY), Gap)


def _too_hot(gpu: BurningGpu, request: BurnRequest) -> str:
    """Why this GPU has to stop now; its neighbours, which each have this bound, go on and are measured."""
    left = gpu.series.values[HEADROOM][-1]
    if left >= request.abort_below_slowdown_c:
        return ""
    return (
        f"{gpu.name} came to {left:g} C below slowdown after {gpu.seconds:.1f} s, "
        f"and the burn stops below {request.abort_below_slowdown_c:g} C"
    )


def _tell(gpus: Sequence[BurningGpu], tell: Callable[[str], None]) -> None:
    for gpu in gpus:
        latest = {name: str(values[-1]) for name, values in gpu.series.values.items() if values}
        tell(
            f"{gpu.name}: {gpu.seconds:.1f} s, {latest.get(TEMPERATURE, '?')} C, "
            f"{latest.get(HEADROOM, '?')} C below slowdown, "
            f"{latest.get(POWER, '?')} W, {latest.get(CLOCK, '?')} MHz, {gpu.tflops:.1f} TFLOP/s, "
            f"{gpu.answer.mismatches} mismatches"
        )


class _Pause:
    """Sleeps a small part of what a launch takes on the wall, as seen from here: neither spins nor starves a GPU."""

    _PART, _LEAST_S, _MOST_S = 0.25, 0.0002, 0.02

    def __init__(self) -> None:
        self._launch_s, self._since = LAUNCH_S, time.monotonic()
        self._served = 0

    def after(self, served: int, burning: int) -> None:
        """Sleep, unless this round had work: then there may be more."""
        self._served += served
        if self._served >= 2 * burning:
            now = time.monotonic()
            self._launch_s = (now - self._since) * burning / self._served
            self._since, self._served = now, 0
        if not served:
            time.sleep(min(self._MOST_S, max(self._LEAST_S, self._launch_s * self._PART)))
