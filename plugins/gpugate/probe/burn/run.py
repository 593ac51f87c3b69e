"""Start a burn that outlives its starter, and follow it. Everybody who burns comes through here."""

from __future__ import annotations

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

    def look(live: dict[str, Any]) -> None:
        for words in map(line, live["gpus"]) if live["gpus"] else filter(None, [live["words"]]):
            progress(words)

    return begun.follow(look)


def start(request: BurnRequest, state_dir: Path, root: Path = Path("/")) -> Begun | Gap:
    """Start a burn and the keeper that brings it to its end; a Gap where the state folder cannot hold its result."""
    try:
        run = runs.create(state_dir, {"request": asdict(request), "root": str(root)})
        lock = run.lock()
    except OSError as error:
        where = error.filename or state_dir
        return Gap(
            printable(
                f"the burn did not start: its result could not be kept, as {where} cannot be written: "
                f"{error.strerror or error}: make room, or name another --state-dir"
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
    return Begun(run, process, time.monotonic() + keeper.longest(request))


class Begun:
    """A burn that this process has started."""

    def __init__(self, run: Run, process: subprocess.Popen[bytes], give_up_at: float) -> None:
        self.run = run
        self._process, self._give_up_at = process, give_up_at

    def follow(self, look: Callable[[dict[str, Any]], object]) -> Burn | Gap:
        """How the burn ended. Until then `look` gets what was last heard, each time that there is news."""
        told = None
        while True:
            code = self._process.poll()  # before the result is looked for, which is written before the keeper ends
            live = self.run.read("live")
            if live and live["heard_unix_s"] != told:
                told = live["heard_unix_s"]
                look(live)
            if found := outcome(self.run):
                self._see_off()
                return found
            if code is not None:
                return Gap(self.run.loss(ending(code) or "ended without a result"))
            if time.monotonic() >= self._give_up_at:
                return Gap(
                    printable(
                        f"the burn's keeper (pid {self._process.pid}) did not come to its end; "
                        f"last heard: {self.run.heard()}; see `gpugate-probe burn status {self.run.id}`"
                    )
                )
            time.sleep(_LOOK_UP_EVERY_S)

    def begins(self) -> Gap | None:
        """Wait until the GPUs are under load: None, or why they will not be."""
        while self._process.poll() is None and self.run.state() == "starting" and time.monotonic() < self._give_up_at:
            time.sleep(_LOOK_UP_EVERY_S)
        if self.run.state() in (runs.REFUSED, runs.LOST):
            found = self.follow(lambda _: None)
            return found if isinstance(found, Gap) else None
        return None

    def _see_off(self) -> None:
        try:
            self._process.wait(_REAP_S)
        except subprocess.TimeoutExpired:
            return
        if self.run.state() == runs.REFUSED:  # it has been told, and must not push out what is worth keeping
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
