"""One simulated node as a whole: its driver's state, its root, and the faults that are on it.

The root follows the state: every change ends in `_sync`, which writes the root from the state and then makes the
host's faults anew on top of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpusim import host_faults, host_processes, kernel_log, noderoot
from gpusim.boards import BOARDS
from gpusim.build import install_driver
from gpusim.errors import GpusimError, unknown
from gpusim.exports import DRIVERS
from gpusim.faults import FAULTS
from gpusim.fleet.description import Allowed, NodeDescription
from gpusim.host_faults import HOST_FAULTS
from gpusim.host_processes import HostProcess
from gpusim.noderoot import Gpu, Machine
from gpusim.paths import NodeLayout
from gpusim.state import NodeState, create_node_state

NVSWITCHES = 4
UP_FOR_S = 86_400  # a node that a fleet begins with has been up for a day
STRANGER = "/usr/bin/python3 somebody_elses_training.py"

# What an operator sets and a fault may take away: clearing the fault must not take the operator's settings with it.
SETTINGS = (
    "compute_mode", "ecc_current", "ecc_pending", "locked_sm_mhz", "mig_current", "mig_pending", "persistence",
    "power_limit_w",
)  # fmt: skip


def allowed() -> Allowed:
    """The names that a fleet description may use."""
    return Allowed(tuple(BOARDS), tuple(DRIVERS), tuple(all_faults()))


def all_faults() -> dict[str, str]:
    """Every fault by name, the driver's and the host's, with one line that says what it is."""
    host = {name: fault.doc for name, fault in HOST_FAULTS.items()}
    return host | {name: fault.doc for name, fault in FAULTS.items()}


def is_on_gpu(name: str) -> bool:
    """The fault is one GPU's, not the whole node's."""
    return (name in FAULTS and FAULTS[name].per_gpu) or (name in HOST_FAULTS and HOST_FAULTS[name].on_gpu)


class Node:
    """A node that exists: what `gpusim` shows, sets and breaks."""

    def __init__(self, paths: NodeLayout) -> None:
        self.paths = paths
        self.state = NodeState.open(paths.state)

    @classmethod
    def make(cls, paths: NodeLayout, described: NodeDescription, time_scale: float, drivers: Path) -> Node:
        """Make a node as described, initial faults and all. `drivers` keeps the libraries that were built."""
        install_driver(paths.libdir, described.driver, build_dir=drivers)
        create_node_state(
            paths.state, described.name, described.board, described.gpus, described.driver, time_scale=time_scale
        )
        node = cls(paths)
        for key, value in described.state.items():
            node.state.set(key, value)
        node._sync()
        noderoot.boot(paths.root, up_for_s=UP_FOR_S)
        kernel_log.begin(paths.root, noderoot.boot_lines(node.machine()))
        for fault in described.faults:
            node.inject(fault.fault, fault.gpu)
        return node

    def machine(self) -> Machine:
        """What the host's files tell, from the driver's state."""
        shown = self.state.show()
        gpus = tuple(_gpu(index, gpu) for index, gpu in enumerate(shown["gpu"]))
        switches = NVSWITCHES if any(gpu["nvlink_count"] for gpu in shown["gpu"]) else 0
        return Machine(shown["node_name"], shown["driver_version"], gpus, switches)

    def faults(self) -> list[str]:
        """The faults that were injected by name and not cleared, such as `fouled_heatsink (GPU 5)`."""
        return [name if gpu is None else f"{name} (GPU {gpu})" for name, gpu in self._journal()["faults"]]

    def show(self, key: str | None) -> dict[str, Any]:
        """Keys and values: all, or those that `key` names."""
        if key is None:
            return dict(_flat("", self.state.show()))
        value = self.state.get(key)
        if not isinstance(value, list):
            return {key: value}
        return {f"{key} [{i}]": item for i, item in enumerate(value)}

    def set(self, key: str, value: object) -> None:
        """Set a key of the state; the root follows."""
        with self._changing():
            self.state.set(key, value)

    def inject(self, name: str, gpu: int | None) -> None:
        """Inject a fault by name. Without a GPU it is on the node, or on GPU 0 where it needs one.

        :raises GpusimError: there is no such fault or GPU.
        """
        if name not in all_faults():
            raise unknown("fault", name, sorted(all_faults()))
        if gpu is not None and not 0 <= gpu < self.state.gpus:
            raise GpusimError(f"{self.paths.name} has no GPU {gpu}; allowed: 0 to {self.state.gpus - 1}")
        if gpu is not None and not is_on_gpu(name):
            raise GpusimError(f"the fault {name} is on the whole node: leave the GPU out")
        if is_on_gpu(name):
            gpu = gpu or 0
        with self._changing() as journal:
            if name in FAULTS:
                self.state.apply(name, gpu)
                self._show_strangers()
            events = [host_faults.xid(int(str(FAULTS[name].keys["last_xid"])))] if _has_xid(name) else []
            if name in HOST_FAULTS:
                for key, value in HOST_FAULTS[name].state.items():
                    self.state.set(key.format(gpu=gpu), value)
                events.append(HOST_FAULTS[name].event)
            bus = "" if gpu is None else host_faults.driver_bus(self.machine().gpus[gpu])
            for event in filter(None, events):
                kernel_log.append(self.paths.root, event.format(bus=bus))
            if [name, gpu] not in journal["faults"]:
                journal["faults"].append([name, gpu])

    def inject_rule(
        self, function: str, code: int, *, after: int, times: int | None, gpu: int | None, hang: bool
    ) -> None:
        """Let a function of the driver fail."""
        self.state.inject(function, code, after, times, gpu, hang)

    def clear(self) -> None:
        """Take back every fault, rule, key that was set and process that was added; settings of operators stay."""
        journal = self._journal()
        kept = {key: self.state.get(key) for key in self._settings()} | journal["settings"]
        self.state.clear()
        for key, value in kept.items():
            self.state.set(key, value)
        self._write_journal({"faults": [], "settings": {}})
        root = self.paths.root
        host_faults.restore(root)
        host_processes.end_all(root)
        kernel_log.begin(root, noderoot.boot_lines(self.machine()))
        install_driver(self.paths.libdir, self.machine().driver, build_dir=self.paths.drivers)
        self._sync()

    def reboot(self) -> None:
        """What a reboot does to a node; faults of the hardware survive it."""
        root = self.paths.root
        self.state.reboot()
        noderoot.boot(root)
        host_processes.end_all(root)
        kernel_log.begin(root, noderoot.boot_lines(self.machine()))
        self._sync()

    def free_pid(self) -> int:
        """A pid that is free on this node."""
        return host_processes.free_pid(self.paths.root)

    def add_process(self, process: HostProcess, gpu: int, memory_mib: float, kind: str) -> None:
        """Add a process to the host and to a GPU; the same process may be added to more than one GPU."""
        known = (self.paths.root / "proc" / str(process.pid)).exists()
        host_processes.add(self.paths.root, process)
        try:
            self.state.add_process(gpu, process.pid, memory_mib, kind)
        except GpusimError:
            if not known:
                host_processes.end(self.paths.root, process.pid)
            raise

    def remove_process(self, pid: int) -> None:
        """End a process: on the host, and on every GPU that it is on."""
        on = [
            gpu for gpu, shown in enumerate(self.state.show()["gpu"]) if pid in {p["pid"] for p in shown["processes"]}
        ]
        host_processes.end(self.paths.root, pid)
        for gpu in on:
            self.state.remove_process(gpu, pid)

    def _show_strangers(self) -> None:
        """Show on the host what a fault has put on a GPU, unless it is in another pid namespace."""
        root = self.paths.root
        for gpu in self.state.show()["gpu"]:
            for process in gpu["processes"]:
                if not process["invisible"] and not (root / "proc" / str(process["pid"])).exists():
                    host_processes.add(root, HostProcess(process["pid"], STRANGER, "stranger"))

    def _sync(self) -> None:
        machine = self.machine()
        noderoot.write(self.paths.root, machine)
        for name, _ in self._journal()["faults"]:
            if name in HOST_FAULTS:
                HOST_FAULTS[name].change(self.paths.root, machine)

    def _settings(self) -> list[str]:
        return [f"gpu.{gpu}.{name}" for gpu in range(self.state.gpus) for name in SETTINGS]

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        """Around a change: notes the settings that it takes away, writes the journal, lets the root follow."""
        journal = self._journal()
        before = {key: self.state.get(key) for key in self._settings()}
        yield journal
        changed = {key: value for key, value in before.items() if self.state.get(key) != value}
        journal["settings"] = changed | journal["settings"]
        self._write_journal(journal)
        self._sync()

    def _journal(self) -> dict[str, Any]:
        """`faults`: [name, gpu] of each; `settings`: what they were before a fault changed them."""
        if not self.paths.journal.exists():
            return {"faults": [], "settings": {}}
        return dict(json.loads(self.paths.journal.read_text()))

    def _write_journal(self, journal: dict[str, Any]) -> None:
        noderoot.text(self.paths.journal, json.dumps(journal))


def _has_xid(name: str) -> bool:
    return name in FAULTS and "last_xid" in FAULTS[name].keys


def _gpu(index: int, shown: dict[str, Any]) -> Gpu:
    domain, rest = shown["bus_id"].split(":", 1)
    device, subsystem = shown["pci_device_id"], shown["pci_subsystem_id"]
    return Gpu(
        index=index,
        bus_id=f"{domain[-4:]}:{rest}".lower(),
        name=shown["name"],
        uuid=shown["uuid"],
        vbios=shown["vbios"],
        pci=(device & 0xFFFF, device >> 16),
        subsystem=(subsystem & 0xFFFF, subsystem >> 16),
        memory_mib=int(shown["memory_total_mib"]),
        generation=min(shown["pcie_gen_idle"], shown["pcie_gen_slot"]),
        max_generation=shown["pcie_gen_gpu"],
        width=shown["pcie_width_loaded"],
        max_width=shown["pcie_width_gpu"],
        listed=shown["listed"],
    )


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else key, item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _flat(f"{prefix}.{index}", item)
    else:
        yield prefix, value
