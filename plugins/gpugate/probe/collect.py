"""One run of the probe: every fact that the request asks for, in one record."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any, Callable

from ..errors import ProbeError
from ..evidence.facts import Gap
from ..evidence.request import ProbeRequest
from ..evidence.types import SCHEMA, Evidence
from .build import probe_build
from .cuda.fresh import Child
from .driver import driver
from .host import host
from .kernel_log import kernel_log
from .node import Node
from .pci import pci_gpus
from .processes import workloads
from .reading import printable, record

_ANSWERS = "gpugate.probe.answers"
_ASKED = ("nvml_version", "gpu_count", "launches", "allocations", "burn", "gpus")


def collect(node: Node, request: ProbeRequest, progress: Callable[[str], None]) -> Evidence:
    """Everything asked for. The driver comes first, so that the kernel log also tells what asking it did.

    What the driver answered is plain JSON data in this record, as its process told it.
    """
    started, clock = time.time(), time.monotonic()
    told = _ask_driver(node, request, clock + request.patience_s, progress)
    progress("collecting facts")
    facts = {
        "host": host(node, started),
        "driver": driver(node, told["nvml_version"], told["gpu_count"]),
        "pci_gpus": pci_gpus(node),
        "workloads": workloads(node, request.workloads),
        "kernel_log": kernel_log(node),
    }
    return record(
        Evidence,
        schema=SCHEMA,
        nonce=request.nonce,
        profile=request.profile,
        probe=probe_build(),
        started_unix_s=started,
        duration_s=time.monotonic() - clock,
        gpus=told["gpus"],
        launches=told["launches"],
        allocations=told["allocations"],
        burn=told["burn"],
        **facts,
    )


def _ask_driver(node: Node, request: ProbeRequest, deadline: float, progress: Callable[[str], None]) -> dict[str, Any]:
    """What the driver answered until `deadline` (of time.monotonic()), by name; a Gap for what it did not."""
    told: dict[str, Any] = {}
    stage, broke = "starting", ""
    task = {"root": str(node.root), "state_dir": str(node.state_dir), "request": asdict(request)}
    child = Child(_ANSWERS, task)
    try:
        for message in child.messages(deadline, silence_s=request.patience_s):
            if "told" in message:
                told[message["told"]] = message["as"]
            else:
                stage = message.get("stage", stage)
                progress(str(message.get("progress", stage)))
    except ProbeError as error:
        broke = str(error)
    finally:
        failure = child.end()
    if child.overdue:
        broke = f"the driver gave no answer within {request.patience_s:g} s"
    cause = "; ".join(filter(None, [broke, failure])) or "its process ended without a word"
    late = Gap(printable(f"{cause}; the probe was at this: {stage}"))
    return {name: told.get(name, late) for name in _ASKED}
