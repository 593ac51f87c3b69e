"""A burn's progress for a person: a table that is redrawn in place on a terminal, else a line a GPU now and then."""

from __future__ import annotations

import os
import time
from typing import Any, TextIO

from .live import line, say

_LINES_EVERY_S = 5.0
_HEAD = f"GPU phase       s     C  left     W    MHz {'rate':<28}  wrong"
_ALARM, _PLAIN = "\x1b[1;31m", "\x1b[0m"


class Screen:
    """Shows what the keeper last heard, on `stream`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._redraws = stream.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb")
        self._colours = self._redraws and not os.environ.get("NO_COLOR")
        self._drawn = 0
        self._told: float | None = None

    def show(self, title: str, live: dict[str, Any]) -> None:
        """Draw the table anew, or say a line for each GPU if it is time to."""
        gpus = live["gpus"]
        head = f"{title}: {live['state']}" if gpus else f"{title}: {live['state']} {live['words']}".rstrip()
        if self._redraws and self._fits(len(gpus) + 2):
            self._draw([head, *([_HEAD] if gpus else []), *map(_row, gpus)], gpus)
        elif not gpus:
            self.say(head)
        elif self._told is None or time.monotonic() - self._told >= _LINES_EVERY_S:
            self._told = time.monotonic()
            self.say(*map(line, gpus))

    def say(self, *lines: str) -> None:
        """Words that stay; what is drawn next comes below them."""
        self._stream.write("".join(f"{words}\n" for words in lines))
        self._stream.flush()
        self._drawn = 0

    def _draw(self, lines: list[str], gpus: list[dict[str, Any]]) -> None:
        width = os.get_terminal_size(self._stream.fileno()).columns - 1
        lines = [text[:width] for text in lines]
        if self._colours:
            first = len(lines) - len(gpus)
            wrong = {first + place for place, gpu in enumerate(gpus) if gpu["mismatches"]}
            lines = [f"{_ALARM}{text}{_PLAIN}" if place in wrong else text for place, text in enumerate(lines)]
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        self._stream.write(up + "".join(f"\r{text}\x1b[K\n" for text in lines) + "\x1b[J")
        self._stream.flush()
        self._drawn = len(lines)

    def _fits(self, lines: int) -> bool:
        return os.get_terminal_size(self._stream.fileno()).lines > lines


def _row(gpu: dict[str, Any]) -> str:
    return (
        f"{say(gpu['index']):>3} {say(gpu['phase']):<7}{say(gpu['seconds'], '.1f'):>6}"
        f"{say(gpu['temperature_c'], '.0f'):>6}{say(gpu['below_slowdown_c'], '.0f'):>6}"
        f"{say(gpu['power_w'], '.0f'):>6}{say(gpu['sm_mhz'], '.0f'):>7} {say(gpu['rate']):<28}"
        f"{say(gpu['mismatches']):>7}"
    )
