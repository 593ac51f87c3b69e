"""One run of the probe: every fact that the request asks for, in one record."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Callable

from ..evidence.facts import Gap
from ..evidence.request import ProbeRequest
from ..evidence.types import SCHEMA, Burn, Evidence, Gpu, Launch
from . import nvml
from .build import probe_build
from .driver import driver, explain
from .gpus import gpus
from .host import host
from .kernel_log import kernel_log
from .node import Node
from .nvml import Nvml
from .pci import pci_gpus
from .processes import workloads
from .reading import Result, attempt, record


def collect(node: Node, request: ProbeRequest, progress: Callable[[str], None]) -> Evidence:
    """Everything asked for. Launches and burn come first, so that the facts and the log also tell what they did."""
    started, clock = time.time(), time.monotonic()
    with session(node) as ml:
        progress("looking at the GPUs")
        uuids = _uuids(ml)
        launches = attempt("known-answer launches", lambda: _launches(request, uuids, progress))
        burn = attempt("burn-in", lambda: _burn(node, request, progress))
        progress("collecting facts")
        found: Result[list[Gpu]] = attempt("GPUs", lambda: gpus(node, ml))
        facts = {
            "host": host(node, started),
            "driver": driver(node, ml),
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
        gpus=found,
        launches=launches,
        burn=burn,
        **facts,
    )


@contextlib.contextmanager
def session(node: Node) -> Iterator[Result[Nvml]]:
    """An open NVML, or the Gap that says why there is none; closed afterwards."""
    ml = attempt("NVML", nvml.start)
    if isinstance(ml, Gap):
        yield explain(node, ml)
        return
    try:
        yield ml
    finally:
        ml.close()


def _uuids(ml: Result[Nvml]) -> Result[list[str]]:
    """The UUIDs of the GPUs that have one to tell; a lost GPU is a gap in `gpus`, where it is judged."""
    if isinstance(ml, Gap):
        return ml
    devices = ml.devices()
    if isinstance(devices, Gap):
        return devices
    answers = [device.uuid() for device in devices]
    return [answer for answer in answers if not isinstance(answer, Gap)]


def _launches(request: ProbeRequest, uuids: Result[list[str]], progress: Callable[[str], None]) -> Result[list[Launch]]:
    if not request.launch:
        return Gap(f"not asked for in profile {request.profile}")
    if isinstance(uuids, Gap):
        return Gap(f"no kernel was launched: {uuids.unavailable}", uuids.code)
    if not uuids:
        return Gap("no kernel was launched: NVML shows no GPU that tells its UUID")
    from .cuda.launch import known_answer_launches  # only where asked: it starts processes that open the GPUs

    progress("launching a known-answer kernel on every GPU")
    return known_answer_launches(uuids)


def _burn(node: Node, request: ProbeRequest, progress: Callable[[str], None]) -> Result[Burn]:
    if request.burn is None:
        return Gap(f"not asked for in profile {request.profile}")
    from .burn import run_burn

    return run_burn(request.burn, node.state_dir, progress)
