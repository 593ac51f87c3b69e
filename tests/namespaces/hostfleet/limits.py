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
_INOTIFY_LOCK = Path("/run/lock/gpugate-hostfleet-inotify")
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

    The limit is the machine's, so fleets share a lock file that remembers the value before the first of them.
    """
    lock = _locked()
    try:
        if not os.pread(lock, 1, 0):
            before = _INOTIFY.read_text()
            os.pwrite(lock, before.encode(), 0)
            _INOTIFY.write_text(str(max(_ENOUGH, int(before))))
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield
    finally:
        with suppress(BlockingIOError):  # another fleet still needs it
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _INOTIFY.write_text(os.pread(lock, 32, 0).decode())
            _INOTIFY_LOCK.unlink()
        os.close(lock)


def _locked() -> int:
    while True:
        descriptor = os.open(_INOTIFY_LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == _INOTIFY_LOCK.stat().st_ino:
                return descriptor
        os.close(descriptor)  # the last fleet before us removed it while we waited
