"""Fresh processes. CUDA is initialised only there: whatever it does to a process ends with that process."""

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
from pathlib import Path
from typing import Any, Callable

from ...errors import ProbeError
from ..reading import printable

_START = (
    "import sys, json, importlib; sys.path[:] = json.loads(sys.argv[1]); importlib.import_module(sys.argv[2]).main()"
)
_PR_SET_PDEATHSIG = 1
_REAP_S = 5.0
_LOOK_UP_EVERY_S = 0.2
_MOST_STDERR = 2000
_MOST_LINE = 4 * 1024**2


def cleaned_environment() -> dict[str, str]:
    """This process's environment without what a user's shell may tell CUDA (which GPUs to show, where to cache)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
    kept["CUDA_CACHE_DISABLE"] = "1"  # nothing is left behind in a home directory
    return kept


def detached(module: str, argument: str, kept: int, log: Path) -> subprocess.Popen[bytes]:
    """Start a fresh Python that runs `main()` of a module of the probe and that no terminal, session or parent ends.

    It has no pipe to anybody: what it cannot help saying goes to `log`. Its sys.argv ends with `argument` and the
    number of `kept`, the only descriptor that it inherits.
    """
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as words:
        return subprocess.Popen(
            [*_command(module), argument, str(kept)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=words,
            env=cleaned_environment(),
            cwd="/",
            pass_fds=[kept],
            start_new_session=True,
        )


def ending(code: int) -> str | None:
    """How a process ended in words, from its return code; None if well."""
    if code < 0:
        return f"was killed by signal {-code} ({signal.Signals(-code).name})"
    return f"ended with status {code}" if code else None


class Child:
    """A fresh Python process in its own process group that runs `main()` of a module of the probe.

    It reads one JSON value from standard input and writes JSON values, one a line, to standard output.
    `overdue`: it was given up, at its deadline or, `silent`, because it said nothing for too long.
    """

    def __init__(self, module: str, task: Any) -> None:
        self._process = subprocess.Popen(
            _command(module),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=cleaned_environment(),
            start_new_session=True,
        )
        self.overdue = self.silent = False
        self._ended = False
        self._deadline = float("inf")
        self._stderr = b""
        assert self._process.stdin is not None  # noqa: S101  # it is a pipe; for mypy
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:  # a child that died says so itself
            pipe.write(json.dumps({"parent": os.getpid(), "task": task}).encode())

    def messages(
        self, deadline: float, silence_s: float, meanwhile: Callable[[], None] = lambda: None
    ) -> Iterator[Any]:
        """What the child says until it ends, is silent for `silence_s`, or `time.monotonic()` reaches `deadline`.

        `meanwhile` is called a few times a second. Raises ProbeError where the child says what is no message.
        """
        assert self._process.stdout is not None  # noqa: S101  # both are pipes; for mypy
        assert self._process.stderr is not None  # noqa: S101
        self._deadline = min(self._deadline, deadline)
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            selector.register(self._process.stderr, selectors.EVENT_READ)
            rest, heard = b"", time.monotonic()
            while selector.get_map():
                until = min(self._deadline, heard + silence_s)
                for key, _ in selector.select(min(_LOOK_UP_EVERY_S, max(0.0, until - time.monotonic()))):
                    piece = os.read(key.fd, 65536)
                    if not piece:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is self._process.stderr:
                        self._stderr = (self._stderr + piece)[-_MOST_STDERR:]
                    else:
                        *lines, rest = (rest + piece).split(b"\n")
                        heard = time.monotonic()
                        for line in lines:
                            yield _message(line)
                        if len(rest) > _MOST_LINE:
                            raise ProbeError(f"the process said {len(rest)} bytes without an end of line")
                meanwhile()
                if time.monotonic() >= min(self._deadline, heard + silence_s):
                    self.overdue, self.silent = True, time.monotonic() < self._deadline
                    return
        self._ended = True

    def stop(self, deadline: float) -> None:
        """Ask it to end in good order (SIGTERM); it is given up at `deadline`."""
        self._deadline = min(self._deadline, deadline)
        self._process.terminate()

    def end(self) -> str | None:
        """See the child off, by force if it was not heard out; how it failed in words, None if it ended well."""
        hung = not self._ended or not self._ends(_REAP_S)
        if hung:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        gone = self._ends(_REAP_S)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        if not gone:
            return f"its process {self._process.pid} hangs in the kernel and cannot be killed: reboot the node"
        if hung:
            return "it did not end and was killed"
        words = ending(self._process.returncode)
        if words and self._process.returncode > 0:
            last = self._stderr.decode("utf-8", "backslashreplace").strip().rsplit("\n", 1)[-1]
            words = printable(f"{words}: {last or 'no message'}")
        return words and f"it {words}"

    def _ends(self, within_s: float) -> bool:
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            return False
        return True


def _command(module: str) -> list[str]:
    # Isolated: else it would import from the folder that it is started in, which need not be root's.
    places = [os.path.abspath(place) for place in sys.path]  # noqa: PTH100  # a Path knows no empty name
    return [sys.executable, "-I", "-c", _START, json.dumps(places), module]


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
