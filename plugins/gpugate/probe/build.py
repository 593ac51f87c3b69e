"""Which probe this is: its version and the digest of the one file that it runs from."""

from __future__ import annotations

import hashlib
import platform
import sys
from pathlib import Path
from typing import Any

from .. import __version__
from ..evidence.facts import Gap
from ..evidence.types import ProbeBuild
from .reading import Result, attempt, record


def archive() -> Path | None:
    """The zipapp that this code was imported from, or whose bytecode was; None where it runs from source."""
    loader: Any = globals().get("__loader__")
    found = getattr(loader, "archive", None)
    return Path(found.removesuffix(f".{sys.implementation.cache_tag}")) if found else None


def probe_build() -> ProbeBuild:
    return record(
        ProbeBuild,
        version=__version__,
        digest=attempt("the probe's own file", _digest),
        python=platform.python_version(),
    )


def _digest() -> Result[str]:
    place = archive()
    if place is None:
        return Gap("the probe runs from source, not from its zipapp")
    return hashlib.sha256(place.read_bytes()).hexdigest()
