"""System calls that Python 3.11's library lacks (mount_namespaces(7), unshare(2), mount(2), pivot_root(2))."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

NEWTIME, NEWNS, NEWCGROUP, NEWUTS = 0x80, 0x20000, 0x2000000, 0x4000000
NEWIPC, NEWPID, NEWNET = 0x8000000, 0x20000000, 0x40000000
NOSUID, NODEV, NOEXEC, BIND, REC, PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        raise OSError(f"{what}: {os.strerror(ctypes.get_errno())}")


def unshare(flags: int) -> None:
    _checked(_libc.unshare(flags), f"unshare {flags:#x}")


def setns(descriptor: int, flags: int) -> None:
    _checked(_libc.setns(descriptor, flags), f"setns {flags:#x}")


def mount(kind: str, target: str | Path, options: str = "", flags: int = 0) -> None:
    """Mount a file system of this kind, named after the kind."""
    name, place = kind.encode(), os.fsencode(target)
    _checked(
        _libc.mount(name, place, name, ctypes.c_ulong(flags), options.encode() or None), f"mount {kind} on {target}"
    )


def bind(source: str | Path, target: str | Path) -> None:
    """Show `source` at `target` too."""
    result = _libc.mount(os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(BIND), None)
    _checked(result, f"bind {source} on {target}")


def make_private() -> None:
    """Let no mount of this namespace show anywhere else."""
    _checked(_libc.mount(None, b"/", None, ctypes.c_ulong(REC | PRIVATE), None), "make mounts private")


def unmount(target: str | Path) -> None:
    _checked(_libc.umount2(os.fsencode(target), _DETACH), f"umount {target}")


def enter_root() -> None:
    """Let the current folder, which has to be a mount, be /; the old / goes."""
    _checked(_libc.pivot_root(b".", b"."), "pivot_root")
    unmount(".")
    os.chdir("/")


def set_hostname(name: str) -> None:
    _checked(_libc.sethostname(name.encode(), len(name.encode())), f"sethostname {name}")
