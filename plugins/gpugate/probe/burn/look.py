"""The process that looks at the node before and after a burn: its driver may hang, and the keeper must not."""

from __future__ import annotations

import time
from pathlib import Path

from ...evidence.facts import Gap, to_json
from ...evidence.types import KernelLog, Memory
from .. import nvml
from ..cuda.fresh import receive, say
from ..kernel_log import kernel_log
from ..node import Node
from ..reading import Result, attempt

_RETURNED_WITHIN_S = 2.0


def main() -> None:
    """Before: {"used": {uuid: bytes}} of idle GPUs, or a Gap with what stands in the way. After: the same of those that
    the task names. Then {"log": ...}, the driver's lines in the kernel log.

    Both values are as in evidence: bytes, lines, or Gaps.
    """
    task = receive()
    before = task["used"]
    say({"used": to_json(attempt("the GPUs", lambda: _idle() if before is None else _returned(before)))})
    say({"log": to_json(_log(Path(task["root"])))})


def _idle() -> Result[dict[str, Result[int]]]:
    """Memory in use on every GPU, by UUID, none of which anybody computes on; else the first that stands in the way."""
    adapter = nvml.start()
    devices = adapter if isinstance(adapter, Gap) else adapter.devices()
    if isinstance(devices, Gap):
        return devices
    if not devices:
        return Gap("the driver has no GPU")
    found: dict[str, Result[int]] = {}
    for device in devices:
        uuid = device.uuid()
        if isinstance(uuid, Gap):
            return Gap(f"GPU {device.index}: {uuid.unavailable}", uuid.code)
        name, processes = f"GPU {device.index} ({uuid})", device.processes()
        if isinstance(processes, Gap):
            return Gap(f"{name}: whether it is in use is not known: {processes.unavailable}", processes.code)
        users = [f"{process.pid} ({process.kind})" for process in processes if process.kind != "graphics"]
        if users:
            return Gap(f"{name} is in use by process {', '.join(users)}: end it, or drain the node")
        found[uuid] = _used(device.memory())
    return found


def _returned(before: dict[str, object]) -> Result[dict[str, Result[int]]]:
    """Memory in use now; the driver may take a moment to free what a process that ended had held."""
    adapter = nvml.start()
    if isinstance(adapter, Gap):
        return adapter
    give_up_at = time.monotonic() + _RETURNED_WITHIN_S
    found: dict[str, Result[int]] = {}
    for uuid, used in before.items():
        device = adapter.device_by_uuid(uuid)
        after = device if isinstance(device, Gap) else _used(device.memory())
        while isinstance(after, int) and isinstance(used, int) and after > used and time.monotonic() < give_up_at:
            time.sleep(0.02)
            after = device if isinstance(device, Gap) else _used(device.memory())
        found[uuid] = after
    return found


def _used(memory: Memory) -> Result[int]:
    return memory.gap("used_bytes") or memory.used_bytes


def _log(root: Path) -> Result[KernelLog]:
    return kernel_log(Node(root, root))
