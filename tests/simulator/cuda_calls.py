"""The simulated libcuda by ctypes, and the product's kernels as the tests launch them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpugate.probe import kernels

PTX = """//
.version {version}
.target {target}
.address_size 64
.visible .entry gpugate_burn(.param .u64 a)
{{
    ret;
}}
.visible .entry another(.param .u64 a)
{{
    ret;
}}
"""


class CudaError(Exception):
    """A call answered something else than success."""

    def __init__(self, function: str, code: int) -> None:
        super().__init__(f"{function} answered {code}")
        self.code = code


def ptx(version: str = "7.0", target: str = "sm_75") -> bytes:
    """A module of two entries."""
    return PTX.format(version=version, target=target).encode()


class Cuda:
    """libcuda, initialised; `call` raises CudaError."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.call("cuInit", 0)

    def call(self, function: str, *arguments: Any) -> None:
        """Call and check."""
        code = self.library[function](*arguments)
        if code:
            raise CudaError(function, code)

    def number(self, function: str, *arguments: Any, kind: Any = ctypes.c_int) -> Any:
        """Call a function whose first argument is where the answer goes."""
        value = kind()
        self.call(function, ctypes.byref(value), *arguments)
        return value.value

    def uuid(self, device: int) -> str:
        """UUID of a device as NVML writes it."""
        raw = (ctypes.c_ubyte * 16)()
        self.call("cuDeviceGetUuid_v2", raw, device)
        text = bytes(raw).hex()
        return f"GPU-{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def context(self, device: int = 0) -> ctypes.c_void_p:
        """Retain a device's primary context and make it current."""
        context = ctypes.c_void_p(self.number("cuDevicePrimaryCtxRetain", device, kind=ctypes.c_void_p))
        self.call("cuCtxSetCurrent", context)
        return context

    def function(self, image: bytes, name: bytes = b"gpugate_burn") -> ctypes.c_void_p:
        """Load a module and get a function of it."""
        module = ctypes.c_void_p(self.number("cuModuleLoadData", image, kind=ctypes.c_void_p))
        return ctypes.c_void_p(self.number("cuModuleGetFunction", module, name, kind=ctypes.c_void_p))

    def event(self) -> ctypes.c_void_p:
        """A new event."""
        return ctypes.c_void_p(self.number("cuEventCreate", 0, kind=ctypes.c_void_p))


@dataclass(frozen=True)
class Wrong:
    """A record of a wrong word, as the kernels write it."""

    role: int
    sm: int
    block: int
    thread: int
    launch: int
    round: int
    word: int
    expected: int
    found: int


@dataclass(frozen=True)
class Result:
    """A result buffer."""

    words: list[int]

    @property
    def threads(self) -> int:
        """Threads completed."""
        return self.words[0]

    @property
    def wrong(self) -> int:
        """Wrong words."""
        return self.words[1]

    @property
    def vectors(self) -> int:
        """16-byte vectors that the memory kernel has done."""
        return self.words[3]

    def rounds(self, work: str) -> int:
        """Rounds of a warp in a work."""
        return self.words[4 + kernels.ROLES[work]]

    def records(self) -> list[Wrong]:
        """The wrong words that were written down."""
        found = []
        for at in range(16, 16 + 6 * min(self.words[2], kernels.MOST_RECORDS), 6):
            a, b, c, word, e, written = self.words[at : at + 6]
            assert written == 1
            found.append(Wrong(*_pair(a), *_pair(b), *_pair(c), word, *_pair(e)))
        return found


def _pair(both: int) -> tuple[int, int]:
    return both & 0xFFFFFFFF, both >> 32


class Burn:
    """The product's kernels on one device, with their tables, a stream buffer and a result."""

    def __init__(self, cuda: Cuda, device: int = 0, blocks: int | None = None, chunks: int = 64) -> None:
        """`chunks`: of 8 KiB, for each of a block's 16 warps, whatever works are launched."""
        self.cuda, self.device, self.chunks, self.launches = cuda, device, chunks, 0
        self.context = cuda.context(device)
        self.capability = (
            cuda.number("cuDeviceGetAttribute", 75, device),
            cuda.number("cuDeviceGetAttribute", 76, device),
        )
        self.blocks = blocks or cuda.number("cuDeviceGetAttribute", 16, device)
        image = kernels.ptx(self.capability)
        self.kernel = cuda.function(image, kernels.BURN.encode())
        self.memory_kernel = cuda.function(image, kernels.MEMORY.encode())
        self.result = self.allocate(8 * kernels.RESULT_WORDS)
        self.tables = self.allocate(len(kernels.tables(self.capability)))
        self.upload(kernels.tables(self.capability))
        self.stream_words = self.blocks * 16 * chunks * 2048
        self.stream = self.allocate(4 * self.stream_words)
        self.progress = self.allocate(4 * self.blocks * 16)
        self.clear()
        self.fill()

    def allocate(self, size: int) -> int:
        """Device memory."""
        address: int = self.cuda.number("cuMemAlloc_v2", ctypes.c_size_t(size), kind=ctypes.c_uint64)
        return address

    def free(self, address: int) -> None:
        """Give device memory back."""
        self.cuda.call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, tables: bytes) -> None:
        """Other tables."""
        self.write(self.tables, tables)

    def write(self, address: int, data: bytes) -> None:
        """Copy to the device."""
        self.cuda.call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), data, ctypes.c_size_t(len(data)))

    def copy(self, address: int, count: int) -> list[int]:
        """32-bit words from the device."""
        words = (ctypes.c_uint32 * count)()
        self.cuda.call("cuMemcpyDtoH_v2", words, ctypes.c_uint64(address), ctypes.c_size_t(4 * count))
        return list(words)

    def zero(self, address: int, size: int) -> None:
        """Clear device memory."""
        self.cuda.call("cuMemsetD8_v2", ctypes.c_uint64(address), 0, ctypes.c_size_t(size))

    def clear(self) -> None:
        """Zero the result."""
        self.zero(self.result, 8 * kernels.RESULT_WORDS)

    def fill(self) -> None:
        """Begin the stream anew."""
        self.zero(self.progress, 4 * self.blocks * 16)
        self.memory(self.stream, self.stream_words, write=(kernels.STREAM, 0))

    def launch(
        self,
        work: str = "mix",
        *,
        roles: int | None = None,
        blocks: int | None = None,
        max_rounds: int = 2**32 - 1,
        seconds: float = 0.085,
        **addresses: int,
    ) -> None:
        """One launch of so many seconds at full clock, at most; `addresses` replace the burn's own."""
        self.launches += 1
        mhz = self.cuda.number("cuDeviceGetAttribute", 13, self.device) / 1000
        at = {"result": self.result, "tables": self.tables, "stream": self.stream, "progress": self.progress}
        at.update(addresses)
        u64, u32 = ctypes.c_uint64, ctypes.c_uint32
        self._call(
            self.kernel,
            blocks or self.blocks,
            [
                *(u64(at["result"]), u64(at["tables"]), u64(at["stream"]), u64(at.get("chunks", self.chunks))),
                *(u64(at["progress"]), u64(kernels.roles(work, self.capability) if roles is None else roles)),
                *(u32(self.launches), u32(max_rounds), u64(round(seconds * mhz * 1e6))),
            ],
        )

    def memory(
        self,
        base: int,
        words: int,
        expect: tuple[int, int] = (0, 0),
        write: tuple[int, int] = (0, 0),
        *,
        descending: bool = False,
    ) -> None:
        """One launch over memory: (kind, seed) to compare with and to write."""
        self.launches += 1
        u64, u32 = ctypes.c_uint64, ctypes.c_uint32
        self._call(
            self.memory_kernel,
            self.blocks,
            [
                *(u64(self.result), u64(base), u64(words)),
                *(u32(value) for value in (*expect, *write, self.launches, descending)),
            ],
        )

    def _call(self, kernel: ctypes.c_void_p, blocks: int, values: list[Any]) -> None:
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        threads = kernels.THREADS_A_BLOCK
        self.cuda.call("cuLaunchKernel", kernel, blocks, 1, 1, threads, 1, 1, 0, None, pointers, None)

    def read(self) -> Result:
        """The result, after all work."""
        words = (ctypes.c_uint64 * kernels.RESULT_WORDS)()
        self.cuda.call("cuMemcpyDtoH_v2", words, ctypes.c_uint64(self.result), ctypes.c_size_t(ctypes.sizeof(words)))
        return Result(list(words))

    def seconds(self, launch: Callable[[], None]) -> float:
        """Device time of a launch, queued behind another so that the host's pace does not count.

        The least of three: a host that stalls lets the device rest between the two, which only ever adds.
        """
        return min(self._seconds_once(launch) for _ in range(3))

    def _seconds_once(self, launch: Callable[[], None]) -> float:
        start, end = self.cuda.event(), self.cuda.event()
        launch()
        self.cuda.call("cuEventRecord", start, None)
        launch()
        self.cuda.call("cuEventRecord", end, None)
        self.cuda.call("cuEventSynchronize", end)
        elapsed: float = self.cuda.number("cuEventElapsedTime", start, end, kind=ctypes.c_float)
        return elapsed / 1000

    def rate(self, work: str) -> float:
        """Operations (stream: bytes) a second of one work alone."""
        before, launches = self.read().rounds(work), self.launches
        self.launch(work)  # to warm the clock
        self.read()
        seconds = self.seconds(lambda: self.launch(work))
        rounds = (self.read().rounds(work) - before) / (self.launches - launches)
        return rounds * kernels.operations(work, self.capability) / seconds

    def close(self) -> None:
        """Give the context back."""
        self.cuda.call("cuDevicePrimaryCtxRelease_v2", self.device)
