"""NVML's devices as evidence. A lost one is still listed: its place, and a Gap for each of its facts."""

from __future__ import annotations

from typing import Callable

from ..evidence.facts import Gap
from ..evidence.types import Gpu, Process
from .node import Node
from .nvml import Device, Nvml
from .processes import describe
from .reading import Result, record


def gpus(node: Node, nvml: Result[Nvml], before: Callable[[Device], None]) -> Result[list[Gpu]]:
    """Every device's facts; `before` hears which device is asked next."""
    if isinstance(nvml, Gap):
        return nvml
    devices = nvml.devices()
    return devices if isinstance(devices, Gap) else [_gpu(node, device, before) for device in devices]


def _gpu(node: Node, device: Device, before: Callable[[Device], None]) -> Gpu:
    before(device)
    facts = {
        "uuid": device.uuid(),
        "serial": device.serial(),
        "bus_id": device.bus_id(),
        "name": device.name(),
        "device_id": device.device_id(),
        "subsystem_id": device.subsystem_id(),
        "compute_capability": device.compute_capability(),
        "vbios": device.vbios(),
        "gsp_firmware": device.gsp_firmware(),
        "inforom_valid": device.inforom_valid(),
        "recovery_action": device.recovery_action(),
        "utilisation_percent": device.utilisation(),
        "modes": device.modes(),
        "power": device.power(),
        "thermal": device.thermal(),
        "clocks": device.clocks(),
        "memory": device.memory(),
        "ecc": device.ecc(),
        "row_remap": device.row_remap(),
        "pcie": device.pcie(),
        "nvlink_states": device.nvlink_states(),
        "processes": _processes(node, device),
    }
    return record(Gpu, index=device.index, answered_by=dict(device.answered_by), **facts)


def _processes(node: Node, device: Device) -> Result[list[Process]]:
    running = device.processes()
    return running if isinstance(running, Gap) else [describe(node, process) for process in running]
