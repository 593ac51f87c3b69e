"""What a node sends, read within bounds and made fit for a terminal."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from ..errors import NotGathered

MAX_STDOUT_BYTES = 512 * 1024
MAX_STDERR_BYTES = 256 * 1024


class Readable(Protocol):
    """A stream of asyncio or of asyncssh."""

    async def read(self, n: int = -1, /) -> bytes: ...


async def read_bounded(stream: Readable, most: int, where: str) -> bytes:
    """All bytes of a stream, up to `most`; more is refused."""
    return await _read(stream, most, f"{where} sent more than {most} bytes", None)


async def read_lines(stream: Readable, most: int, where: str, on_line: Callable[[str], None] | None) -> bytes:
    """As `read_bounded`, and hands every whole line to `on_line` when it arrives."""
    return await _read(stream, most, f"{where} sent more than {most} bytes of messages", on_line)


async def _read(stream: Readable, most: int, refusal: str, on_line: Callable[[str], None] | None) -> bytes:
    parts, total, rest = [], 0, b""
    while chunk := await stream.read(65536):
        total += len(chunk)
        if total > most:
            raise NotGathered(refusal)
        parts.append(chunk)
        if on_line is not None:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                on_line(printable(line))
    return b"".join(parts)


def printable(text: bytes) -> str:
    """A node's bytes for a terminal: what is not printable is escaped."""
    decoded = text.decode("utf-8", "backslashreplace").strip()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in decoded)


def reason(error: BaseException) -> str:
    """What an exception of a connection says, in one printable line."""
    number = error.errno or 0 if isinstance(error, OSError) else 0
    system = os.strerror(number) if number > 0 else ""
    strerror = getattr(error, "strerror", "")  # asyncio puts its own words there: "Connect call failed"
    text = getattr(error, "reason", "") or system or strerror or str(error) or type(error).__name__
    return printable(str(text).encode())
