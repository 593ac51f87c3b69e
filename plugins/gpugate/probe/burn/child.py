"""The process that burns. It cannot outlive its deadline: the kernel's own alarm ends it, and its parent as well."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import ProbeError
from ...evidence.facts import Gap, to_json
from ...evidence.request import BurnRequest
from .. import nvml
from ..cuda.driver import NVML, Cuda
from ..cuda.fresh import receive, say
from ..reading import attempt, printable
from .facts import facts_of, live
from .gpu import BurningGpu
from .node import Watch, burn
from .store import document, store

# What is kept of the deadline for ending in good order: a tenth, two seconds at least, never more than half.
_RESERVE, _LEAST_RESERVE_S = 0.1, 2.0
# GSP time-outs block a call for 45 s and then answer; beyond that nothing will. Who samples cannot wait so long: until
# the call returns nothing is queued, but nothing is watched either.
_CUDA_HANGS_AFTER_S, _NVML_HANGS_AFTER_S = 60.0, 10.0


def main() -> None:
    """Burn as asked. Messages are {"progress": line} and {"live": {"gpus": [...]}}, the last one is {"burn": ...}, with
    what this process knows of a Burn, or {"gap": why}. SIGTERM ends the burn in good order."""
    task = receive()
    request = BurnRequest(**task["request"])
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process even when no Python code can run any more
    signal.setitimer(signal.ITIMER_REAL, request.deadline_s)
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: told.set())
    try:
        say({"burn": _burn(task, request, told)})
    except ProbeError as error:
        say({"gap": printable(str(error))})
    except Exception as error:  # a bug must not end the burn without a word
        say({"gap": printable(f"probe error: {type(error).__name__}: {error} (while burning)")})
    sys.stdout.flush()
    os._exit(0)  # a hung driver must not hold up what else would be tidied at the exit


def _burn(task: dict[str, Any], request: BurnRequest, told: threading.Event) -> dict[str, Any]:
    began = time.monotonic()
    reserve = min(max(request.deadline_s * _RESERVE, _LEAST_RESERVE_S), request.deadline_s / 2)
    patience = min(_CUDA_HANGS_AFTER_S, request.deadline_s / 2)
    cuda = Cuda()
    watchdog = Watchdog(cuda, patience, min(_NVML_HANGS_AFTER_S, request.deadline_s / 4))
    gpus = _prepare(cuda, request, task["uuids"], watchdog)
    outcome = burn(
        gpus,
        request,
        Watch(
            give_up_at=began + request.deadline_s - reserve,
            last_call=began + request.deadline_s - reserve / 2,
            hangs_after_s=patience,
            told_to_stop=told.is_set,
            beat=watchdog.beat,
            tell=lambda: _tell(gpus),
        ),
    )
    facts = []
    for gpu in gpus:
        watchdog.beat()
        facts.append(facts_of(gpu, outcome, request))
    watchdog.beat()
    samples = attempt(
        "storing the burn's samples",
        lambda: store(Path(task["state_dir"]), _document(request, gpus)),
    )
    return {
        "work": request.work,
        "seconds": outcome.seconds,
        "gpus": facts,
        "samples": to_json(samples),
        "sampler_core_share": outcome.sampler_core_share,
    }


def _document(request: BurnRequest, gpus: Sequence[BurningGpu]) -> dict[str, Any]:
    """The samples of the mix, and beside them those of rates and memory test."""
    mix = document(request.work, {gpu.uuid: gpu.series for gpu in gpus})
    after = document(request.work, {gpu.uuid: gpu.series_after_mix for gpu in gpus})
    return {**mix, "after_mix": after["gpus"]}


def _tell(gpus: Sequence[BurningGpu]) -> None:
    say({"live": {"gpus": [live(gpu) for gpu in gpus]}})


def _prepare(cuda: Cuda, request: BurnRequest, uuids: list[str], watchdog: Watchdog) -> list[BurningGpu]:
    """Every GPU with its kernels loaded and its counters read, none of them under load yet."""
    cuda.calling, cuda.serving = NVML, "the node"
    adapter = nvml.start()
    if isinstance(adapter, Gap):
        raise ProbeError(f"the burn did not start: {adapter.unavailable}")
    cuda.call("cuInit", 0)
    handles = cuda.devices()
    gpus = []
    for uuid in uuids:
        watchdog.beat()
        say({"progress": f"preparing {uuid}"})
        if uuid not in handles:
            raise ProbeError(
                f"the burn did not start: CUDA does not see {uuid} (it sees {', '.join(handles) or 'none'})"
            )
        cuda.calling, cuda.serving = NVML, uuid
        device = adapter.device_by_uuid(uuid)
        if isinstance(device, Gap):
            raise ProbeError(f"the burn did not start: {uuid}: {device.unavailable}")
        try:
            gpu = BurningGpu(cuda, handles[uuid], device, uuid, request)
        except ProbeError as error:
            raise ProbeError(f"the burn did not start: {error}") from error
        lost = gpu.series.lost()
        if lost is not None:
            raise ProbeError(f"the burn did not start: {gpu.name} cannot be watched: {lost.unavailable}")
        gpus.append(gpu)
    return gpus


class Watchdog:
    """Ends the process when the burn's loop stands still, and says in which call for which GPU.

    Launches are queued by that loop alone: when it stands still, the GPUs run out of work.
    """

    def __init__(self, cuda: Cuda, patience_s: float, nvml_patience_s: float) -> None:
        self._cuda, self._patience_s, self._nvml_patience_s = cuda, patience_s, nvml_patience_s
        self._beats = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def beat(self) -> None:
        """The loop is alive."""
        self._beats += 1

    def _watch(self) -> None:
        seen, since = None, time.monotonic()
        while True:
            time.sleep(min(1.0, self._nvml_patience_s / 10))
            cuda = self._cuda
            now = (self._beats, cuda.calling, cuda.serving)
            asking = cuda.calling == NVML
            patience = self._nvml_patience_s if asking else self._patience_s
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > patience:
                call = f"NVML's {nvml.latest_call()}" if asking else cuda.calling
                hung = f"{call} for {cuda.serving} has not returned for {patience:g} s"
                say({"gap": printable(f"the burn was ended: {hung}")})
                os._exit(0)
