"""Processes of nodes: found by the mark in their environment, ended without being asked."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "GPUSIM_NODE"


def marked(dirs: list[Path]) -> Iterator[int]:
    """Pids of living processes that were started on one of these nodes, detached ones too."""
    marks = {f"{MARK}={path}".encode() for path in dirs}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if not marks.isdisjoint((entry / "environ").read_bytes().split(b"\0")):
                    yield int(entry.name)


def descendants() -> Iterator[int]:
    """Pids of all living processes below this one (which adopts orphans, see `adopt_orphans`)."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # pid (comm) state ppid ...: comm may hold anything, so read from its last parenthesis on
                state, ppid = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    parents.setdefault(int(ppid), []).append(int(entry.name))
    below = [os.getpid()]
    for pid in below:
        below.extend(parents.get(pid, []))
    yield from below[1:]


def kill(find: Iterator[int] | None = None, *, dirs: list[Path] | None = None) -> bool:
    """Kill what is found; True when something was."""
    found = False
    for pid in find if find is not None else marked(dirs or []):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
            found = True
    return found


def end_all(dirs: list[Path], *, rounds: int = 50) -> None:
    """End every process of these nodes: again and again, because one may start another meanwhile."""
    for _ in range(rounds):
        if not kill(dirs=dirs):
            return
        time.sleep(0.02)


def adopt_orphans() -> None:
    """Become the parent of every orphan below this process, so that none can slip away by detaching."""
    import ctypes

    pr_set_child_subreaper = 36
    if ctypes.CDLL(None, use_errno=True).prctl(pr_set_child_subreaper, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
