"""Processes as a node's procfs shows them: who owns one, what it runs, in which unit or container."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path

from gpusim.errors import GpusimError
from gpusim.noderoot import INITIAL_PID_NAMESPACE, link, owner, remove, text

FIRST_PID = 4000


@dataclass(frozen=True)
class HostProcess:
    """One process. At most one of `unit` (a systemd unit) and `container` (a container's name) is given."""

    pid: int
    command: str
    user: str = "deploy"
    unit: str | None = None
    container: str | None = None
    memory_mib: int = 2048

    def cgroup(self, uid: int) -> str:
        """The control group that systemd and container engines put it in."""
        if self.container:
            identity = hashlib.sha256(self.container.encode()).hexdigest()
            return f"/system.slice/docker-{identity}.scope"
        if self.unit:
            return f"/system.slice/{self.unit}"
        return f"/user.slice/user-{uid}.slice/session-1.scope"


def free_pid(root: Path) -> int:
    """A pid that no process of this node has."""
    return max([FIRST_PID - 1, *(int(path.name) for path in (root / "proc").iterdir() if path.name.isdigit())]) + 1


def add(root: Path, process: HostProcess) -> None:
    """Show a process in procfs; one of this pid that is there already must be the same.

    :raises GpusimError: the pid is another process's, or the command is empty.
    """
    arguments = shlex.split(process.command)
    if not arguments:
        raise GpusimError("a process needs a command")
    folder = root / "proc" / str(process.pid)
    command_line = b"".join(argument.encode() + b"\0" for argument in arguments)
    if folder.exists() and (folder / "cmdline").read_bytes() != command_line:
        taken = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        raise GpusimError(f"pid {process.pid} is already {taken!r}: remove that process first, or choose another pid")
    uid = owner(process.user, root)
    name = Path(arguments[0]).name[:15]  # the kernel cuts names to 15 bytes
    text(folder / "comm", f"{name}\n")
    text(folder / "cmdline", command_line)
    text(
        folder / "status",
        f"Name:\t{name}\nState:\tS (sleeping)\nTgid:\t{process.pid}\nPid:\t{process.pid}\nPPid:\t1\n"
        f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{uid}\t{uid}\t{uid}\t{uid}\nVmRSS:\t{process.memory_mib * 1024} kB\n"
        f"Threads:\t1\nNSpid:\t{process.pid}\nCpus_allowed_list:\t0-223\n",
    )
    text(folder / "cgroup", f"0::{process.cgroup(uid)}\n")
    link(folder / "ns/pid", INITIAL_PID_NAMESPACE)


def end(root: Path, pid: int) -> None:
    """Take a process out of procfs.

    :raises GpusimError: there is none of this pid.
    """
    folder = root / "proc" / str(pid)
    if not folder.exists():
        pids = sorted(int(path.name) for path in (root / "proc").iterdir() if path.name.isdigit())
        raise GpusimError(f"no process {pid} on this node; there are: {', '.join(map(str, pids)) or 'none'}")
    remove(folder)


def end_all(root: Path) -> None:
    """Take every process out of procfs."""
    for path in (root / "proc").iterdir():
        if path.name.isdigit():
            remove(path)
