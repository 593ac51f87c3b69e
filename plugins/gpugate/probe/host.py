"""The node itself: names, boot, clock, memory. Sources are procfs, sysfs and etc below the node's root."""

from __future__ import annotations

import os
import re
from typing import Callable

from ..errors import ProbeError
from ..evidence.facts import Gap
from ..evidence.types import Host
from .node import Node
from .reading import Result, T, attempt, record

# The initial namespaces have fixed inode numbers (linux/proc_ns.h, PROC_PID_INIT_INO).
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"
_SIZES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def host(node: Node, clock_unix_s: float) -> Host:
    """The facts of the host; each that cannot be read is a Gap of its own."""

    def fact(name: str, read: Callable[[Node], T]) -> Result[T]:
        return attempt(name, lambda: read(node))

    return record(
        Host,
        hostname=fact("hostname", hostname),
        machine_id=fact("machine id", machine_id),
        boot_id=fact("boot id", boot_id),
        kernel_release=fact("kernel release", lambda n: n.line("proc/sys/kernel/osrelease")),
        uptime_s=fact("uptime", lambda n: float(n.line("proc/uptime").split()[0])),
        clock_unix_s=clock_unix_s,
        privileged=os.geteuid() == 0,
        initial_pid_namespace=fact("pid namespace", _initial_pid_namespace),
        memory_total_bytes=fact("memory", lambda n: _memory(n, "MemTotal")),
        memory_available_bytes=fact("memory", lambda n: _memory(n, "MemAvailable")),
        shm_bytes=attempt("shared memory", lambda: _shm(node)),
    )


def hostname(node: Node) -> str:
    """The kernel's name; beside a container's root the kernel names the container, so the node's file speaks."""
    sources = ["proc/sys/kernel/hostname", "etc/hostname"]
    if not node.is_own:
        sources.reverse()
    try:
        return node.line(sources[0])
    except FileNotFoundError:
        return node.line(sources[1])


def machine_id(node: Node) -> str:
    found = node.line("etc/machine-id")
    if not re.fullmatch("[0-9a-f]{32}", found):
        raise ProbeError(f"/etc/machine-id holds {found[:64]!r}, which is no machine id (machine-id(5))")
    return found


def boot_id(node: Node) -> str:
    return node.line("proc/sys/kernel/random/boot_id")


def _initial_pid_namespace(node: Node) -> bool:
    return str((node.path("proc/self/ns") / "pid").readlink()) == _INITIAL_PID_NAMESPACE


def _memory(node: Node, name: str) -> int:
    for line in node.text("proc/meminfo").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            number, unit = value.split()
            if unit != "kB":
                raise ProbeError(f"/proc/meminfo gives {name} in {unit!r}, not in kB")
            return int(number) * 1024
    raise ProbeError(f"/proc/meminfo has no {name}")


def _shm(node: Node) -> Result[int]:
    """The size of /dev/shm: of the mount where it is visible from here, else as the node's mount table tells."""
    place = node.path("dev/shm")
    if place.is_mount():
        found = os.statvfs(place)
        return found.f_blocks * found.f_frsize
    for line in reversed(node.text("proc/mounts").splitlines()):
        _, mounted, kind, options = [*line.split(" "), "", "", "", ""][:4]
        if mounted == "/dev/shm" and kind == "tmpfs":  # noqa: S108  # looked for, never written to
            size = re.search(r"(?:^|,)size=(\d+)([kmg]?)(?:,|$)", options)
            if size:
                return int(size[1]) * _SIZES[size[2]]
            return Gap("the mount table names /dev/shm without its size")
    return Gap("/dev/shm is not mounted")  # noqa: S108  # looked for, never written to
