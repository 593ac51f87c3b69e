"""Processes of the host: who they are, and which of them match the workloads that policy names."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Callable

from ..errors import ProbeError
from ..evidence.facts import Gap
from ..evidence.request import WorkloadPattern
from ..evidence.types import HostProcess, Process, Workload
from .node import Node
from .reading import Result, attempt, printable, record

if TYPE_CHECKING:  # pynvml is a third of the probe's start, and the parent never talks to the driver
    from .nvml import RunningProcess

_MAX_COMMAND = 256
_MAX_MATCHES = 512
_GONE = "process {pid} ended before it could be read, or is hidden from the probe"


def describe(node: Node, running: RunningProcess) -> Process:
    """A row of the driver's table with what the host knows of the process."""
    pid = running.pid
    return record(
        Process,
        pid=pid,
        kind=running.kind,
        memory_bytes=running.memory_bytes,
        user=_of(pid, "user", lambda: user(node, pid)),
        command=_of(pid, "command", lambda: command(node, pid)),
        unit=_of(pid, "unit", lambda: _unit(node, pid)),
    )


def workloads(node: Node, patterns: Sequence[WorkloadPattern]) -> Result[list[Workload]]:
    """The host's processes by workload; a Gap where /proc does not show every process."""
    if not patterns:
        return []

    def look() -> Result[list[Workload]]:
        hidden = _hides(node)
        if hidden:
            return Gap(hidden)
        running = list(_commands(node))
        return [
            record(Workload, name=p.name, processes=attempt("workload", lambda p=p: _matches(node, p, running)))  # type: ignore[misc]  # mypy cannot type a lambda's default
            for p in patterns
        ]

    return attempt("processes", look)


def user(node: Node, pid: int) -> str:
    """The name of the process's effective user; its number where the node has no name for it."""
    status = node.text(f"proc/{pid}/status")
    found = re.search(r"^Uid:\s+\d+\s+(\d+)", status, re.MULTILINE)
    if not found:
        raise ProbeError(f"/proc/{pid}/status names no user")
    uid = int(found[1])
    if node.is_own:
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return str(uid)
    try:
        passwd = node.text("etc/passwd")
    except FileNotFoundError:
        return str(uid)
    rows = (line.split(":") for line in passwd.splitlines())
    return next((row[0] for row in rows if len(row) > 2 and row[2] == str(uid)), str(uid))


def command(node: Node, pid: int) -> str:
    """The command line; a kernel thread's name in brackets."""
    words = node.path(f"proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
    line = words.decode("utf-8", "backslashreplace") or f"[{node.line(f'proc/{pid}/comm')}]"
    return printable(line, _MAX_COMMAND)


def _unit(node: Node, pid: int) -> Result[str]:
    """From the service or scope on: `slurmstepd.scope/job_7/step_0`, `docker-1a2b.scope`, `ollama.service`."""
    for line in node.text(f"proc/{pid}/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if (number == "0" and not controllers) or controllers == "name=systemd":
            parts = path.strip("/").split("/")
            starts = [i for i, part in enumerate(parts) if part.endswith((".service", ".scope"))]
            if starts:
                return printable("/".join(parts[starts[-1] :]))
            return printable(path) if parts != [""] else Gap(f"process {pid} is in the root cgroup, in no unit")
    return Gap(f"/proc/{pid}/cgroup names no unit")


def _of(pid: int, what: str, read: Callable[[], Result[str]]) -> Result[str]:
    def found() -> Result[str]:
        try:
            return read()
        except (FileNotFoundError, ProcessLookupError):
            return Gap(_GONE.format(pid=pid))

    return attempt(f"{what} of process {pid}", found)


def _commands(node: Node) -> Iterator[tuple[int, str]]:
    """Every process's full command line but the probe's own; raises PermissionError where one is hidden."""
    for entry in [place.name for place in node.path("proc").iterdir()]:
        if not entry.isdecimal() or (node.is_own and int(entry) == os.getpid()):
            continue
        try:
            words = node.path(f"proc/{entry}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile: it is no process of the host any more
        yield int(entry), words.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "backslashreplace")


def _matches(node: Node, pattern: WorkloadPattern, running: Sequence[tuple[int, str]]) -> Result[list[HostProcess]]:
    try:
        expression = re.compile(pattern.pattern)
    except re.error as error:
        raise ProbeError(f"pattern {pattern.pattern!r} is no regular expression: {error}") from error
    found = [(pid, line) for pid, line in running if expression.search(line)]
    if len(found) > _MAX_MATCHES:
        return Gap(f"pattern {pattern.pattern!r} matches {len(found)} processes, over {_MAX_MATCHES}")
    return [_host_process(node, pid, line) for pid, line in sorted(found)]


def _host_process(node: Node, pid: int, line: str) -> HostProcess:
    name = _of(pid, "user", lambda: user(node, pid))
    return record(HostProcess, pid=pid, command=printable(line, _MAX_COMMAND), user=name)


def _hides(node: Node) -> str | None:
    """Why /proc does not show every process, or None: mounted with hidepid it hides those of other users."""
    if os.geteuid() == 0:
        return None
    for line in node.text("proc/mounts").splitlines():
        _, place, kind, options = [*line.split(" "), "", "", "", ""][:4]
        hidden = re.search(r"(?:^|,)hidepid=(?!0|off)(\w+)", options)
        if place == "/proc" and kind == "proc" and hidden:
            return f"/proc hides the processes of other users (hidepid={hidden[1]}): run the probe as root"
    return None
