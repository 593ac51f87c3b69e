"""The process that asks the driver: launches, allocations, then every GPU. Each is told as soon as it is there.

The driver may never answer, and a process that waits for it cannot always be killed. So it is a process of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Callable

from ..evidence.facts import Gap, to_json
from ..evidence.request import ProbeRequest
from ..evidence.types import Allocation, Gpu, Launch
from .cuda.fresh import receive, say
from .gpus import gpus
from .node import Node
from .nvml import Nvml
from .orders import probe_request
from .reading import Result, attempt
from .session import session


def main() -> None:
    """Messages are {"stage": ...} before each step, {"progress": ...}, and {"told": name, "as": reading}.

    Launches and allocations come first, so that the facts also tell what they did.
    """
    task = receive()
    node, request = Node(Path(task["root"]), Path(task["state_dir"])), probe_request(json.dumps(task["request"]))
    _stage("opening NVML")
    with session(node) as ml:
        _tell("nvml_version", lambda: ml if isinstance(ml, Gap) else ml.driver_version())
        _tell("gpu_count", lambda: ml if isinstance(ml, Gap) else ml.count())
        _tell("launches", lambda: _launches(request, ml))
        _tell("allocations", lambda: _allocations(request, ml))
        _tell("gpus", lambda: _gpus(node, ml))
        _stage("closing NVML")


def _stage(words: str) -> None:
    say({"stage": words})


def _tell(name: str, read: Callable[[], object]) -> None:
    say({"told": name, "as": to_json(attempt(name, read))})


def _launches(request: ProbeRequest, ml: Result[Nvml]) -> Result[list[Launch]]:
    if not request.launch:
        return Gap(f"not asked for in profile {request.profile}")
    uuids = _uuids(ml, "no kernel was launched")
    if isinstance(uuids, Gap):
        return uuids
    from .cuda.launch import known_answer_launches  # only where asked: it starts processes that open the GPUs

    _stage("launching a known-answer kernel on every GPU")
    return known_answer_launches(uuids)


def _allocations(request: ProbeRequest, ml: Result[Nvml]) -> Result[list[Allocation]]:
    if not request.allocate_bytes:
        return Gap(f"not asked for in profile {request.profile}")
    uuids = _uuids(ml, "no memory was allocated")
    if isinstance(uuids, Gap):
        return uuids
    from .cuda.allocate import allocations  # only where asked, as above

    _stage(f"allocating {request.allocate_bytes} bytes on every GPU")
    return allocations(uuids, request.allocate_bytes, request.reserve_bytes)


def _uuids(ml: Result[Nvml], nothing: str) -> Result[list[str]]:
    """The UUIDs of the GPUs that have one to tell, at least one, else a Gap that begins with `nothing`.

    A lost GPU is a gap in `gpus`, where it is judged.
    """
    devices = ml if isinstance(ml, Gap) else ml.devices()
    if isinstance(devices, Gap):
        return Gap(f"{nothing}: {devices.unavailable}", devices.code)
    answers = [device.uuid() for device in devices]
    told = [answer for answer in answers if not isinstance(answer, Gap)]
    return told or Gap(f"{nothing}: NVML shows no GPU that tells its UUID")


def _gpus(node: Node, ml: Result[Nvml]) -> Result[list[Gpu]]:
    return gpus(node, ml, lambda device: _stage(f"reading GPU {device.index}"))
