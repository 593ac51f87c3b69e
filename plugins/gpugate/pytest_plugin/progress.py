"""What a person sees while a fleet is gathered.

On a terminal: one table, redrawn in place. Elsewhere (a CI log, TERM=dumb, NO_COLOR, --color=no): plain lines, each
failure as it happens and now and then where the fleet stands. Never a line a host for a large fleet. The counts come
from what the gather says of each host, by the beginnings of its texts.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from heapq import nsmallest
from typing import IO, Any, cast

import pytest
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from ..inventory import Target
from ..report.text import natural, one_line, shortened

EVERY_S = 10.0  # between two plain lines about the fleet
ANYWAY_S = 60.0  # so often where nothing changes: CI ends what is silent for long
SMALL = 16  # so many hosts are few enough for a plain line each
FAILURES = 20  # so many failures are told one by one; the summary at the end tells all of them by cause
_SHOWN = 5  # hosts in the table
_FRAMES_PER_S = 4
_WIDTH = 300  # characters of a plain line


class At(Enum):
    """What a host is at: in words, for one and for several."""

    ANSWERED = ("answered", "answered")
    BURN = ("burns", "burn")
    TURN = ("waits for a turn", "wait for a turn")
    MEASURED = ("is measured", "are measured")
    LOGIN = ("is being logged in", "are being logged in")
    LOST = ("was lost and is asked again", "were lost and are asked again")
    FAILED = ("failed", "failed")


_BEGINNINGS = {"GPU ": At.BURN, "preparing ": At.BURN, "burn": At.BURN, "not yet": At.BURN, "waits": At.TURN,
               "lost": At.LOST, "logs in": At.LOGIN}  # fmt: skip
_DOMAIN = re.compile(r"power domain ([^:;]+)")


@dataclass
class _Host:
    """One host: what it is at, its last text, and when that came (monotonic seconds)."""

    name: str
    at: At
    text: str
    heard: float


class Tally:
    """Where the fleet stands. Not thread-safe."""

    def __init__(self, hosts: Iterable[str]) -> None:
        self.began = time.monotonic()
        self._hosts = {name: _Host(name, At.LOGIN, "is being logged in", self.began) for name in hosts}
        self._counts = Counter({At.LOGIN: len(self._hosts)})
        self._open = dict(self._hosts)

    @property
    def total(self) -> int:
        return len(self._hosts)

    @property
    def done(self) -> int:
        return self.total - len(self._open)

    def count(self, at: At) -> int:
        """How many hosts are at this."""
        return self._counts[at]

    def hears(self, name: str, text: str, done: bool) -> At:
        """Take in what the gather says of a host; what the host is at by that."""
        host = self._hosts[name]
        now = _at(text, done)
        self._counts[host.at] -= 1
        self._counts[now] += 1
        host.at, host.text, host.heard = now, text, time.monotonic()
        if done:
            self._open.pop(name, None)
        return now

    def sentence(self) -> str:
        """The fleet in one line: 12 of 128 answered, 110 burn, 4 wait for a turn of rack7, 2 failed."""
        parts = [f"{self._counts[At.ANSWERED]} of {self.total} answered"]
        for at in list(At)[1:]:
            if number := self._counts[at]:
                domains = self._domains() if at is At.TURN else ""
                parts.append(f"{number} {at.value[number != 1]}{domains}")
        return ", ".join(parts)

    def silent(self, most: int) -> list[tuple[str, str, float]]:
        """The open hosts that were silent for longest: name, last text, seconds since."""
        now = time.monotonic()
        hosts = nsmallest(most, self._open.values(), key=lambda host: host.heard)
        return [(one_line(host.name), one_line(host.text), now - host.heard) for host in hosts]

    def _domains(self) -> str:
        waiting = (host.text for host in self._open.values() if host.at is At.TURN)
        names = sorted({name for text in waiting for name in _DOMAIN.findall(text)}, key=natural)
        more = f" and {len(names) - 3} others" if len(names) > 3 else ""
        return f" of {', '.join(map(one_line, names[:3]))}{more}" if names else ""


def _at(text: str, done: bool) -> At:
    if done:
        return At.ANSWERED if text.startswith("evidence") else At.FAILED
    return next((at for beginning, at in _BEGINNINGS.items() if text.startswith(beginning)), At.MEASURED)


class FleetProgress:
    """The gather's `progress(host, text, done)`, from whatever thread. `close` gives the terminal back."""

    def __init__(self, config: pytest.Config, targets: list[Target]) -> None:
        self._reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
        self._quiet = self._reporter is None or self._reporter.verbosity < -1
        self._tally = Tally(target.name for target in targets)
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._screen: _Screen | None = None
        config.add_cleanup(self.close)  # a hidden cursor must not outlive the session, however it ends
        self._line(f"gathering evidence of {self._tally.total} host{'s' * (self._tally.total != 1)}")
        if self._on_a_terminal():
            self._screen = _Screen(self._tally, self._lock, self._reporter)
            self._screen.start()
        else:
            threading.Thread(target=self._speak, name="gpugate-progress", daemon=True).start()

    def __call__(self, host: str, text: str, done: bool) -> None:
        with self._lock:  # and not while writing: the table is rendered with the terminal locked, and asks for this
            at = self._tally.hears(host, text, done)
            count, failed, total = self._tally.done, self._tally.count(At.FAILED), self._tally.total
        if not done or self._closed.is_set():
            return
        told = text if text.startswith(host) else f"{host}: {text}"
        if at is At.FAILED and failed <= FAILURES:
            self._line(f"  {told} ({count} of {total})")
            if failed == FAILURES < total:
                self._line("  failures from here on are only counted; the end of the run tells them by cause")
        elif at is At.ANSWERED and total <= SMALL and self._screen is None:
            self._line(f"  {told} ({count} of {total})")

    def close(self) -> None:
        """End the table and say how it went; nothing to do the second time."""
        with self._lock:
            if self._closed.is_set():
                return
            self._closed.set()
        if self._screen is not None:
            self._screen.close()
            self._screen = None
        self._line(self._state("after"))

    def _on_a_terminal(self) -> bool:
        watched = os.environ.get("CI", "").lower() in ("", "0", "false") and os.environ.get("TERM", "dumb") != "dumb"
        return not self._quiet and watched and bool(self._reporter.isatty) and bool(self._reporter.hasmarkup)

    def _speak(self) -> None:
        told, spoke = "", 0.0
        while not self._closed.wait(EVERY_S):
            with self._lock:
                sentence = self._tally.sentence()
            if sentence != told or time.monotonic() - spoke >= ANYWAY_S:
                told, spoke = sentence, time.monotonic()
                self._line(f"  {self._state('for')}")

    def _state(self, since: str) -> str:
        with self._lock:
            return f"{self._tally.sentence()}, {since} {time.monotonic() - self._tally.began:.1f} s"

    def _line(self, text: str) -> None:
        line = "  " * text.startswith(" ") + shortened(one_line(text), _WIDTH)
        if self._screen is not None:
            self._screen.above(line)
        elif not self._quiet:
            self._reporter.write_line(line)


class _Screen:
    """The table on a terminal. Rendered by a thread of rich's, with the tally locked."""

    def __init__(self, tally: Tally, lock: threading.Lock, reporter: Any) -> None:
        self._tally, self._lock = tally, lock
        reporter.ensure_newline()
        file = cast(IO[str], reporter._tw._file)  # what pytest itself writes to, whatever is captured
        self._console = Console(file=file, force_terminal=True, highlight=False, markup=False, emoji=False)
        self._live = Live(
            get_renderable=self._render, console=self._console, refresh_per_second=_FRAMES_PER_S, transient=True,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip

    def start(self) -> None:
        """Hide the cursor and draw. Not in the constructor: Ctrl-C in here has to find what to close."""
        _undisturbed(self._live.start)

    def above(self, line: str) -> None:
        """Print a line that stays, above the table."""
        self._console.print(Text(line))

    def close(self) -> None:
        """Take the table away and show the cursor again."""
        _undisturbed(self._live.stop)

    def _render(self) -> RenderableType:
        with self._lock:
            done, total, sentence = self._tally.done, self._tally.total, self._tally.sentence()
            silent = self._tally.silent(_SHOWN)
        elapsed = int(time.monotonic() - self._tally.began)
        bar = Table.grid(padding=(0, 1))
        drawn = ProgressBar(total, done, width=30, complete_style="green", finished_style="green")
        bar.add_row(drawn, f"{done} of {total}", f"{elapsed // 60}:{elapsed % 60:02d}")
        hosts = Table.grid(
            Column(no_wrap=True), Column(no_wrap=True, overflow="ellipsis", ratio=1), Column(no_wrap=True),
            padding=(0, 1), expand=True,
        )  # fmt: skip
        for name, text, seconds in silent:
            ago = f"({seconds:.0f} s ago)" if seconds >= 2 else ""
            hosts.add_row(Text(f"  {name}"), Text(shortened(text, _WIDTH)), Text(ago))
        return Group(bar, Text(sentence, no_wrap=True, overflow="ellipsis"), hosts)


def _undisturbed(work: Callable[[], None]) -> None:
    """Do it in a thread of its own: Ctrl-C ends our waiting, and leaves rich no half-drawn terminal."""
    thread = threading.Thread(target=work, name="gpugate-screen")
    thread.start()
    thread.join()
