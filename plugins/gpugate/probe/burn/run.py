"""Start a burn that outlives its starter, and follow it. Everybody who burns comes through here."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable

from ...errors import ProbeError
from ...evidence.facts import Gap
from ...evidence.request import BurnRequest
from ...evidence.types import Burn
from ..cuda.fresh import detached, ending
from ..reading import printable
from . import keeper, runs
from .live import line
from .restore import gap_in, restored
from .runs import Run

_LOOK_UP_EVERY_S = 0.1
_REAP_S = 5.0


def run_burn(
    request: BurnRequest, state_dir: Path, progress: Callable[[str], None], root: Path = Path("/")
) -> Burn | Gap:
    """Burn all GPUs of the node together; a Gap where they did not or must not burn, or where the burn was lost.

    Refuses while any GPU has a process, and while another burn is under way on this node. Whatever becomes of this
    process, the burn comes to its own end, and its result to `state_dir`/burns. `progress` gets a line for each GPU
    about every second. `root` is the node's, for its kernel log.
    """
    begun = start(request, state_dir, root)
    if isinstance(begun, Gap):
        return begun
    found = begun.follow(telling(progress))
    assert found is not None  # noqa: S101  # for mypy: it waited to the end
    return found


def telling(progress: Callable[[str], None]) -> Callable[[dict[str, Any]], None]:
    """For `Begun.follow`: tells each GPU's line, or what there is to say before they have any."""

    def look(live: dict[str, Any]) -> None:
        for words in map(line, live["gpus"]) if live["gpus"] else filter(None, [live["words"]]):
            progress(words)

    return look


def start(request: BurnRequest, state_dir: Path, root: Path = Path("/"), nonce: str | None = None) -> Begun | Gap:
    """Start a burn and the keeper that brings it to its end; a Gap where the state folder cannot hold its result.

    A nonce burns once: the run that was started for it is taken up as it is, under way or over.
    """
    try:
        with runs.one_at_a_time(state_dir):
            kept = runs.asked_with(state_dir, nonce) if nonce else None
            if kept:
                return _taken_up(kept, request)
            run = runs.create(state_dir, {"request": asdict(request), "root": str(root), "nonce": nonce})
            lock = run.lock()
    except OSError as error:
        where = error.filename or state_dir
        return Gap(
            printable(
                f"the burn did not start: its result could not be kept, as {where} cannot be written: "
                f"{error.strerror or error}: {'burn as root' if error.errno == errno.EACCES else 'make room'}, or name "
                "another --state-dir"
            ),
            error.errno,
        )
    try:
        process = detached(keeper.__name__, str(run.folder), lock, run.folder / "log")
    except OSError as error:
        run.remove()
        return Gap(printable(f"the burn did not start: its keeper could not be started: {error}"), error.errno)
    finally:
        os.close(lock)  # the keeper has it now
    return Begun(run, process, time.monotonic() + request.longest_s)


def _taken_up(run: Run, request: BurnRequest) -> Begun | Gap:
    """A burn that another process has started, which may be long gone."""
    order = run.read("request") or {}
    if order.get("request") != asdict(request):
        return Gap(printable(f"burn {run.id}, of this nonce, was asked for otherwise: ask anew, with another nonce"))
    if run.is_of_this_boot():
        return Begun(run, None, order["begun_s"] + request.longest_s)
    if run.read("result") is None:
        return Gap(run.loss())
    over = f"burn {run.id} was over ({run.state()}) before the node was restarted"
    return Gap(f"{over}, and what it measured is of another boot: ask anew, with another nonce")


class Begun:
    """A burn that has been started: by `process`, its keeper, or by another process that is None of ours.

    `give_up_at`: of time.monotonic(), by when its keeper must have ended.
    """

    def __init__(self, run: Run, process: subprocess.Popen[bytes] | None, give_up_at: float) -> None:
        self.run = run
        self._process, self._give_up_at = process, give_up_at

    def follow(self, look: Callable[[dict[str, Any]], object], wait_s: float = math.inf) -> Burn | Gap | None:
        """How the burn ended; None where it has not after `wait_s`.

        Until then `look` gets what was last heard, each time that there is news.
        """
        told, wait_until = None, time.monotonic() + wait_s
        while True:
            ended = self._keeper_ended()  # before the result is looked for, which is written before the keeper ends
            live = self.run.read("live")
            if live and live["heard_unix_s"] != told:
                told = live["heard_unix_s"]
                look(live)
            if found := outcome(self.run):
                self._see_off()
                return found
            if ended is not None:
                return Gap(self.run.loss(ended))
            now = time.monotonic()
            if now >= self._give_up_at:
                keeper_pid = (live or {}).get("pid", "unknown")
                return Gap(
                    printable(
                        f"the burn's keeper (pid {keeper_pid}) did not come to its end; "
                        f"last heard: {self.run.heard()}; see `gpugate-probe burn status {self.run.id}`"
                    )
                )
            if now >= wait_until:
                return None
            time.sleep(min(_LOOK_UP_EVERY_S, wait_until - now))

    def _keeper_ended(self) -> str | None:
        """How its keeper ended in words, empty where nobody knows; None while it lives."""
        if self._process is None:
            return None if self.run.kept() else ""
        code = self._process.poll()
        return None if code is None else ending(code) or "ended without a result"

    def begins(self) -> Gap | None:
        """Wait until the GPUs are under load: None, or why they will not be."""
        while self._keeper_ended() is None and self.run.state() == "starting" and time.monotonic() < self._give_up_at:
            time.sleep(_LOOK_UP_EVERY_S)
        if self.run.state() in (runs.REFUSED, runs.LOST):
            found = self.follow(lambda _: None)
            return found if isinstance(found, Gap) else None
        return None

    def _see_off(self) -> None:
        """Wait for the keeper. A refusal by hand has been told now, and nobody can ask for it again."""
        if self._process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_REAP_S)
            if self.run.state() == runs.REFUSED and self.run.nonce() is None:
                self.run.remove()


def outcome(run: Run) -> Burn | Gap | None:
    """The result of a run; None while it has none."""
    result = run.read("result")
    if result is None:
        return None
    try:
        return gap_in(result.get("burn")) or restored(Burn, result.get("burn"))
    except ProbeError as error:
        return Gap(printable(f"the result of burn {run.id} cannot be read: {error}"))
