"""Run a burn in a child process and take in what it says, whatever becomes of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable

from ...evidence.facts import Gap
from ...evidence.request import BurnRequest
from ...evidence.types import Burn, BurnGpu, Memory, Mismatch, Samples, SteadyState
from .. import nvml
from ..cuda.fresh import Child
from ..reading import printable, record
from . import child as burner

_RETURNED_WITHIN_S = 2.0
_RECORDS = {"below_slowdown_c": SteadyState, "memory_c": SteadyState, "first_mismatch": Mismatch}


def run_burn(request: BurnRequest, state_dir: Path, progress: Callable[[str], None]) -> Burn | Gap:
    """Burn all GPUs of the node together; a Gap where they did not or must not burn, or where the burn was lost.

    Refuses while any GPU has a process, and while another burn is under way on this node. Samples go to
    `state_dir`/samples. `progress` gets a line for each GPU about every second.
    """
    with _alone(state_dir) as refusal:
        return _burn(request, state_dir, progress) if refusal is None else refusal


@contextlib.contextmanager
def _alone(state_dir: Path) -> Iterator[Gap | None]:
    """Keep other burns away, whoever asks for them, until this process ends or is done: None, or why not.

    The lock is the state folder's; where that cannot be made, the folder's in which it would be.
    """
    with contextlib.suppress(OSError):  # storing the samples will tell
        state_dir.mkdir(parents=True, exist_ok=True)
    place = next(folder for folder in (state_dir, *state_dir.parents) if folder.is_dir())
    lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    refusal = None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            refusal = Gap(f"the burn did not start: another one is under way on this node and locks {place}")
        yield refusal
    finally:
        os.close(lock)


def _burn(request: BurnRequest, state_dir: Path, progress: Callable[[str], None]) -> Burn | Gap:
    adapter = nvml.start()
    if isinstance(adapter, Gap):
        return Gap(f"the burn did not start: {adapter.unavailable}", adapter.code)
    try:
        found = _idle_gpus(adapter)
        if isinstance(found, Gap):
            return Gap(f"the burn did not start: {found.unavailable}", found.code)
        before = [device.memory() for device in found.values()]
        task = {
            "request": asdict(request),
            "uuids": list(found),
            "state_dir": str(state_dir),
        }
        told = _supervise(task, request.deadline_s, progress)
        if isinstance(told, Gap):
            return told
        gpus = []
        for device, memory, plain in zip(found.values(), before, told["gpus"]):
            used = {"used_before_bytes": _used(memory), "used_after_bytes": _used_after(device, _used(memory))}
            gpus.append(record(BurnGpu, **_restored(plain), **used))
        samples = told["samples"]
        return record(
            Burn,
            kernel=told["kernel"],
            seconds=told["seconds"],
            gpus=gpus,
            samples=Gap(**samples) if "unavailable" in samples else Samples(**samples),
        )
    finally:
        adapter.close()


def _idle_gpus(adapter: nvml.Nvml) -> dict[str, nvml.Device] | Gap:
    """Every GPU by UUID, none of them in use; else the Gap names the first that stands in the way."""
    devices = adapter.devices()
    if isinstance(devices, Gap):
        return devices
    if not devices:
        return Gap("the driver has no GPU")
    found = {}
    for device in devices:
        uuid = device.uuid()
        if isinstance(uuid, Gap):
            return Gap(f"GPU {device.index}: {uuid.unavailable}", uuid.code)
        processes = device.processes()
        if isinstance(processes, Gap):
            return Gap(
                f"GPU {device.index} ({uuid}): whether it is in use is not known: {processes.unavailable}",
                processes.code,
            )
        users = [f"{process.pid} ({process.kind})" for process in processes if process.kind != "graphics"]
        if users:
            return Gap(
                f"GPU {device.index} ({uuid}) is in use by process {', '.join(users)}: end it, or drain the node"
            )
        found[uuid] = device
    return found


def _supervise(task: dict[str, Any], deadline_s: float, progress: Callable[[str], None]) -> dict[str, Any] | Gap:
    """The child's result; a Gap with its cause where there is none, and with the last that was heard of each GPU."""
    deadline = time.monotonic() + deadline_s
    result: dict[str, Any] | None = None
    heard: dict[str, str] = {}
    child = Child(burner.__name__, task)
    try:
        for message in child.messages(deadline, silence_s=deadline_s):
            if "progress" in message:
                line = str(message["progress"])
                heard[line.split(":")[0]] = line
                progress(line)
            elif "gap" in message:
                return Gap(str(message["gap"]))
            else:
                result = message["burn"]
    finally:
        failure = child.end()
    if result is not None:
        return result
    cause = f"it did not end within {deadline_s:g} s" if child.overdue else failure or "it ended without a result"
    return Gap(printable(f"the burn was lost: {cause}; last heard: {' | '.join(heard.values()) or 'nothing'}"))


def _restored(plain: dict[str, Any]) -> dict[str, Any]:
    """A GPU's facts from the child's JSON: gaps and records where they were."""
    facts = dict(plain)
    for name, value in plain.items():
        if isinstance(value, dict) and value.keys() == {"unavailable", "code"}:
            facts[name] = Gap(**value)
        elif name in _RECORDS and value is not None:
            facts[name] = _RECORDS[name](**value)
    return facts


def _used(memory: Memory) -> int | Gap:
    gap = memory.gap("used_bytes")
    return memory.used_bytes if gap is None else gap


def _used_after(device: nvml.Device, before: int | Gap) -> int | Gap:
    """Memory in use after the burn; the driver may take a moment to free what a process that ended had held."""
    give_up_at = time.monotonic() + _RETURNED_WITHIN_S
    while True:
        after = _used(device.memory())
        if isinstance(after, Gap) or isinstance(before, Gap) or after <= before or time.monotonic() >= give_up_at:
            return after
        time.sleep(0.02)
