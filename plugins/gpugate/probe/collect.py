"""One run of the probe: every fact that the request asks for, in one record."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any, Callable

from ..errors import NotYet, ProbeError
from ..evidence.facts import Gap
from ..evidence.request import ProbeRequest
from ..evidence.types import SCHEMA, Burn, Evidence
from .build import probe_build
from .cuda.fresh import Child
from .driver import driver
from .host import host
from .kernel_log import kernel_log
from .node import Node
from .pci import pci_gpus
from .processes import workloads
from .reading import Result, attempt, printable, record

_ANSWERS = "gpugate.probe.answers"
_ASKED = ("nvml_version", "gpu_count", "launches", "allocations", "gpus")


def collect(node: Node, request: ProbeRequest, progress: Callable[[str], None]) -> Evidence:
    """Everything asked for. Raises NotYet while the burn is under way for longer than the request waits.

    The burn comes first, and then the driver, so that the facts also tell what these did, and the kernel log all of it.
    What the driver answered is plain JSON data in this record, as its process told it.
    """
    started, clock = time.time(), time.monotonic()
    burn = _burn(node, request, progress)
    told = _ask_driver(node, request, progress)
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
        burn=burn,
        **facts,
    )


def _burn(node: Node, request: ProbeRequest, progress: Callable[[str], None]) -> Result[Burn]:
    """The burn of this request, started or taken up. It is followed by its files: no driver is asked in here."""
    how = request.burn
    if how is None:
        return Gap(f"not asked for in profile {request.profile}")
    from .burn import start, telling  # only where asked: it is the larger part of the probe

    progress("burning in")
    begun = attempt("the burn", lambda: start(how, node.state_dir, node.root, request.nonce))
    if isinstance(begun, Gap):
        return begun
    found = attempt("the burn", lambda: begun.follow(telling(progress), request.burn_wait_s))
    if found is None:
        raise NotYet(f"burn {begun.run.id} is {begun.run.state()}; last heard: {begun.run.heard()}")
    return found


def _ask_driver(node: Node, request: ProbeRequest, progress: Callable[[str], None]) -> dict[str, Any]:
    """What the driver answered within `deadline_s`, by name; a Gap for what it did not."""
    told: dict[str, Any] = {}
    stage, broke = "starting", ""
    task = {"root": str(node.root), "state_dir": str(node.state_dir), "request": asdict(request)}
    child = Child(_ANSWERS, task)
    try:
        for message in child.messages(time.monotonic() + request.deadline_s, silence_s=request.deadline_s):
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
        broke = f"the driver gave no answer within {request.deadline_s:g} s"
    cause = "; ".join(filter(None, [broke, failure])) or "its process ended without a word"
    late = Gap(printable(f"{cause}; the probe was at this: {stage}"))
    return {name: told.get(name, late) for name in _ASKED}
