"""The memory test of one GPU: patterns over nearly all that is free, each verified after all of it was written.

Moving inversions find cells that do not hold one value or disturb their neighbours, in both directions of the walk;
addresses as content find address lines that are stuck, in both polarities; random content what regular content hides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ...evidence.facts import Gap
from ...evidence.types import MemoryTest
from ..cuda.driver import OUT_OF_MEMORY, Cuda, CudaError
from ..cuda.kernel import NOTHING
from ..kernels import ADDRESS, FIXED, RANDOM
from ..reading import record
from .jobs import LAUNCH_S, MEMORY, Pattern, Sweep

_ONES = 0xFFFFFFFF
_FIRST_BYTES = 1 << 30  # of the launch that shows how fast this memory is
_GRAIN = 1 << 21  # what drivers hand out memory in
_LEAST_PIECE = 64 << 20
_GOLDEN = 0x9E3779B1  # spreads part numbers over all bits


@dataclass(frozen=True)
class _Pass:
    """One walk over all of the memory."""

    expect: Pattern
    write: Pattern
    descending: bool = False


def _inversions(fixed: int, before: Pattern) -> list[_Pass]:
    there, back = (FIXED, fixed), (FIXED, fixed ^ _ONES)
    return [_Pass(before, there), _Pass(there, back), _Pass(back, there, descending=True)]


_ADDRESS, _INVERTED, _RANDOM = (ADDRESS, 0), (ADDRESS, _ONES), (RANDOM, 20011)
_PASSES = [
    *_inversions(0, NOTHING),
    *_inversions(0x55555555, (FIXED, 0)),
    _Pass((FIXED, 0x55555555), _ADDRESS),
    _Pass(_ADDRESS, _INVERTED, descending=True),
    _Pass(_INVERTED, _RANDOM),
    _Pass(_RANDOM, NOTHING),
]
_PATTERNS = [
    "moving inversions of 0x00000000",
    "moving inversions of 0x55555555",
    "address",
    "address inverted",
    "random",
]


class MemoryTester:
    """Plans the launches, takes in what they found, and says it as evidence."""

    def __init__(self, cuda: Cuda, share: float) -> None:
        self._cuda, self._share = cuda, share
        self._free = 0
        self._pieces: list[tuple[int, int]] = []
        self._part = _FIRST_BYTES
        self._moved, self._busy_s, self._wrong = 0, 0.0, 0
        self._vectors_due = self._vectors_done = 0
        self._result: MemoryTest | Gap | None = None

    def plan(self) -> Iterator[Sweep | None]:
        """The launches in their order; at a None everything before must have run. Nothing else may hold memory."""
        yield None
        if self._share == 0:
            self._result = Gap("not asked for: the share of memory to be tested is 0")
            return
        refusal = self._take_memory()
        if refusal is None:
            yield next(self._sweeps(_PASSES[0]))
            yield None
            self._part = self._fitting()
            for walk in _PASSES:
                yield from self._sweeps(walk)
            yield None
        for base, _ in self._pieces:
            self._cuda.free(base)
        self._result = refusal or self._conclusion()

    def took(self, sweep: Sweep, busy_s: float, wrong_words: int, vectors: int) -> None:
        """One launch has completed."""
        self._moved += sweep.moved
        self._busy_s += busy_s
        self._wrong += wrong_words
        self._vectors_due += sweep.size // 16
        self._vectors_done += vectors

    def result(self) -> MemoryTest | Gap:
        """What the test showed, or why there is nothing to show."""
        if self._result is not None:
            return self._result
        if self._moved:
            return Gap(f"the memory test did not come to its end; {self._wrong} words had read back otherwise by then")
        return Gap("the burn ended before the memory was tested")

    def _take_memory(self) -> Gap | None:
        """Allocate the share in as few pieces as there are to be had; why that failed, if it did."""
        self._free = self._cuda.free_bytes()
        wanted = math.ceil(self._free * self._share / _GRAIN) * _GRAIN
        if wanted > self._free:
            wanted = self._free // 16 * 16
        if wanted == 0:
            return Gap(f"only {self._free} bytes are free")
        left, size = wanted, wanted
        while left > 0:
            size = min(size, left)
            try:
                self._pieces.append((self._cuda.allocate(size), size))
                left -= size
            except CudaError as error:
                if error.code != OUT_OF_MEMORY:
                    raise
                size = size // 2 // _GRAIN * _GRAIN
                if size < _LEAST_PIECE:
                    had = wanted - left
                    return Gap(
                        f"{had} bytes of {self._free} that are free could be had, "
                        f"{self._share:.0%} were to be tested: {error}",
                        error.code,
                    )
        return None

    def _sweeps(self, walk: _Pass) -> Iterator[Sweep]:
        """One walk, in parts of one launch each. A part has its own seed: contents count from its base."""
        parts = []
        offset = 0
        for base, size in self._pieces:
            for start in range(0, size, self._part):
                parts.append((base + start, offset + start, min(self._part, size - start)))
            offset += size
        numbered = list(enumerate(parts))
        for number, (base, place, size) in reversed(numbered) if walk.descending else numbered:
            expect, write = _seeded(walk.expect, number), _seeded(walk.write, number)
            yield Sweep(MEMORY, base, place, size, expect, write, walk.descending)

    def _fitting(self) -> int:
        """Bytes that a launch reads and writes in LAUNCH_S, after the first one has shown how fast that is."""
        if self._busy_s <= 0:
            return self._part
        size = int(self._moved / self._busy_s * LAUNCH_S / 2)
        return max(size // _GRAIN * _GRAIN, _LEAST_PIECE)

    def _conclusion(self) -> MemoryTest | Gap:
        if self._vectors_done != self._vectors_due:
            return Gap(f"the kernel went over {self._vectors_done} pieces of 16 bytes, {self._vectors_due} were due")
        return record(
            MemoryTest,
            free_bytes=self._free,
            tested_bytes=sum([size for _, size in self._pieces]),
            pieces=len(self._pieces),
            patterns=list(_PATTERNS),
            mismatches=self._wrong,
            gb_per_s=self._moved / self._busy_s / 1e9 if self._busy_s > 0 else Gap("the memory test took no time"),
        )


def _seeded(pattern: Pattern, part: int) -> Pattern:
    kind, seed = pattern
    return (kind, seed ^ (part * _GOLDEN & _ONES)) if kind in (ADDRESS, RANDOM) else pattern
