"""A command on a node: started as sshd would start it, its streams pumped, ended with its connection.

The pumps are written by hand on purpose: handing the channel to the process directly loses input that arrives
with the request itself, which is how Ansible's pipelining sends its modules.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import asyncssh

from gpusim.fleet.processes import MARK
from gpusim.paths import USER, NodeLayout

CHUNK = 65536
GRACE_S = 2.0  # between the hang-up and the kill of a command whose connection is gone
SIGNALS = {name.removeprefix("SIG"): number for name, number in signal.Signals.__members__.items()}


def environment(node: NodeLayout) -> dict[str, str]:
    """The environment of every command on this node: nothing of the server's own leaks in."""
    return {
        "HOME": str(node.home),
        "LANG": "C.UTF-8",
        "LD_LIBRARY_PATH": str(node.libdir),
        "LOGNAME": USER,
        MARK: str(node.dir),
        "PATH": f"{node.bin}:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
        "SHELL": "/bin/sh",
        "TMPDIR": str(node.tmp),
        "USER": USER,
    }


class Children:
    """The one place that reaps: commands by their future, adopted orphans silently."""

    def __init__(self) -> None:
        self._exits: dict[int, asyncio.Future[int]] = {}

    def attach(self) -> None:
        """Begin to reap, on the running loop."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    def start(self, argv: list[str], **options: Any) -> tuple[subprocess.Popen[bytes], asyncio.Future[int]]:
        """Start a process; the future is its exit status, negative for a signal."""
        process = subprocess.Popen(argv, **options)
        # no await between the two: the reaper runs on this loop and so cannot see the pid too early
        exited = self._exits[process.pid] = asyncio.get_running_loop().create_future()
        return process, exited

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            exited = self._exits.pop(pid, None)
            if exited is not None and not exited.done():
                exited.set_result(os.waitstatus_to_exitcode(status))


async def _ready(add: Callable[..., Any], remove: Callable[[int], Any], fd: int) -> None:
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    add(fd, tell)
    try:
        await ready
    finally:
        remove(fd)


async def _read(fd: int) -> bytes:
    loop = asyncio.get_running_loop()
    while True:
        try:
            return os.read(fd, CHUNK)
        except BlockingIOError:
            await _ready(loop.add_reader, loop.remove_reader, fd)


async def _write(fd: int, data: bytes) -> None:
    loop = asyncio.get_running_loop()
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            await _ready(loop.add_writer, loop.remove_writer, fd)


class Session(asyncssh.SSHServerProcess[bytes]):
    """One session channel: a command, a shell that reads its input, sftp or scp."""

    def __init__(self, node: NodeLayout, children: Children, answers: Callable[[], bool]) -> None:
        super().__init__(self._run, lambda chan: NodeFiles(chan, node), 3, True)
        self._node = node
        self._children = children
        self._answers = answers
        self._group = 0
        self._gone = asyncio.Event()

    def session_started(self) -> None:
        """Begin, unless the node hangs: then the request was accepted and nothing ever follows."""
        if self._answers():
            super().session_started()

    def signal_received(self, signal: str) -> None:
        """Deliver a signal from the client to the command's process group."""
        self._signal(SIGNALS.get(signal, SIGNALS["TERM"]))

    def break_received(self, msec: int) -> bool:
        """A break is an interrupt, as on a serial console."""
        self._signal(SIGNALS["INT"])
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """End what still runs in the command's group; what detached itself goes on, as on any host."""
        super().connection_lost(exc)
        self._gone.set()
        if self._group:
            self._signal(SIGNALS["HUP"])
            asyncio.get_running_loop().call_later(GRACE_S, self._signal, SIGNALS["KILL"])

    def _signal(self, number: int) -> None:
        if self._group:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._group, number)

    async def _run(self, _: asyncssh.SSHServerProcess[bytes]) -> None:
        command = self.command
        pipe = subprocess.PIPE
        try:
            process, exited = self._children.start(
                ["/bin/sh", "-c", command] if command is not None else ["/bin/sh"],
                stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0,
                env=environment(self._node), cwd=self._node.home, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self.stderr.write(f"cannot start the command: {error}\n".encode())
            self.exit(126)
            return
        self._group = process.pid
        if self._gone.is_set():
            self._signal(SIGNALS["KILL"])
        streams = cast("tuple[IO[bytes], IO[bytes], IO[bytes]]", (process.stdin, process.stdout, process.stderr))
        for stream in streams:
            os.set_blocking(stream.fileno(), False)
        feeding = asyncio.ensure_future(self._feed(streams[0]))
        draining = [
            asyncio.ensure_future(self._drain(streams[1], self.stdout)),
            asyncio.ensure_future(self._drain(streams[2], self.stderr)),
        ]
        try:
            await asyncio.gather(*draining)
            process.returncode = await exited
            if not self._gone.is_set():
                self._report(process.returncode)
        finally:
            for task in (feeding, *draining):
                task.cancel()
            await asyncio.gather(feeding, *draining, return_exceptions=True)
            for stream in streams:
                with contextlib.suppress(OSError):
                    stream.close()

    def _report(self, status: int) -> None:
        if status >= 0:
            self.exit(status)
        else:
            self.exit_with_signal(signal.Signals(-status).name.removeprefix("SIG"))

    async def _feed(self, target: IO[bytes]) -> None:
        try:
            while chunk := await self.stdin.read(CHUNK):
                try:
                    await _write(target.fileno(), chunk)
                except BrokenPipeError:
                    # the command no longer reads; swallow the rest, so that the client can finish sending
                    while await self.stdin.read(CHUNK):
                        pass
        except (asyncssh.Error, ConnectionError):
            pass
        finally:
            target.close()

    async def _drain(self, source: IO[bytes], sink: asyncssh.SSHWriter[bytes]) -> None:
        while chunk := await _read(source.fileno()):
            if not self._gone.is_set():
                with contextlib.suppress(asyncssh.Error, ConnectionError):
                    sink.write(chunk)
                    await sink.drain()


class NodeFiles(asyncssh.SFTPServer):
    """Files as the node's shell sees them: absolute paths are absolute, others begin in the node's home."""

    def __init__(self, chan: Any, node: NodeLayout) -> None:
        super().__init__(chan)
        self._home = os.fsencode(node.home)

    def exit(self) -> None:
        """The client is done: tell it that all went well, as OpenSSH's server does and its scp expects."""
        super().exit()
        if self.channel.get_subsystem():
            self.channel.exit(0)

    def map_path(self, path: bytes) -> bytes:
        """Resolve a path that the client named."""
        return os.path.join(self._home, path)  # noqa: PTH118 - bytes, which pathlib does not take

    def realpath(self, path: bytes) -> bytes:
        """The absolute path, without following links: what the client shows and sends back."""
        return os.path.normpath(self.map_path(path))


def python() -> Path:
    """The interpreter that the nodes have: the one that runs the fleet, without its virtual environment."""
    return Path(sys.executable).resolve()
