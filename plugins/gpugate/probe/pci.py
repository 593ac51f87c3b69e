"""The GPUs that the PCI bus shows, whatever the driver thinks of them (sysfs, ABI/testing/sysfs-bus-pci)."""

from __future__ import annotations

import re

from ..evidence.facts import Gap
from ..evidence.types import PciGpu
from .node import Node
from .reading import Result, attempt, record

_DEVICES = "sys/bus/pci/devices"
_VENDOR, _DISPLAY_CLASSES = "0x10de", ("0x0300", "0x0302")
_BUS_ID = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


def bus_ids(node: Node) -> list[str]:
    """Bus ids of NVIDIA's display devices, without virtual functions. Raises OSError: a short list is no list."""
    found = []
    for bus_id in sorted(place.name for place in node.path(_DEVICES).iterdir()):
        device = f"{_DEVICES}/{bus_id}"
        if node.line(f"{device}/vendor") != _VENDOR or node.path(f"{device}/physfn").exists():
            continue
        if node.line(f"{device}/class").startswith(_DISPLAY_CLASSES):
            found.append(bus_id)
    return found


def pci_gpus(node: Node) -> Result[list[PciGpu]]:
    def device_id(bus_id: str) -> str:
        return f"10de:{int(node.line(f'{_DEVICES}/{bus_id}/device'), 16):04x}"

    def numa_node(bus_id: str) -> Result[int]:
        number = int(node.line(f"{_DEVICES}/{bus_id}/numa_node"))
        return number if number >= 0 else Gap(f"the kernel knows no NUMA node of {bus_id} ({number})")

    def look() -> list[PciGpu]:
        return [
            record(
                PciGpu,
                bus_id=bus_id,
                device_id=attempt("PCI device id", lambda b=bus_id: device_id(b)),  # type: ignore[misc]  # mypy cannot type a lambda's default
                numa_node=attempt("NUMA node", lambda b=bus_id: numa_node(b)),  # type: ignore[misc]
            )
            for bus_id in bus_ids(node)
        ]

    return attempt("PCI devices", look)


def path_to_gpus(node: Node) -> set[str]:
    """Bus ids of the GPUs and of every bridge above them: the ports that may report a GPU's bus errors."""
    found: set[str] = set()
    for bus_id in bus_ids(node):
        found.add(bus_id)
        found.update(part for part in node.path(f"{_DEVICES}/{bus_id}").resolve().parts if _BUS_ID.fullmatch(part))
    return found
