"""What a fleet takes of the whole machine, and gives back: a cgroup, and more inotify instances for many systemds."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .needs import cgroup2

_INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
_INOTIFY_NOTE = Path("/run/lock/gpugate-hostfleet-inotify")
_ENOUGH = 8192
_NAME = "gpugate-hostfleet-"
_PATIENCE_S = 20


@contextmanager
def own_cgroup() -> Iterator[Path]:
    """A cgroup of this fleet, below which hosts have theirs. Also removes those of keepers that were killed."""
    top = cgroup2()
    if top is None:
        raise OSError("there is no cgroup2 mount that can be written")
    for left in top.glob(f"{_NAME}*"):
        if not Path("/proc", left.name.removeprefix(_NAME)).exists():
            _remove(left)
    own = top / f"{_NAME}{os.getpid()}"
    own.mkdir()
    try:
        yield own
    finally:
        _remove(own)


def _remove(cgroup: Path) -> None:
    """Remove a cgroup with those below it; its last processes may still be on their way out."""
    deadline = time.monotonic() + _PATIENCE_S
    while cgroup.exists():
        for folder, _, _ in os.walk(cgroup, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()
        if time.monotonic() > deadline:
            raise OSError(f"{cgroup} cannot be removed: {(cgroup / 'cgroup.procs').read_text().split()} live in it")
        time.sleep(0.01)


@contextmanager
def many_inotify_instances() -> Iterator[None]:
    """Raise the limit for as long as any fleet needs it; the last one puts back what was there.

    The limit is the machine's: a file notes its value before the first fleet, and the keepers that need more.
    """
    with _noted() as note:
        before, *keepers = note or [_INOTIFY.read_text().strip()]
        note[:] = [before, *keepers, str(os.getpid())]
        _INOTIFY.write_text(str(max(_ENOUGH, int(before))))
    try:
        yield
    finally:
        with _noted() as note:
            note.remove(str(os.getpid()))
            if len(note) == 1:
                _INOTIFY.write_text(note.pop())


@contextmanager
def _noted() -> Iterator[list[str]]:
    """The note, without keepers that were killed, for this process alone; what is in it afterwards is kept."""
    with _INOTIFY.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before, *keepers = _INOTIFY_NOTE.read_text().split() if _INOTIFY_NOTE.exists() else [""]
        note = [before, *(pid for pid in keepers if Path("/proc", pid).exists())] if before else []
        yield note
        if note:
            _INOTIFY_NOTE.write_text(" ".join(note))
        else:
            _INOTIFY_NOTE.unlink(missing_ok=True)
