"""The burn-in kernels on one GPU: launches queue up on one stream, and each brings the result back as it left it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any

from ...evidence.types import Mismatch
from .. import kernels
from .driver import Cuda

# Launches that may be under way at once, each with a copy of the result of its own.
SLOTS = 64
NOTHING = (0, 0)
_RESULT_BYTES = 8 * kernels.RESULT_WORDS
_RECORDS_AT, _RECORD_WORDS = 16, 6
_MEMORY_BLOCKS_A_MULTIPROCESSOR = 4
_NAMES = {number: work for work, number in kernels.ROLES.items()}
_NAMES[kernels.MEMORY_ROLE] = "memory"
_LOW = 0xFFFFFFFF


@dataclass(frozen=True)
class Answer:
    """What all launches up to one of them computed together.

    `wrong_words` counts all, `located` holds the first of them. `rounds` by work; `vectors` are the memory kernel's
    steps of 16 bytes.
    """

    threads_completed: int
    wrong_words: int
    located: list[Mismatch]
    rounds: dict[str, int]
    vectors: int


def answer_of(words: Sequence[int]) -> Answer:
    """The device's result, decoded."""
    records = []
    for i in range(min(words[2], kernels.MOST_RECORDS)):
        start = _RECORDS_AT + _RECORD_WORDS * i
        who, place, when, word, bits, written = words[start : start + _RECORD_WORDS]
        if written:
            records.append(
                Mismatch(
                    work=_NAMES.get(who & _LOW, f"role {who & _LOW}"),
                    sm=who >> 32,
                    block=place & _LOW,
                    thread=place >> 32,
                    launch=when & _LOW,
                    round=when >> 32,
                    word=word,
                    expected=bits & _LOW,
                    found=bits >> 32,
                )
            )
    rounds = {work: words[4 + number] for work, number in kernels.ROLES.items()}
    return Answer(words[0], words[1], records, rounds, words[3])


NO_ANSWER = answer_of([0] * kernels.RESULT_WORDS)


def warps_of(roles: int, work: str) -> int:
    """How many warps of a block do `work` in a word of roles."""
    number = kernels.ROLES[work]
    return sum([(roles >> 4 * warp) & 15 == number for warp in range(kernels.WARPS_A_BLOCK)])


class Kernels:
    """Both kernels loaded on one device (CUDA's handle), with a stream and a zeroed result of its own.

    Launches count from 1. What is not freed here is freed by the end of the process, which always works.
    """

    def __init__(self, cuda: Cuda, device: int) -> None:
        self.cuda = cuda
        self.capability = cuda.capability(device)
        self.works = kernels.works(self.capability)
        self.blocks = cuda.multiprocessors(device)
        self.clock_hz = cuda.clock_hz(device)
        self.launches = self.threads_launched = 0
        self._context = cuda.retain(device)
        module = c_void_p()
        cuda.call("cuModuleLoadDataEx", byref(module), kernels.ptx(self.capability), 0, None, None)
        self._functions = {name: self._function(module, name) for name in (kernels.BURN, kernels.MEMORY)}
        self._stream = cuda.stream()
        self._result = self.zeroed(_RESULT_BYTES)
        # Pinned, so that copying into it does not wait for the kernels before.
        pinned = c_void_p()
        cuda.call("cuMemAllocHost_v2", byref(pinned), SLOTS * _RESULT_BYTES)
        self._pinned = pinned.value or 0
        self._tables = 0
        self._buffer = self._chunks = self._progress = 0

    def _function(self, module: c_void_p, name: str) -> c_void_p:
        function = c_void_p()
        self.cuda.call("cuModuleGetFunction", byref(function), module, name.encode())
        return function

    def select(self) -> None:
        """Make this GPU's context the current one; every other method needs it to be."""
        self.cuda.call("cuCtxSetCurrent", self._context)

    def mark(self, event: c_void_p) -> None:
        """Let `event` pass when everything that was queued before has run."""
        self.cuda.call("cuEventRecord", event, self._stream)

    def wait(self) -> None:
        """Return when everything that was queued has run."""
        self.cuda.call("cuStreamSynchronize", self._stream)

    def zeroed(self, size: int) -> int:
        """The address of so many zero bytes on the device."""
        address = self.cuda.allocate(size)
        self.cuda.call("cuMemsetD8_v2", address, 0, size)
        return address

    def stream_over(self, buffer: int, size: int, roles: int, slot: int) -> None:
        """Let the stream warps of `roles` walk over `size` bytes at `buffer`: shared out among them, and filled."""
        warps = self.blocks * warps_of(roles, "stream")
        self._release_progress()
        self._buffer, self._chunks = buffer, size // (warps * kernels.STREAM_CHUNK_BYTES)
        self._progress = self.zeroed(4 * warps)
        words = self._chunks * warps * kernels.STREAM_CHUNK_BYTES // 4
        self.sweep(buffer, words, NOTHING, (kernels.STREAM, 0), False, slot)

    def stream_no_more(self) -> None:
        """Forget the stream buffer, which is its owner's to free."""
        self._release_progress()
        self._buffer = self._chunks = 0

    def _release_progress(self) -> None:
        if self._progress:
            self.cuda.free(self._progress)
            self._progress = 0

    def load_tables(self) -> None:
        """Bring operands and golden words to the device, once."""
        if not self._tables:
            tables = kernels.tables(self.capability)
            self._tables = self.cuda.allocate(len(tables))
            self.cuda.call("cuMemcpyHtoD_v2", self._tables, tables, len(tables))

    def burn(self, roles: int, max_rounds: int, cycles: int, slot: int) -> None:
        """Queue a launch that computes until `max_rounds` or `cycles` of the device's clock are over."""
        self.load_tables()
        places = (self._result, self._tables, self._buffer, self._chunks, self._progress, roles)
        arguments = [*map(c_uint64, places), c_uint32(self.launches + 1), c_uint32(max_rounds), c_uint64(cycles)]
        self._launch(kernels.BURN, self.blocks, arguments, slot)

    def sweep(
        self, base: int, words: int, expect: tuple[int, int], write: tuple[int, int], descending: bool, slot: int
    ) -> None:
        """Queue a walk over `words` words at `base` that compares each with one pattern and writes another.

        A pattern is (kind, seed); NOTHING neither compares nor writes.
        """
        last = [c_uint32(value) for value in (*expect, *write, self.launches + 1, descending)]
        arguments = [c_uint64(self._result), c_uint64(base), c_uint64(words), *last]
        blocks = max(1, min(self.blocks * _MEMORY_BLOCKS_A_MULTIPROCESSOR, -(-words // (4 * kernels.THREADS_A_BLOCK))))
        self._launch(kernels.MEMORY, blocks, arguments, slot)

    def _launch(self, name: str, blocks: int, arguments: Sequence[Any], slot: int) -> None:
        # The driver copies the arguments before it returns.
        pointers = (c_void_p * len(arguments))(*[ctypes.addressof(value) for value in arguments])
        threads = kernels.THREADS_A_BLOCK
        self.cuda.call(
            "cuLaunchKernel", self._functions[name], blocks, 1, 1, threads, 1, 1, 0, self._stream, pointers, None
        )
        self.launches += 1
        self.threads_launched += blocks * threads
        self.cuda.call("cuMemcpyDtoHAsync_v2", self._address(slot), self._result, _RESULT_BYTES, self._stream)

    def answer(self, slot: int) -> Answer:
        """The result as the launch of `slot` left it; that launch must have completed."""
        return answer_of((c_uint64 * kernels.RESULT_WORDS).from_address(self._address(slot))[:])

    def _address(self, slot: int) -> int:
        return self._pinned + slot * _RESULT_BYTES
