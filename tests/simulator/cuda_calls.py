"""The simulated libcuda by ctypes, and the burn kernel as the tests launch it."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

PTX = """//
.version {version}
.target {target}
.address_size 64
.visible .entry gpugate_burn(.param .u64 a, .param .u32 b, .param .u32 c, .param .u32 d, .param .u32 e)
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


def golden(iterations: int) -> tuple[int, int]:
    """Multiplier and increment of that many steps, found one after another."""
    a, c = 1, 0
    for _ in range(iterations):
        a, c = a * 1664525 % 2**32, (c * 1664525 + 1013904223) % 2**32
    return a, c


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


class Burn:
    """The burn kernel on one device, with its result buffer."""

    def __init__(self, cuda: Cuda, device: int = 0, iterations: int = 20_000) -> None:
        self.cuda, self.iterations = cuda, iterations
        self.context = cuda.context(device)
        self.device = device
        self.kernel = cuda.function(ptx())
        self.result = ctypes.c_uint64(cuda.number("cuMemAlloc_v2", ctypes.c_size_t(40), kind=ctypes.c_uint64))
        self.golden = golden(iterations)
        self.clear()

    def clear(self) -> None:
        """Zero the result."""
        self.cuda.call("cuMemsetD8_v2", self.result, 0, ctypes.c_size_t(40))

    def launch(self, blocks: int = 8, seed: int = 7, golden: tuple[int, int] | None = None) -> None:
        """One launch of `blocks` x 256 threads."""
        a, c = golden or self.golden
        values = [self.result, *(ctypes.c_uint32(value) for value in (self.iterations, seed, a, c))]
        pointers = (ctypes.c_void_p * 5)(*(ctypes.addressof(value) for value in values))
        self.cuda.call("cuLaunchKernel", self.kernel, blocks, 1, 1, 256, 1, 1, 0, None, pointers, None)

    def read(self) -> list[int]:
        """The five words of the result, after all work."""
        words = (ctypes.c_uint64 * 5)()
        self.cuda.call("cuMemcpyDtoH_v2", words, self.result, ctypes.c_size_t(40))
        return list(words)

    def seconds(self, launches: int, blocks: int) -> float:
        """Device time of some launches, queued behind another so that the host's pace does not count."""
        start, end = self.cuda.event(), self.cuda.event()
        self.launch(blocks)
        self.cuda.call("cuEventRecord", start, None)
        for _ in range(launches):
            self.launch(blocks)
        self.cuda.call("cuEventRecord", end, None)
        self.cuda.call("cuEventSynchronize", end)
        elapsed: float = self.cuda.number("cuEventElapsedTime", start, end, kind=ctypes.c_float)
        return elapsed / 1000

    def close(self) -> None:
        """Give the context back."""
        self.cuda.call("cuDevicePrimaryCtxRelease_v2", self.device)
