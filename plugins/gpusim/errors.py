"""The one error of the simulated driver: a sentence that says what was wrong and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GpusimError(Exception):
    """Something asked of the simulator cannot be done; nothing was changed."""


def unknown(what: str, given: str, allowed: Iterable[str]) -> GpusimError:
    """An error for a name that does not exist: the closest allowed names come first."""
    names = list(allowed)
    close = difflib.get_close_matches(given, names, n=5, cutoff=0.4)
    ordered = close + [name for name in names if name not in close]
    return GpusimError(f"unknown {what} {given!r}; allowed: {', '.join(ordered)}")
