"""How the probe keeps its promise that a reading is a value or a named gap, and that every text is printable."""

from __future__ import annotations

import os
from typing import Any, Callable, TypeVar, Union

from ..errors import ProbeError
from ..evidence.facts import Gap

T = TypeVar("T")
R = TypeVar("R")
Result = Union[T, Gap]

MAX_TEXT = 4096


def attempt(what: str, read: Callable[[], Result[T]]) -> Result[T]:
    """What `read` returns; where it raises, a Gap. A bug in the probe costs this one fact and says that it is a bug."""
    try:
        return read()
    except ProbeError as error:
        return Gap(printable(str(error)))
    except OSError as error:
        words = os.strerror(error.errno) if error.errno else str(error)
        where = f" ({error.filename})" if error.filename else ""
        return Gap(printable(f"{what}: {words}{where}"), error.errno)
    except Exception as error:  # a bug must neither lose the other facts nor pass for a fact of the node
        return Gap(printable(f"probe error: {type(error).__name__}: {error} (while reading {what})"))


def record(kind: Callable[..., R], /, *facts: Any, **named: Any) -> R:
    """A record of evidence from readings. Its own types are the reader's, who never sees a Gap; the builder does."""
    return kind(*facts, **named)


def printable(text: str, most: int = MAX_TEXT) -> str:
    """`text` with everything escaped that could control a terminal, at most `most` characters long."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return text if len(text) <= most else text[: most - 3] + "..."
