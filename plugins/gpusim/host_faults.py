"""Faults that show on the host's side: kernel log, procfs, sysfs, the driver's files.

Each is a change to the node's root, made anew whenever the root is written, so that clearing a fault is writing the
root without it. What happens once (a line in the kernel log) is its `event`. What it asks of the driver's state is
its `state`. A fault that `gpusim.faults` has under the same name is the driver's side of it: both are made.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gpusim import host_processes, kernel_log, noderoot
from gpusim.noderoot import Gpu, Machine
from gpusim.paths import LIBRARIES

CPU_FALLBACK_PID = 3999
CPU_FALLBACK_COMMAND = "/usr/bin/python3 /opt/inference/serve.py --port 8000"

UNKNOWN_PROCESS = "pid='<unknown>', name=<unknown>"
XID_TEXT = {
    13: "pid=4100, name=python3, Graphics Exception: ESR 0x504f30=0x1",
    48: f"{UNKNOWN_PROCESS}, An uncorrectable double bit error (DBE) has been detected on GPU",
    63: f"{UNKNOWN_PROCESS}, Row Remapper: New row marked for remapping, reset gpu to activate.",
    64: f"{UNKNOWN_PROCESS}, Row Remapper: failed to record a row",
    74: f"{UNKNOWN_PROCESS}, NVLink: fatal error detected on link 3",
    79: f"{UNKNOWN_PROCESS}, GPU has fallen off the bus.",
    92: f"{UNKNOWN_PROCESS}, High single-bit ECC error rate",
    94: f"{UNKNOWN_PROCESS}, Contained: SM (0x1). RST: No, D-RST: No",
    95: f"{UNKNOWN_PROCESS}, Uncontained: FBHUB. RST: Yes, D-RST: No",
    119: "pid=4100, name=python3, Timeout after 45s of waiting for RPC response from GPU0 GSP!",
}


@dataclass(frozen=True)
class HostFault:
    """`change` edits the root of a node; `event` is a kernel log line (`{bus}` is the GPU's, as the driver says it);
    `state` are settings of the driver, `{gpu}` being the GPU's index."""

    doc: str
    change: Callable[[Path, Machine], None] = lambda root, machine: None
    event: str = ""
    state: Mapping[str, object] = field(default_factory=dict)
    on_gpu: bool = False


def _older(driver: str) -> str:
    """A version of the same branch that is not this one."""
    branch, minor, *rest = driver.split(".")
    return ".".join([branch, f"{int(minor) - 1:02d}", *rest])


def _newer(driver: str) -> str:
    branch, minor, *rest = driver.split(".")
    return ".".join([branch, f"{int(minor) + 1:02d}", *rest])


def _not_loaded(root: Path, machine: Machine) -> None:
    for module in ("nvidia", "nvidia_uvm", "nvidia_modeset"):
        noderoot.remove(root / "sys/module" / module)
    noderoot.remove(root / "proc/driver/nvidia")
    noderoot.modules(root, [])
    for device in (root / "dev").glob("nvidia*"):
        noderoot.remove(device)


def _nouveau(root: Path, machine: Machine) -> None:
    noderoot.text(root / "sys/module/nouveau/initstate", "live\n")
    loaded = [line.split()[0] for line in (root / "proc/modules").read_text().splitlines()]
    noderoot.modules(root, ["nouveau", *loaded])


def _libraries(root: Path) -> list[Path]:
    return sorted((root / LIBRARIES).glob("libnvidia-ml.so*"))


def _no_library(root: Path, machine: Machine) -> None:
    for path in _libraries(root):
        path.unlink()


def _empty_library(root: Path, machine: Machine) -> None:
    for path in _libraries(root):
        if not path.is_symlink():
            noderoot.text(path, b"")  # a new file: who has the old one mapped keeps it


def _cpu_fallback(root: Path, machine: Machine) -> None:
    host_processes.add(
        root, host_processes.HostProcess(CPU_FALLBACK_PID, CPU_FALLBACK_COMMAND, unit="inference.service")
    )


def _unreadable_log(root: Path, machine: Machine) -> None:
    # a folder cannot be read by anyone; permissions would not stop root
    log = root / kernel_log.LOG
    if log.is_file():
        log.rename(log.with_name("kmsg.hidden"))
        log.mkdir()


def _small_shm(root: Path, machine: Machine) -> None:
    mounts = (root / "proc/mounts").read_text().splitlines()
    kept = [line for line in mounts if " /dev/shm " not in line]
    shm = "tmpfs /dev/shm tmpfs rw,nosuid,nodev,size=65536k 0 0"
    noderoot.text(root / "proc/mounts", "\n".join([*kept, shm]) + "\n")


def probes(root: Path) -> list[Path]:
    """Python archives that were deployed on the node."""
    return sorted(path for path in root.rglob("*.pyz") if path.is_file())


def deleted(root: Path) -> Path:
    """Where deleted files of a node wait to be put back."""
    return root.parent / "deleted"


def _delete_probes(root: Path, machine: Machine) -> None:
    for path in probes(root):
        target = deleted(root) / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)


def restore(root: Path) -> None:
    """Undo what writing the root does not: put deleted files back, make the log readable, end the stray process."""
    for path in sorted(deleted(root).rglob("*")):
        target = root / path.relative_to(deleted(root))
        if path.is_file() and not target.exists() and target.parent.is_dir():
            shutil.move(path, target)
    noderoot.remove(deleted(root))
    hidden = root / "dev/kmsg.hidden"
    if hidden.exists():
        noderoot.remove(root / kernel_log.LOG)
        hidden.rename(root / kernel_log.LOG)
    noderoot.remove(root / "proc" / str(CPU_FALLBACK_PID))
    noderoot.remove(root / "run/reboot-required")
    noderoot.accounts(root)
    noderoot.text(root / "proc/vmstat", "oom_kill 0\n")


def xid(code: int) -> str:
    """What the kernel module logs for an Xid."""
    return f"NVRM: Xid (PCI:{{bus}}): {code}, {XID_TEXT.get(code, UNKNOWN_PROCESS)}"


def _old_module(root: Path, machine: Machine) -> None:
    noderoot.loaded_module(root, _older(machine.driver))


HOST_FAULTS: dict[str, HostFault] = {
    "version_mismatch": HostFault("", _old_module),
    "module_mismatch": HostFault(
        "the same as version_mismatch",
        _old_module,
        state={"nvml_init_code": 18, "cuda_init_code": 803},
    ),
    "upgrade_pending": HostFault(
        "a newer kernel module lies on disk, the running one is older; all still works",
        lambda root, machine: noderoot.installed_module(root, _newer(machine.driver)),
    ),
    "driver_not_loaded": HostFault("", _not_loaded),
    "nouveau_loaded": HostFault("the nouveau module is loaded beside the driver", _nouveau),
    "library_missing": HostFault("libnvidia-ml.so is not installed", _no_library),
    "library_empty": HostFault("libnvidia-ml.so has zero bytes", _empty_library),
    "xid_79": HostFault(
        "the GPU has fallen off the bus: Xid 79, and every call answers 15",
        event=xid(79),
        state={"gpu.{gpu}.lost": True, "gpu.{gpu}.last_xid": 79},
        on_gpu=True,
    ),
    "xid_13": HostFault(
        "an application's fault in the log, which is not the node's",
        event=xid(13),
        on_gpu=True,
    ),
    "xid_unknown": HostFault(
        "an Xid that no catalogue has",
        event=xid(998),
        on_gpu=True,
    ),
    "bus_lost_without_xid": HostFault(
        "the log tells of a lost GPU without an Xid, and every call answers 15",
        event="NVRM: GPU at PCI:{bus} has fallen off the bus.",
        state={"gpu.{gpu}.lost": True},
        on_gpu=True,
    ),
    "cpu_fallback": HostFault(
        f"a service computes on the CPU ({CPU_FALLBACK_COMMAND.split()[1]}), in no GPU's table",
        _cpu_fallback,
    ),
    "kmsg_unreadable": HostFault("the kernel log cannot be read", _unreadable_log),
    "kmsg_rotated": HostFault("the beginning of the kernel log is lost", lambda root, machine: kernel_log.rotate(root)),
    "oom_kill": HostFault(
        "the kernel has killed a process for lack of memory",
        lambda root, machine: noderoot.text(root / "proc/vmstat", "oom_kill 1\n"),
        event="Out of memory: Killed process 4100 (python3) total-vm:268435456kB, anon-rss:201326592kB",
    ),
    "host_memory_small": HostFault(
        "the host has 16 GiB of memory", lambda root, machine: noderoot.memory(root, 16 * 1024 * 1024)
    ),
    "shm_small": HostFault("shared memory (/dev/shm) has 64 MiB", _small_shm),
    "reboot_required": HostFault(
        "packages wait for a reboot",
        lambda root, machine: noderoot.text(root / "run/reboot-required", "*** System restart required ***\n"),
    ),
    "probe_deleted": HostFault("deployed Python archives (*.pyz) are gone", _delete_probes),
}


def driver_bus(gpu: Gpu) -> str:
    """The bus address as the kernel module writes it: domain, bus and device, without the function."""
    return gpu.bus_id.rpartition(".")[0]
