"""The burn-in kernel on one GPU: launches queue up on one stream, their accumulated result comes back with each."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_uint32, c_uint64, c_ulonglong, c_void_p
from dataclasses import dataclass

from ...evidence.types import Mismatch
from ..kernels import BURN, RESULT_WORDS, burn_ptx, golden
from .driver import Cuda

THREADS_A_BLOCK = 256
# 1024 threads a multiprocessor are resident on every card since Turing, and eight chains each keep its pipes full.
BLOCKS_A_MULTIPROCESSOR = 4
_RESULT_BYTES = 8 * RESULT_WORDS


@dataclass(frozen=True)
class Answer:
    """What all launches up to now computed together."""

    threads_completed: int
    mismatches: int
    first: Mismatch | None


class BurnKernel:
    """The kernel loaded on one device (CUDA's handle), with a stream and a zeroed result of its own.

    What it holds on the GPU is freed by the end of the process, which is the only way that always works.
    """

    def __init__(self, cuda: Cuda, device: int) -> None:
        self._cuda = cuda
        self._context = cuda.retain(device)
        self.threads = cuda.multiprocessors(device) * BLOCKS_A_MULTIPROCESSOR * THREADS_A_BLOCK
        module, self._function = c_void_p(), c_void_p()
        cuda.call("cuModuleLoadDataEx", byref(module), burn_ptx(), 0, None, None)
        cuda.call("cuModuleGetFunction", byref(self._function), module, BURN.encode())
        self._stream = cuda.stream()
        self._result = c_ulonglong()
        cuda.call("cuMemAlloc_v2", byref(self._result), _RESULT_BYTES)
        cuda.call("cuMemsetD8_v2", self._result, 0, _RESULT_BYTES)
        # Pinned, so that copying into it does not wait for the kernels before.
        pinned = c_void_p()
        cuda.call("cuMemAllocHost_v2", byref(pinned), _RESULT_BYTES)
        self._words = (c_uint64 * RESULT_WORDS).from_address(pinned.value or 0)
        self._pinned = pinned
        # The driver copies the arguments at each launch, so one set of them serves all.
        self._arguments = [self._result, c_uint32(), c_uint32(), c_uint32(), c_uint32()]
        self._pointers = (c_void_p * len(self._arguments))(*[ctypes.addressof(value) for value in self._arguments])
        self.threads_launched = 0

    def select(self) -> None:
        """Make this GPU's context the current one; every other method needs it to be."""
        self._cuda.call("cuCtxSetCurrent", self._context)

    def mark(self, event: c_void_p) -> None:
        """Let `event` pass when everything that was queued before has run."""
        self._cuda.call("cuEventRecord", event, self._stream)

    def launch(self, iterations: int, seed: int) -> None:
        """Queue one launch and the copy of the result after it. `iterations` must be even."""
        multiplier, increment = golden(iterations)
        self.launch_expecting(iterations, seed, multiplier, increment)

    def launch_expecting(self, iterations: int, seed: int, multiplier: int, increment: int) -> None:
        """The same, told what to expect; a wrong expectation must come back as mismatches."""
        for argument, value in zip(self._arguments[1:], (iterations, seed, multiplier, increment)):
            argument.value = value
        blocks = self.threads // THREADS_A_BLOCK
        self._cuda.call(
            "cuLaunchKernel", self._function, blocks, 1, 1, THREADS_A_BLOCK, 1, 1, 0, self._stream, self._pointers, None
        )
        self.threads_launched += self.threads
        self._cuda.call("cuMemcpyDtoHAsync_v2", self._pinned, self._result, _RESULT_BYTES, self._stream)

    def wait(self) -> None:
        """Return when everything that was queued has run."""
        self._cuda.call("cuStreamSynchronize", self._stream)

    def answer(self) -> Answer:
        """The result as of the last launch that has completed."""
        completed, mismatches, thread, expected, found = list(self._words)
        first = Mismatch(thread - 1, expected, found) if thread else None
        return Answer(completed, mismatches, first)
