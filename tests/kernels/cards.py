"""Cards of the tests: burn.cu compiled for the CPU (device.h), with memory, faults and a result to read."""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.util
import shutil
import struct
import subprocess
import sys
from pathlib import Path

from gpugate.probe import kernels

HERE = Path(__file__).parent
SOURCES = Path(kernels.__file__).parent
CAPABILITIES = {75: (7, 5), 80: (9, 0)}
FOREVER = 1 << 60  # cycles
TICKS, FIRST_MULTIPROCESSOR = 1000, 40  # of device.h: between two looks at lane 0's clock; block 0's

# Faults' targets, as device.h numbers them.
OPERAND_A, OPERAND_B, ACCUMULATOR, CHAIN, VECTOR = 1, 2, 3, 4, 5
ALWAYS = 0xFFFFFFFF
WORD = 0xFFFFFFFF

_FLAGS = [
    *("-std=c++17", "-O2", "-fPIC", "-shared", "-fno-exceptions", "-fno-rtti", "-ffp-contract=off"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),  # the pragmas are for the card's compiler
]


def compiler() -> list[str]:
    """The command of a C++ compiler: the system's, else the one that the wheel ziglang is."""
    for name in ("c++", "g++", "clang++"):
        found = shutil.which(name)
        if found:
            return [found]
    assert importlib.util.find_spec("ziglang"), "no C++ compiler here: install one, or `pip install ziglang`"
    return [sys.executable, "-m", "ziglang", "cc"]  # as cc it leaves out the C++ library, which is not used


def build(architecture: int, folder: Path, command: list[str] | None = None) -> Path:
    """Compile the kernels for the CPU, as those of sm_75 or sm_80; the library."""
    library = folder / f"card{architecture}.so"
    paths = [f"-I{HERE}", f"-I{SOURCES}", "-x", "c++", str(HERE / "card.cpp"), "-o", str(library), "-lm"]
    done = subprocess.run(
        [*(command or compiler()), *_FLAGS, f"-DSM={architecture}", *paths],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return library


@dataclasses.dataclass(frozen=True)
class Record:
    """One located mismatch."""

    role: int
    multiprocessor: int
    block: int
    thread: int
    launch: int
    round: int
    word: int
    expected: int
    found: int


class Buffer:
    """Memory of the card: 16-byte aligned, of 32-bit or 64-bit words."""

    def __init__(self, content: bytes) -> None:
        self._raw = ctypes.create_string_buffer(len(content) + 16)
        self.address = ctypes.addressof(self._raw) + -ctypes.addressof(self._raw) % 16
        self.size = len(content)
        ctypes.memmove(self.address, content, len(content))

    def __getitem__(self, index: int) -> int:
        assert 0 <= index < self.size // 4
        return ctypes.c_uint32.from_address(self.address + 4 * index).value

    def __setitem__(self, index: int, value: int) -> None:
        assert 0 <= index < self.size // 4
        ctypes.c_uint32.from_address(self.address + 4 * index).value = value

    def words(self) -> list[int]:
        """All of it, as 32-bit words."""
        return list(struct.unpack(f"<{self.size // 4}I", ctypes.string_at(self.address, self.size)))

    def long_words(self) -> list[int]:
        """All of it, as 64-bit words."""
        return list(struct.unpack(f"<{self.size // 8}Q", ctypes.string_at(self.address, self.size)))


def words(count: int) -> Buffer:
    """So many 32-bit words of zeros."""
    return Buffer(bytes(4 * count))


class Card:
    """One card with the kernels loaded, its tables, and a result that all launches add to."""

    def __init__(self, library: Path, architecture: int) -> None:
        self._library = ctypes.CDLL(str(library))
        self.architecture = architecture
        self.capability = CAPABILITIES[architecture]
        self.tables = Buffer(kernels.tables(self.capability))
        self.result = Buffer(bytes(8 * kernels.RESULT_WORDS))
        self.stream, self.stream_chunks = words(0), 0
        self.progress = words(64)
        self.fault()
        self.sum_in_order(0)
        self.counts()

    def give_stream(self, warps: int, chunks: int) -> None:
        """A buffer for so many stream warps, each with so many chunks, filled by the memory kernel as for pass 0."""
        size = warps * chunks * kernels.STREAM_CHUNK_BYTES // 4
        self.stream, self.stream_chunks = words(size), chunks
        self.progress = words(warps)
        assert self.memory(self.stream, write=(kernels.STREAM, 0)).completed
        self.result = Buffer(bytes(8 * kernels.RESULT_WORDS))

    def burn(self, roles: int, rounds: int = 1, *, grid: int = 1, launch: int = 0, cycles: int = FOREVER) -> Result:
        """One launch of gpugate_burn; the result so far."""
        self._launch(
            "burn",
            grid,
            [
                *(self.result.address, self.tables.address, self.stream.address, self.stream_chunks),
                *(self.progress.address, roles, launch, rounds, cycles),
            ],
        )
        return Result(self.result.long_words())

    def memory(
        self,
        buffer: Buffer,
        *,
        expect: tuple[int, int] = (0, 0),
        write: tuple[int, int] = (0, 0),
        descending: bool = False,
        grid: int = 1,
        launch: int = 0,
    ) -> Result:
        """One launch of gpugate_memory over all of a buffer; the result so far."""
        self._launch(
            "memory",
            grid,
            [self.result.address, buffer.address, buffer.size // 4, *expect, *write, launch, int(descending)],
        )
        return Result(self.result.long_words())

    def pattern(self, kind: int, seed: int, place: int) -> int:
        """The word that gpugate_memory writes and expects at a place, counted in words from its base."""
        self._library.pattern.restype = ctypes.c_uint32
        return int(self._library.pattern(kind, ctypes.c_uint32(seed), ctypes.c_uint64(place)))

    def fault(
        self,
        target: int = 0,
        *,
        block: int = 0,
        thread: int = 0,
        index: int = 0,
        first: int = 0,
        count: int = 1,
        flip: int = 0,
        becomes: int | None = None,
    ) -> None:
        """Break the card, or with no target mend it: a thread's word is flipped, or becomes something else."""
        keep, bits = (WORD, flip) if becomes is None else (0, becomes)
        self._library.set_fault((ctypes.c_uint32 * 8)(target, block, thread, index, first, count, keep, bits))

    def sum_in_order(self, order: int) -> None:
        """In which order the tensor cores add: 0 forwards, 1 backwards, 2 the positive products first."""
        self._library.set_summation(order)

    def counts(self) -> dict[str, int]:
        """mma by warps, fma, vectors loaded and vectors stored by threads, since this was last asked."""
        counts = (ctypes.c_uint64 * 4)()
        self._library.take_counts(counts)
        return dict(zip(("mma", "fma", "load", "store"), counts, strict=True))

    def _launch(self, entry: str, grid: int, arguments: list[int]) -> None:
        status = self._library[entry](ctypes.c_uint32(grid), (ctypes.c_uint64 * 9)(*arguments))
        assert status == 0, "lanes of a warp parted where a card needs them together"


class Result:
    """A result's words by name."""

    def __init__(self, result: list[int]) -> None:
        self.completed, self.wrong, self.claimed, self.vectors = result[:4]
        self.rounds = {name: result[4 + role] for name, role in kernels.ROLES.items() if result[4 + role]}
        self.unused = [result[4], *result[10:16]]
        stored = [result[16 + 6 * i : 22 + 6 * i] for i in range(kernels.MOST_RECORDS)]
        assert all(not any(words) for words in stored if words[5] != 1), "a record is half written"
        self.records = [_record(words) for words in stored if words[5] == 1]


def _record(words: list[int]) -> Record:
    (role, multiprocessor), (block, thread), (launch, number), (expected, found) = (
        (word & WORD, word >> 32) for word in (*words[:3], words[4])
    )
    return Record(role, multiprocessor, block, thread, launch, number, words[3], expected, found)
