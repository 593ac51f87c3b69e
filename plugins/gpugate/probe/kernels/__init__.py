"""The burn's device code, and the host's own knowledge of what it must answer.

`burn.cu` is the source. Its two PTX texts travel compressed; tools/build_kernels.py makes them.
"""

from __future__ import annotations

import functools
import gzip
import pkgutil

from ...errors import ProbeError
from .abi import (
    ADDRESS,
    BURN,
    FIXED,
    MEMORY,
    MEMORY_ROLE,
    MOST_RECORDS,
    RANDOM,
    RESULT_WORDS,
    ROLES,
    SETS,
    STREAM,
    STREAM_CHUNK_BYTES,
    THREADS_A_BLOCK,
    WARPS_A_BLOCK,
)
from .operands import build
from .work import architecture, operations, roles, works

__all__ = [
    "ADDRESS",
    "BURN",
    "FIXED",
    "MEMORY",
    "MEMORY_ROLE",
    "MOST_RECORDS",
    "RANDOM",
    "RESULT_WORDS",
    "ROLES",
    "SETS",
    "STREAM",
    "STREAM_CHUNK_BYTES",
    "THREADS_A_BLOCK",
    "WARPS_A_BLOCK",
    "operations",
    "ptx",
    "roles",
    "tables",
    "works",
]


def ptx(capability: tuple[int, int]) -> bytes:
    """The text of the kernels for a card, from the package or the zipapp that it travels in; ProbeError before 7.5."""
    name = f"burn.sm_{architecture(capability)}.ptx.gz"
    try:
        packed = pkgutil.get_data(__name__, name)
    except OSError as error:
        raise ProbeError(f"the probe was packed without its kernel {name}: build the zipapp anew") from error
    if packed is None:
        raise ProbeError(f"the probe cannot read its kernel {name} from where it was imported")
    return gzip.decompress(packed)


def tables(capability: tuple[int, int]) -> bytes:
    """Operands and golden words for a card (operands.py says where each is); ProbeError before 7.5."""
    return _tables(architecture(capability))


@functools.cache
def _tables(number: int) -> bytes:
    return build(number)
