"""The process that keeps a burn: it outlives whoever started it, and writes how the burn ended whatever happens.

It asks the driver nothing itself, since a driver may never answer. It starts processes that do, gives them up at their
deadlines, and takes them with it when it is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from ...errors import ProbeError
from ...evidence.facts import Gap, to_json
from ...evidence.request import BurnRequest
from ...evidence.types import Burn, KernelLog
from ..cuda.fresh import Child
from ..reading import Result, attempt, printable
from . import runs
from .live import line, row
from .restore import gap_in, restored
from .runs import Run
from .xids import xids_gained

# Together they stay below OVERTIME_S, which leaves the keeper half a minute for the rest.
LOOK_S = 45.0  # for a look at the node, before and after
STOP_S = 20.0  # for ending in good order
_SILENCE_S = 90.0  # the burner names a call that hangs before that
_TELL_EVERY_S = 0.3
_BURNER, _LOOK = "gpugate.probe.burn.child", "gpugate.probe.burn.look"


def main() -> None:
    """Keep the run whose folder is the last argument but one; the last is the descriptor with the run's lock."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.umask(0o077)
    run = Run(Path(sys.argv[-2]))
    order = run.read("request")
    if order is None:
        sys.exit(f"{run.folder} has no request")
    request = BurnRequest(**order["request"])
    signal.setitimer(signal.ITIMER_REAL, request.longest_s)  # ends the process when no Python code can run any more
    keeper = Keeper(run, request, Path(order["root"]))
    signal.signal(signal.SIGTERM, keeper.on_signal)
    burn = attempt("the burn", keeper.keep)
    run.write("result", {"ended": keeper.ended, "burn": to_json(burn)}, lasting=True)


class Keeper:
    """One burn. `ended` says how, once `keep` has returned."""

    def __init__(self, run: Run, request: BurnRequest, root: Path) -> None:
        self.ended = runs.REFUSED
        self._run, self._request, self._root = run, request, root
        self._burner: Child | None = None
        self._told_to_stop = self._passed_on = False
        self._live: dict[str, Any] = {"pid": os.getpid(), "state": "starting", "words": "", "gpus": []}
        self._told = 0.0

    def on_signal(self, _number: int, _frame: FrameType | None) -> None:
        """SIGTERM asks for what `Run.ask_to_stop` does."""
        self._told_to_stop = True

    def keep(self) -> Burn | Gap:
        """Burn, unless another burn or a process on a GPU stands in the way."""
        self._tell("starting")
        with _alone(self._run) as refusal:
            return refusal or self._keep()

    def _keep(self) -> Burn | Gap:
        used, log = self._look(None)
        if isinstance(used, Gap):
            return Gap(f"the burn did not start: {used.unavailable}", used.code)
        self._obey()
        if self._told_to_stop:
            return Gap("the burn did not start: it was told to stop before")
        self.ended = runs.FAILED
        self._tell("burning")
        started = time.time()
        told = self._supervise(list(used))
        if isinstance(told, Gap):
            return told
        self._tell("ending")
        used_after, log_after = self._look(used)
        plain = {
            **told,
            "id": self._run.id,
            "started_unix_s": started,
            "gpus": [{**gpu, **_memory(gpu["uuid"], used, used_after)} for gpu in told["gpus"]],
            "xids_gained": to_json(xids_gained(log, log_after)),
        }
        burn = restored(Burn, plain, "the burn was lost, as its result")
        self.ended = runs.DONE
        return burn

    def _look(self, used: dict[str, Any] | None) -> tuple[Result[dict[str, Any]], Result[KernelLog]]:
        """Memory in use by UUID, as plain data, and the kernel log."""
        child, told, broke = Child(_LOOK, {"used": used, "root": str(self._root)}), {}, ""
        try:
            for message in child.messages(time.monotonic() + LOOK_S, LOOK_S):
                told.update(message)
        except ProbeError as error:
            broke = str(error)
        failure = child.end()
        if child.overdue:
            failure = f"it gave no answer within {LOOK_S:g} s ({failure})"
        late = to_json(Gap(printable(f"the look at the driver failed: {broke or failure or 'it said nothing'}")))
        found, log = told.get("used", late), told.get("log", late)
        return gap_in(found) or found, gap_in(log) or restored(KernelLog, log, "the kernel log")

    def _supervise(self, uuids: list[str]) -> dict[str, Any] | Gap:
        """What the burning process told; a Gap with its cause where it told nothing, and with what was last heard."""
        told: dict[str, Any] = {}
        broke, deadline_s = "", self._request.deadline_s
        state_dir = self._run.folder.parent.parent
        task = {"request": asdict(self._request), "uuids": uuids, "state_dir": str(state_dir)}
        self._burner = Child(_BURNER, task)
        try:
            for message in self._burner.messages(time.monotonic() + deadline_s, _SILENCE_S, self._obey):
                self._hear(message, told)
        except ProbeError as error:
            broke = str(error)
        finally:
            failure = self._burner.end()
        if isinstance(told.get("burn"), dict):
            return dict(told["burn"])
        cause = f"the burn was lost: {self._cause(broke, failure)}"
        return Gap(printable(f"{told.get('gap', cause)}; last heard: {self._heard()}"))

    def _cause(self, broke: str, failure: str | None) -> str:
        """Why the burning process told no result, and what to do about it."""
        assert self._burner is not None  # noqa: S101  # for mypy
        look = "see the node's kernel log"
        if self._burner.silent:
            return f"its process said nothing for {_SILENCE_S:g} s; {failure}: {look} for a GPU or driver that hangs"
        if self._burner.overdue and self._told_to_stop:
            return f"it was told to stop and did not within {STOP_S:g} s; {failure}: {look}"
        if self._burner.overdue:
            late = f"it did not end within {self._request.deadline_s:g} s"
            return f"{late}; {failure}: {look} for a GPU that hangs, or give the burn a later deadline"
        told = "it was told to stop; " if self._told_to_stop else ""
        return f"{told}{broke or failure or 'it ended without a result'}: {look}"

    def _hear(self, message: Any, told: dict[str, Any]) -> None:
        if not isinstance(message, dict):
            raise ProbeError(f"the process said what is no message: {str(message)[:200]!r}")
        if "live" in message:
            self._live["gpus"] = [row(gpu) for gpu in message["live"]["gpus"]]
        elif "progress" in message:
            self._live["words"] = printable(str(message["progress"]))
        else:
            told.update(message)
        if time.monotonic() - self._told >= _TELL_EVERY_S:
            self._tell("burning")

    def _heard(self) -> str:
        return " | ".join(map(line, self._live["gpus"])) or self._live["words"] or "nothing"

    def _tell(self, state: str) -> None:
        """For whoever follows; a disk that is full by now must not end the burn."""
        self._told = time.monotonic()
        self._live.update(state=state, heard_unix_s=time.time())
        with contextlib.suppress(OSError):
            self._run.write("live", self._live)

    def _obey(self) -> None:
        """Look whether somebody wants the burn to stop, and pass it on once."""
        asked = self._told_to_stop or self._run.asked_to_stop
        if asked and self._burner and not self._passed_on:
            self._burner.stop(time.monotonic() + STOP_S)
            self._passed_on = True
        self._told_to_stop = asked


@contextlib.contextmanager
def _alone(run: Run) -> Iterator[Gap | None]:
    """Keep other burns of this state folder away as long as this process lives or is in here: None, or why not."""
    place = run.folder.parent.parent
    lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        others = ", ".join(other.id for other in runs.runs(place) if other.id != run.id and other.kept())
        yield Gap(
            f"the burn did not start: another one is under way on this node ({others or 'unknown'}) and locks {place}: "
            "wait for its end, or stop it with `gpugate-probe burn stop`"
        )
    else:
        yield None
    finally:
        os.close(lock)


def _memory(uuid: str, before: dict[str, Any], after: Result[dict[str, Any]]) -> dict[str, Any]:
    """Memory in use on one GPU, before and after."""
    found = to_json(after) if isinstance(after, Gap) else after[uuid]
    return {"used_before_bytes": before[uuid], "used_after_bytes": found}
