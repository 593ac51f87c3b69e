"""The burns that this node keeps: a folder each, below STATE_DIR/burns, that only its owner can read.

    request.json   what was asked, under which nonce, on which boot, and when (of time.monotonic())
    live.json      what the keeper last heard
    result.json    how it ended: {"ended": done | failed | refused, "burn": the Burn or a Gap}
    stop           is there once somebody asked it to stop
    log            what the keeper could not say otherwise

The keeper holds a lock on the folder as long as it lives: whoever cannot have it knows that the run is kept.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ProbeError
from ..reading import printable
from .live import line
from .restore import strict

DONE, FAILED, REFUSED, LOST = "done", "failed", "refused", "lost"
KEPT = 20
_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
_RESULT_BYTES = 512 * 1024  # of the disk, set aside before the load: a result that cannot be written is lost
_MOST_LOG = 300


@dataclass(frozen=True)
class Run:
    """One burn of this node, under way or over."""

    folder: Path

    @property
    def id(self) -> str:
        """When it was started, in UTC, and a random number."""
        return self.folder.name

    def read(self, name: str) -> dict[str, Any] | None:
        """One of its JSON objects; None where it is not there, or not whole."""
        try:
            found = strict((self.folder / f"{name}.json").read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def write(self, name: str, content: dict[str, Any], *, lasting: bool = False) -> None:
        """Replace one of them whole; `lasting`: a node that goes down later still has it."""
        text = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
        fresh = self._fresh(name)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.write(text)
            file.truncate()
            file.flush()
            if lasting:
                os.fsync(file.fileno())
        fresh.replace(self.folder / f"{name}.json")

    def reserve(self) -> None:
        """Take the room on the disk that the result will need."""
        with os.fdopen(os.open(self._fresh("result"), os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, _RESULT_BYTES)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot promise room
                    raise

    def lock(self) -> int:
        """A descriptor that holds the run's lock, until it and its copies in other processes are closed."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return descriptor

    def kept(self) -> bool:
        """Whether its keeper lives."""
        try:
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def state(self) -> str:
        """starting, burning or ending while it is kept; then done, failed, refused or lost."""
        for _ in range(2):  # the result comes before the lock goes
            if result := self.read("result"):
                return str(result.get("ended", FAILED))
            if self.kept():
                return str((self.read("live") or {}).get("state", "starting"))
        return LOST

    def heard(self) -> str:
        """The last that was heard of each GPU."""
        return " | ".join(line(gpu) for gpu in (self.read("live") or {}).get("gpus", [])) or "nothing"

    def loss(self, cause: str = "") -> str:
        """Why a run has no result though nobody keeps it; `cause` where it is known how the keeper ended."""
        keeper = f"its keeper (pid {(self.read('live') or {}).get('pid', 'unknown')})"
        if self.read("request") and not self.is_of_this_boot():
            cause = "the node was restarted while it ran: look at its power and at the log of that boot"
        elif cause:
            cause = f"{keeper} {cause}"
        else:
            cause = f"{keeper} was killed or died before it could tell the result"
        return printable(f"the burn was lost: {cause}{self._log()}; last heard: {self.heard()}")

    def nonce(self) -> str | None:
        """Of the request that it was started for; None for one by hand."""
        return (self.read("request") or {}).get("nonce")

    def is_of_this_boot(self) -> bool:
        return bool((self.read("request") or {}).get("boot_id") == boot_id())

    def ask_to_stop(self) -> None:
        """Have the keeper end the burn in good order."""
        (self.folder / "stop").touch(mode=0o600)

    @property
    def asked_to_stop(self) -> bool:
        return (self.folder / "stop").exists()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _fresh(self, name: str) -> Path:
        return self.folder / f".{name}.json"

    def _log(self) -> str:
        try:
            words = (self.folder / "log").read_bytes().decode("utf-8", "backslashreplace").strip()
        except OSError:
            return ""
        return f" ({words.splitlines()[-1][-_MOST_LOG:]})" if words else ""


def create(state_dir: Path, order: dict[str, Any]) -> Run:
    """A new run with all that its keeper needs; OSError where the disk refuses. Old runs make room."""
    place = state_dir / "burns"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    run = Run(place / time.strftime(f"%Y%m%dT%H%M%SZ-{secrets.token_hex(4)}", time.gmtime()))
    run.folder.mkdir(mode=0o700)
    try:
        run.write("request", {**order, "boot_id": boot_id(), "begun_s": time.monotonic()}, lasting=True)
        run.reserve()
    except BaseException:
        run.remove()
        raise
    with contextlib.suppress(OSError):  # another may prune at the same time
        others = [other for other in runs(state_dir) if other != run]
        refused = [other for other in others if other.state() == REFUSED]  # nothing to see in them any more
        for old in [*refused, *others[KEPT - 1 :]]:
            if not old.kept():
                old.remove()
    return run


@contextlib.contextmanager
def one_at_a_time(state_dir: Path) -> Iterator[None]:
    """Nobody else starts a burn in here, so that none can come between looking for one and starting it."""
    place = state_dir / "burns"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def asked_with(state_dir: Path, nonce: str) -> Run | None:
    """The run that was started for the request of this nonce, if it is still there."""
    return next((run for run in runs(state_dir) if run.nonce() == nonce), None)


def runs(state_dir: Path) -> list[Run]:
    """Every run that is kept, the newest first."""
    try:
        names = [place.name for place in (state_dir / "burns").iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [Run(state_dir / "burns" / name) for name in sorted(filter(_ID.fullmatch, names), reverse=True)]


def named(state_dir: Path, name: str) -> Run:
    """The run of this id, whether it is there or not. ProbeError for an id that is none: it comes from outside."""
    if not _ID.fullmatch(name):
        raise ProbeError(f"{name[:64]!r} is no id of a burn; they look like 20261122T010203Z-1a2b3c4d")
    return Run(state_dir / "burns" / name)


def boot_id() -> str:
    """The boot of the kernel that runs this process, whatever root is measured."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
