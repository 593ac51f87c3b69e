"""The first process of the fleet's namespaces: boots hosts as it is told, and everything ends with it.

An order is a line of JSON on stdin, its answer one on stdout: {"pids": {NAME: PID}} or {"error": SENTENCE}. Pids are
those of the procfs that is mounted here, which is that of the tests.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import base, inside, kernel, network
from .describe import Machine


@dataclass
class Starting:
    """A host on its way: `pid` as this process sees it; `said` and `told` are the pipes to and from it."""

    machine: Machine
    pid: int
    said: int
    told: int

    def pid_outside(self) -> int:
        """Its pid as the tests see it, which is the first thing that it says; OSError with what went wrong there."""
        said = os.read(self.said, 4096).decode().strip()
        if not said.isdigit():
            raise OSError(f"{self.machine.name} does not come up: {said or 'it ended without a word'}")
        return int(said)


class Server:
    def __init__(self, place: Path, cgroups: Path | None) -> None:
        self.place = place
        self.cgroups = cgroups
        self.base: Path | None = None
        self.own = {flag: os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name, flag in _CHILDREN.items()}

    def prepare(self, public_key: str, node: str, systemd: bool, tree: str | None) -> None:
        kernel.make_private()
        kernel.mount("tmpfs", self.place, "mode=755")
        self.base = base.make(self.place, public_key, Path(node), systemd=systemd)
        if tree:
            shutil.copytree(tree, self.base, symlinks=True, dirs_exist_ok=True)
        network.make_bridges()

    def boot(self, machines: list[Machine]) -> dict[str, int]:
        """Boot these hosts at once; their first processes."""
        for machine in machines:
            network.unplug(machine.links)
        starting = [self._start(machine) for machine in machines]
        pids = {host.machine.name: host.pid_outside() for host in starting}
        network.run(line for host in starting for line in network.plug_in(host.machine.links, host.pid))
        for host in starting:
            os.write(host.told, b"go\n")
        for host in starting:
            if complaint := os.read(host.said, 4096):  # its exec closes the pipe: it speaks only if it got not so far
                raise OSError(f"{host.machine.name} does not come up: {complaint.decode()}")
            os.close(host.said)
            os.close(host.told)
        return pids

    def _start(self, machine: Machine) -> Starting:
        try:
            root = self._file_system(machine)
            cgroup = self._cgroup(machine)
        except OSError as error:
            raise OSError(f"{machine.name} does not come up: {error}") from error
        said, say = os.pipe()
        told, tell = os.pipe()
        self._new_namespaces()
        pid = os.fork()
        if pid == 0:
            os.close(said)
            os.close(tell)

            def plugged_in() -> None:
                os.write(say, f"{Path('/proc/self').readlink()}\n".encode())
                if not os.read(told, 16):
                    raise OSError("the fleet ended")

            try:
                inside.become(machine, root, cgroup, plugged_in)
            except OSError as error:
                os.write(say, f"{error}\n".encode())
            finally:
                os._exit(1)
        os.close(say)
        os.close(told)
        for flag, descriptor in self.own.items():
            kernel.setns(descriptor, flag)
        return Starting(machine, pid, said, tell)

    @staticmethod
    def _new_namespaces() -> None:
        """Those that begin with the next child: process ids from 1, and a clock of the boot that starts at 0."""
        kernel.unshare(kernel.NEWPID)
        if kernel.NEWTIME in _CHILDREN.values():
            kernel.unshare(kernel.NEWTIME)
            up_for_s = time.clock_gettime(time.CLOCK_BOOTTIME)
            Path("/proc/self/timens_offsets").write_text(f"boottime -{int(up_for_s)} 0\n")

    def _file_system(self, machine: Machine) -> Path:
        """The host's own / on a disk of its own; a host that boots again finds it as it was."""
        disk = self.place / "hosts" / machine.name
        root = disk / "root"
        if not root.exists():
            disk.mkdir(parents=True)
            kernel.mount("tmpfs", disk, f"size={machine.disk_mib}m,mode=755")
            for folder in ("upper", "work", "root"):
                (disk / folder).mkdir()
            options = f"lowerdir={self.base}:/,upperdir={disk}/upper,workdir={disk}/work"
            kernel.mount("overlay", root, options)
        return root

    def _cgroup(self, machine: Machine) -> Path | None:
        if not machine.systemd or self.cgroups is None:
            return None
        cgroup = self.cgroups / machine.name
        cgroup.mkdir(exist_ok=True)
        return cgroup


_CHILDREN = {"pid": kernel.NEWPID} | ({"time": kernel.NEWTIME} if Path("/proc/self/ns/time").exists() else {})


def _reap() -> None:
    """Hosts that died leave no zombie."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main(place: str, cgroups: str) -> None:
    """Serve orders until stdin ends."""
    os.umask(0o022)
    server = Server(Path(place), Path(cgroups) if cgroups else None)
    for line in sys.stdin:
        _reap()
        order: dict[str, Any] = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            if "prepare" in order:
                server.prepare(**order["prepare"])
                answer = {"pids": {"": int(str(Path("/proc/self").readlink()))}}
            else:
                answer = {"pids": server.boot([Machine.from_json(one) for one in order["boot"]])}
        except OSError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
