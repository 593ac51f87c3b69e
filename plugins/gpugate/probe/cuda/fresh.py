"""Fresh child processes. CUDA is initialised only there: whatever it does to a process ends with that process."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from ...errors import ProbeError
from ..reading import printable

_START = (
    "import sys, json, importlib; sys.path[:] = json.loads(sys.argv[1]); importlib.import_module(sys.argv[2]).main()"
)
_PR_SET_PDEATHSIG = 1
_REAP_S = 5.0
_MOST_STDERR = 2000


def cleaned_environment() -> dict[str, str]:
    """This process's environment without what a user's shell may tell CUDA (which GPUs to show, where to cache)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
    kept["CUDA_CACHE_DISABLE"] = "1"  # nothing is left behind in a home directory
    return kept


class Child:
    """A fresh Python process in its own process group that runs `main()` of a module of the probe.

    It reads one JSON value from standard input and writes JSON values, one a line, to standard output.
    """

    def __init__(self, module: str, task: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path), module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=cleaned_environment(),
            start_new_session=True,
        )
        self.overdue = False
        self._stderr = b""
        assert self._process.stdin is not None  # noqa: S101  # it is a pipe; for mypy
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:  # a child that died says so itself
            pipe.write(json.dumps({"parent": os.getpid(), "task": task}).encode())

    def messages(self, deadline: float, silence_s: float) -> Iterator[Any]:
        """What the child says until it ends, is silent for `silence_s`, or `time.monotonic()` reaches `deadline`."""
        assert self._process.stdout is not None  # noqa: S101  # both are pipes; for mypy
        assert self._process.stderr is not None  # noqa: S101
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            selector.register(self._process.stderr, selectors.EVENT_READ)
            rest, until = b"", min(deadline, time.monotonic() + silence_s)
            while selector.get_map():
                for key, _ in selector.select(max(0.0, until - time.monotonic())):
                    piece = os.read(key.fd, 65536)
                    if not piece:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is self._process.stderr:
                        self._stderr = (self._stderr + piece)[-_MOST_STDERR:]
                    else:
                        *lines, rest = (rest + piece).split(b"\n")
                        until = min(deadline, time.monotonic() + silence_s)
                        for line in lines:
                            yield _message(line)
                if time.monotonic() >= until:
                    self.overdue = True
                    return

    def end(self) -> str | None:
        """See the child off, by force if it still runs; how it failed in words, None if it ended well."""
        hung = self.overdue or not self._ends(_REAP_S)
        if hung:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        gone = self._ends(_REAP_S)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        if not gone:
            return f"its process {self._process.pid} hangs in the kernel and cannot be killed"
        code = self._process.returncode
        if hung:
            return "it did not end and was killed"
        if code < 0:
            return f"it was killed by signal {-code} ({signal.Signals(-code).name})"
        if code > 0:
            last = self._stderr.decode("utf-8", "backslashreplace").strip().rsplit("\n", 1)[-1]
            return printable(f"it ended with status {code}: {last or 'no message'}")
        return None

    def _ends(self, within_s: float) -> bool:
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            return False
        return True


def _message(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:  # a library that writes to standard output
        raise ProbeError(f"the process said what is no message: {line[:200]!r}") from error


def receive() -> Any:
    """In the child: die with the parent, and read the task."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    order = json.load(sys.stdin)
    if os.getppid() != order["parent"]:
        sys.exit("the parent died before it could be watched")
    return order["task"]


def say(message: Any) -> None:
    """In the child: one message to the parent."""
    sys.stdout.write(json.dumps(message, allow_nan=False) + "\n")
    sys.stdout.flush()
