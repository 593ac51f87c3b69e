"""The part of the CUDA driver API that the probe uses, typed. Only child processes of the probe load it.

Functions and types are those of cuda.h; every one exists in driver 535 and later. Devices are found by UUID: CUDA's
order is not NVML's.
"""

from __future__ import annotations

import ctypes
import uuid as uuids
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from typing import Any

from ...errors import ProbeError

LIBRARY = "libcuda.so.1"
NVML = "NVML"  # what `Cuda.calling` says while the other library is asked
OUT_OF_MEMORY, NOT_READY = 2, 600
_CLOCK_KHZ, _MULTIPROCESSORS, _MAJOR, _MINOR = 13, 16, 75, 76
_DEFAULT_STREAM_FLAGS = 0  # ordered after the null stream, on which memory is cleared

_Uuid = ctypes.c_ubyte * 16
_SIGNATURES: dict[str, list[Any]] = {
    "cuGetErrorName": [c_int, POINTER(c_char_p)],
    "cuInit": [c_uint],
    "cuDeviceGetCount": [POINTER(c_int)],
    "cuDeviceGet": [POINTER(c_int), c_int],
    "cuDeviceGetUuid_v2": [POINTER(_Uuid), c_int],
    "cuDeviceGetAttribute": [POINTER(c_int), c_int, c_int],
    "cuDevicePrimaryCtxRetain": [POINTER(c_void_p), c_int],
    "cuCtxSetCurrent": [c_void_p],
    "cuModuleLoadDataEx": [POINTER(c_void_p), c_char_p, c_uint, c_void_p, c_void_p],
    "cuModuleGetFunction": [POINTER(c_void_p), c_void_p, c_char_p],
    "cuMemGetInfo_v2": [POINTER(c_size_t), POINTER(c_size_t)],
    "cuMemAlloc_v2": [POINTER(c_ulonglong), c_size_t],
    "cuMemFree_v2": [c_ulonglong],
    "cuMemsetD8_v2": [c_ulonglong, ctypes.c_ubyte, c_size_t],
    "cuMemcpyHtoD_v2": [c_ulonglong, c_char_p, c_size_t],
    "cuMemAllocHost_v2": [POINTER(c_void_p), c_size_t],
    "cuMemcpyDtoHAsync_v2": [c_void_p, c_ulonglong, c_size_t, c_void_p],
    "cuStreamCreate": [POINTER(c_void_p), c_uint],
    "cuStreamSynchronize": [c_void_p],
    "cuEventCreate": [POINTER(c_void_p), c_uint],
    "cuEventRecord": [c_void_p, c_void_p],
    "cuEventQuery": [c_void_p],
    "cuEventElapsedTime": [POINTER(c_float), c_void_p, c_void_p],
    "cuLaunchKernel": [c_void_p] + [c_uint] * 7 + [c_void_p, POINTER(c_void_p), c_void_p],
}


class CudaError(ProbeError):
    """A CUDA function refused; `code` is its CUresult."""

    def __init__(self, function: str, code: int, name: str) -> None:
        super().__init__(f"{function} answered {code} ({name})")
        self.code = code


class Cuda:
    """libcuda, loaded.

    `calling` names the call under way (or the last one) and `serving` for which GPU: for whoever watches from aside.
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise ProbeError(f"{LIBRARY} cannot be loaded: {error}") from error
        self._functions: dict[str, Any] = {}
        for name, arguments in _SIGNATURES.items():
            try:
                function = getattr(self._library, name)
            except AttributeError as error:
                raise ProbeError(f"{LIBRARY} has no {name}: the driver is older than 535, upgrade it") from error
            function.argtypes, function.restype = arguments, c_int
            self._functions[name] = function
        self.calling, self.serving = "nothing yet", "the node"

    def call(self, name: str, *arguments: Any) -> None:
        """Call `name`; CudaError unless it answers success."""
        self.calling = name
        code = self._functions[name](*arguments)
        if code:
            raise CudaError(name, code, self.error_name(code))

    def ready(self, event: c_void_p) -> bool:
        """Whether the device has come past `event`."""
        self.calling = "cuEventQuery"
        code = self._functions["cuEventQuery"](event)
        if code not in (0, NOT_READY):
            raise CudaError("cuEventQuery", code, self.error_name(code))
        return bool(code == 0)

    def error_name(self, code: int) -> str:
        """cuda.h's name of a CUresult; an old driver does not know every new one."""
        name = c_char_p()
        if self._functions["cuGetErrorName"](code, byref(name)) or not name.value:
            return "a CUresult without a name"
        return name.value.decode("ascii", "backslashreplace")

    def devices(self) -> dict[str, int]:
        """CUDA's devices by UUID, as NVML writes it. A MIG instance is listed by its own UUID, not its card's."""
        count = c_int()
        self.call("cuDeviceGetCount", byref(count))
        found = {}
        for ordinal in range(count.value):
            device, raw = c_int(), _Uuid()
            self.call("cuDeviceGet", byref(device), ordinal)
            self.call("cuDeviceGetUuid_v2", byref(raw), device)
            found[f"GPU-{uuids.UUID(bytes=bytes(raw))}"] = device.value
        return found

    def multiprocessors(self, device: int) -> int:
        """How many streaming multiprocessors the device has."""
        return self._attribute(device, _MULTIPROCESSORS)

    def capability(self, device: int) -> tuple[int, int]:
        """The device's compute capability, as (9, 0)."""
        return self._attribute(device, _MAJOR), self._attribute(device, _MINOR)

    def clock_hz(self, device: int) -> float:
        """The highest clock of the device's multiprocessors."""
        return self._attribute(device, _CLOCK_KHZ) * 1000.0

    def _attribute(self, device: int, which: int) -> int:
        value = c_int()
        self.call("cuDeviceGetAttribute", byref(value), which, device)
        return value.value

    def free_bytes(self) -> int:
        """How much of the current context's device memory nobody holds."""
        free, total = c_size_t(), c_size_t()
        self.call("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value

    def allocate(self, size: int) -> int:
        """The address of `size` bytes in one piece on the current context's device."""
        address = c_ulonglong()
        self.call("cuMemAlloc_v2", byref(address), size)
        return address.value

    def free(self, address: int) -> None:
        """Give an allocation back; waits for the work that was queued before."""
        self.call("cuMemFree_v2", address)

    def retain(self, device: int) -> c_void_p:
        """The device's primary context, current from now on."""
        context = c_void_p()
        self.call("cuDevicePrimaryCtxRetain", byref(context), device)
        self.call("cuCtxSetCurrent", context)
        return context

    def stream(self) -> c_void_p:
        """A new stream of the current context."""
        stream = c_void_p()
        self.call("cuStreamCreate", byref(stream), _DEFAULT_STREAM_FLAGS)
        return stream

    def event(self) -> c_void_p:
        """A new event of the current context, with time."""
        event = c_void_p()
        self.call("cuEventCreate", byref(event), 0)
        return event

    def seconds_between(self, start: c_void_p, end: c_void_p) -> float:
        """Device time from one event to another; both must have passed."""
        milliseconds = c_float()
        self.call("cuEventElapsedTime", byref(milliseconds), start, end)
        return milliseconds.value / 1000
