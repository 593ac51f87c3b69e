"""Every other host of a large fleet is judged by a second process, ahead of the session that reports.

pytest is one process, and judging is half of what a large fleet costs. The second process is a fork: it has the
policies, the checks and the cells as they are here. It puts findings aside into a file of its own and sends what has to
be in memory. Whatever it cannot send is judged here as ever: a host in whose checks something was printed, logged or
warned of, one whose findings could not be put aside, and all that it did not come to.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
import signal
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from typing import IO, Any, NamedTuple

from ..report.aside import Cases, Kept, Row
from ..verdict import Verdict

LEAST_HOSTS = 500  # a fork costs a second, and memory


class Judged(NamedTuple):
    """What the second process sends of one host; `verdicts` are in the order of the host's cells, or None where the
    host has to be judged here."""

    host: str
    about: Any
    verdicts: list[Row] | None


def worthwhile(hosts: int) -> bool:
    """Whether to judge ahead: many hosts, a second processor, and no thread whose locks a fork would keep for ever."""
    return hosts >= LEAST_HOSTS and len(os.sched_getaffinity(0)) > 1 and threading.active_count() == 1


class Ahead:
    """The second process, and what it has sent. `judge` judges all cells of a host, with the findings put aside into
    the given file, and answers what the report tells of the host beside."""

    def __init__(self, hosts: Sequence[str], cases: Cases, judge: Callable[[str], tuple[Any, list[Verdict]]]) -> None:
        self._hosts, self._cases, self._judge = set(hosts), cases, judge
        self._sent: dict[str, Judged] = {}
        reading, writing = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            status = 1
            try:
                os.close(reading)
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # the session's to hear
                with suppress(BrokenPipeError), os.fdopen(writing, "wb") as sending:
                    self._work(hosts, sending)
                status = 0
            finally:
                os._exit(status)  # nothing of the session's is ended here
        os.close(writing)
        self._reading = os.fdopen(reading, "rb")

    def take(self, host: str) -> tuple[Any, list[Verdict]] | None:
        """What was judged of a host ahead; None where it has to be judged here."""
        if host not in self._hosts:
            return None
        self._hosts.discard(host)
        try:
            while host not in self._sent:
                judged: Judged = pickle.load(self._reading)  # noqa: S301  # written by this very program
                self._sent[judged.host] = judged
        except (EOFError, OSError, pickle.UnpicklingError):
            self._hosts.clear()  # it ended before its time: everything is judged here from now on
            return None
        except BaseException:
            self._hosts.clear()  # interrupted in the middle of an answer
            raise
        judged = self._sent.pop(host)
        if judged.verdicts is None:
            return None
        return judged.about, [self._cases.kept(*row) for row in judged.verdicts]

    def end(self) -> None:
        """End the process, whatever it is at."""
        self._hosts.clear()
        self._reading.close()
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def _work(self, hosts: Sequence[str], sending: IO[bytes]) -> None:
        said, heard = io.StringIO(), _Heard()
        logging.getLogger().addHandler(heard)
        with redirect_stdout(said), redirect_stderr(said), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            for host in hosts:
                about, verdicts = self._judge(host)
                kept = [verdict for verdict in verdicts if isinstance(verdict, Kept)]
                quiet = not (said.tell() or warned or heard.records)
                whole = quiet and len(kept) == len(verdicts) and self._cases.written()
                rows = [verdict.row() for verdict in kept] if whole else None
                pickle.dump(Judged(host, about, rows), sending, pickle.HIGHEST_PROTOCOL)
                if not quiet:
                    said.seek(0)
                    said.truncate()
                    warned.clear()
                    heard.records = 0


class _Heard(logging.Handler):
    """Counts what is logged."""

    records = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.records += 1
