"""The process that burns. It cannot outlive its deadline: the kernel's own alarm ends it, and its parent as well."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from ...errors import ProbeError
from ...evidence.facts import Gap, to_json
from ...evidence.request import BurnRequest
from .. import nvml
from ..cuda.driver import Cuda
from ..cuda.fresh import receive, say
from ..kernels import BURN
from ..reading import attempt, printable
from .facts import facts_of
from .gpu import BurningGpu
from .node import burn
from .store import document, store

# What is kept of the deadline for ending in good order: a tenth, two seconds at least, never more than half.
_RESERVE, _LEAST_RESERVE_S = 0.1, 2.0
# GSP time-outs block a call for 45 s and then answer; beyond that nothing will.
HANGS_AFTER_S = 60.0


def main() -> None:
    """Burn as asked; the last message is {"burn": ...} or {"gap": ...}."""
    task = receive()
    request = BurnRequest(**task["request"])
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process even when no Python code can run any more
    signal.setitimer(signal.ITIMER_REAL, request.deadline_s)
    try:
        say({"burn": _burn(task, request)})
    except ProbeError as error:
        say({"gap": printable(str(error))})


def _burn(task: dict[str, Any], request: BurnRequest) -> dict[str, Any]:
    reserve = min(max(request.deadline_s * _RESERVE, _LEAST_RESERVE_S), request.deadline_s / 2)
    give_up_at = time.monotonic() + request.deadline_s - reserve
    cuda = Cuda()
    watchdog = Watchdog(cuda, min(HANGS_AFTER_S, request.deadline_s / 2))
    adapter = nvml.start()
    if isinstance(adapter, Gap):
        raise ProbeError(f"the burn did not start: {adapter.unavailable}")
    gpus = _prepare(cuda, adapter, task["uuids"], watchdog)
    outcome = burn(gpus, request, give_up_at, lambda line: say({"progress": line}), watchdog.beat)
    watchdog.beat()
    facts = [facts_of(gpu, outcome, request) for gpu in gpus]
    samples = attempt(
        "storing the burn's samples",
        lambda: store(Path(task["state_dir"]), document(BURN, {gpu.uuid: gpu.series for gpu in gpus})),
    )
    return {"kernel": BURN, "seconds": outcome.seconds, "gpus": facts, "samples": to_json(samples)}


def _prepare(cuda: Cuda, adapter: nvml.Nvml, uuids: list[str], watchdog: Watchdog) -> list[BurningGpu]:
    cuda.call("cuInit", 0)
    handles = cuda.devices()
    gpus = []
    for uuid in uuids:
        watchdog.beat()
        if uuid not in handles:
            raise ProbeError(
                f"the burn did not start: CUDA does not see {uuid} (it sees {', '.join(handles) or 'none'})"
            )
        device = adapter.device_by_uuid(uuid)
        if isinstance(device, Gap):
            raise ProbeError(f"the burn did not start: {uuid}: {device.unavailable}")
        below = device.below_slowdown()
        if isinstance(below, Gap):
            raise ProbeError(f"the burn did not start: {uuid} cannot be watched: {below.unavailable}")
        gpus.append(BurningGpu(cuda, handles[uuid], device, uuid))
    return gpus


class Watchdog:
    """Ends the process when the burn's loop stands still, and says in which call for which GPU."""

    def __init__(self, cuda: Cuda, patience_s: float) -> None:
        self._cuda, self._patience_s = cuda, patience_s
        self._beats = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def beat(self) -> None:
        """The loop is alive."""
        self._beats += 1

    def _watch(self) -> None:
        seen, since = -1, time.monotonic()
        while True:
            time.sleep(min(1.0, self._patience_s / 10))
            if self._beats != seen:
                seen, since = self._beats, time.monotonic()
            elif time.monotonic() - since > self._patience_s:
                hung = f"{self._cuda.calling} for {self._cuda.serving} has not returned for {self._patience_s:g} s"
                say({"gap": printable(f"the burn was ended: {hung}")})
                os._exit(0)
