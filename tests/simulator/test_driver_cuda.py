"""The simulated libcuda: devices, modules, memory, and rules that reach it."""

from __future__ import annotations

import ctypes

import pynvml
import pytest
from cuda_calls import Burn, Cuda, CudaError, ptx
from driver_node import DriverNode, MakeNode


def _uuids(node: DriverNode) -> list[str]:
    return [gpu["uuid"] for gpu in node.state.show()["gpu"]]


def _seen(node: DriverNode) -> list[str]:
    cuda = node.cuda()
    return [cuda.uuid(i) for i in range(cuda.number("cuDeviceGetCount"))]


def test_devices_are_nvmls_by_uuid_and_not_by_index(make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's order may be another; CUDA_DEVICE_ORDER=PCI_BUS_ID makes it the bus's."""
    node = make_node(gpus=4)
    node.state.set("cuda_order", "reversed")
    assert _seen(node) == _uuids(node)[::-1]
    ordered = make_node(gpus=4, name="ordered")
    ordered.state.set("cuda_order", "reversed")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert _seen(ordered) == _uuids(ordered)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [("2,0", [2, 0]), ("1,7,0", [1]), ("GPU-{3},1", [3, 1]), ("GPU-{2}", [2])],
)
def test_visible_devices_are_honoured(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch, chosen: str, expected: list[int]
) -> None:
    """Indices and UUIDs, in the order given, up to the first that does not exist."""
    node = make_node(gpus=4)
    uuids = _uuids(node)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen.format(*(uuid.removeprefix("GPU-")[:12] for uuid in uuids)))
    assert _seen(node) == [uuids[i] for i in expected]


def test_no_visible_device_is_no_device(make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty list leaves nothing: 100."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(CudaError) as caught:
        make_node().cuda()
    assert caught.value.code == 100


def test_a_lost_gpu_is_not_enumerated(make_node: MakeNode) -> None:
    """The others keep working."""
    node = make_node(gpus=3)
    node.state.apply("gpu_lost", gpu=1)
    uuids = _uuids(node)
    assert _seen(node) == [uuids[0], uuids[2]]


@pytest.mark.parametrize(("fault", "code"), [("fabric_manager_down", 802), ("cuda_compat_unsupported", 804)])
def test_initialisation_can_fail(make_node: MakeNode, fault: str, code: int) -> None:
    """cuInit answers the fault's code; calls without it answer 3."""
    node = make_node()
    node.state.apply(fault)
    with pytest.raises(CudaError) as caught:
        node.cuda()
    assert caught.value.code == code
    library = ctypes.CDLL(str(node.libdir / "libcuda.so.1"))
    assert library.cuDeviceGetCount(ctypes.byref(ctypes.c_int())) == 3
    name = ctypes.c_char_p()
    assert library.cuGetErrorName(code, ctypes.byref(name)) == 0
    assert name.value
    assert name.value.startswith(b"CUDA_ERROR_")


@pytest.mark.parametrize(
    ("board", "driver", "image", "code"),
    [
        ("H100-SXM5-80GB", "535", ptx("8.2", "sm_90a"), 0),
        ("H100-SXM5-80GB", "535", ptx("8.3"), 222),
        ("H100-SXM5-80GB", "550", ptx("8.4"), 0),
        ("H100-SXM5-80GB", "550", ptx("9.0"), 222),
        ("H100-SXM5-80GB", "580", ptx("9.0"), 0),
        ("T4", "580", ptx("7.0", "sm_80"), 209),
        ("T4", "535", ptx("6.5", "sm_75"), 0),
        ("B200", "580", ptx("8.0", "sm_90a"), 209),
        ("B200", "580", ptx("8.0", "sm_90"), 0),
        ("T4", "580", b"these are no instructions", 218),
        ("T4", "580", ptx()[:-4], 218),
        ("T4", "580", b"\x7fELF", 209),
    ],
)
def test_modules_are_checked_as_the_driver_checks_them(
    make_node: MakeNode, board: str, driver: str, image: bytes, code: int
) -> None:
    """PTX newer than the driver is 222, for a newer or another architecture 209, garbage 218."""
    cuda = make_node(board, gpus=1, driver=driver).cuda()
    cuda.context()
    assert cuda.library.cuModuleLoadData(ctypes.byref(ctypes.c_void_p()), image) == code
    cuda.call("cuDevicePrimaryCtxRelease_v2", 0)


def test_an_entry_that_is_not_there_is_500_and_one_it_cannot_run_801(make_node: MakeNode) -> None:
    """Nothing pretends to have run."""
    cuda = make_node().cuda()
    cuda.context()
    with pytest.raises(CudaError) as caught:
        cuda.function(ptx(), b"gpugate_bur")
    assert caught.value.code == 500
    other = cuda.function(ptx(), b"another")
    pointers = (ctypes.c_void_p * 1)(ctypes.addressof(ctypes.c_uint64()))
    with pytest.raises(CudaError) as caught:
        cuda.call("cuLaunchKernel", other, 1, 1, 1, 32, 1, 1, 0, None, pointers, None)
    assert caught.value.code == 801


def test_memory_is_counted_and_runs_out(make_node: MakeNode) -> None:
    """Allocations show in NVML and in cuMemGetInfo; more than there is answers 2; freeing gives it back."""
    node = make_node("T4", gpus=1)
    cuda: Cuda = node.cuda()
    cuda.context()
    unused, total = ctypes.c_size_t(), ctypes.c_size_t()
    cuda.call("cuMemGetInfo_v2", ctypes.byref(unused), ctypes.byref(total))
    assert (total.value >> 20, unused.value >> 20) == (15360 - 448, 15360 - 448 - 110)
    address = ctypes.c_uint64()
    too_much = ctypes.c_size_t(unused.value + 1)
    assert cuda.library.cuMemAlloc_v2(ctypes.byref(address), too_much) == 2
    cuda.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(10 << 30))
    gpu = node.gpu()
    assert pynvml.nvmlDeviceGetMemoryInfo(gpu, version=pynvml.nvmlMemory_v2).used >> 20 == 10240 + 110
    assert cuda.library.cuMemcpyDtoH_v2(ctypes.create_string_buffer(8), ctypes.c_uint64(4096), ctypes.c_size_t(8)) == 1
    cuda.call("cuMemsetD32_v2", address, 0xABCD, ctypes.c_size_t(4))
    words = (ctypes.c_uint32 * 4)()
    cuda.call("cuMemcpyDtoH_v2", words, address, ctypes.c_size_t(16))
    assert list(words) == [0xABCD] * 4
    cuda.call("cuMemFree_v2", address)
    assert pynvml.nvmlDeviceGetMemoryInfo(gpu, version=pynvml.nvmlMemory_v2).used >> 20 == 110
    cuda.call("cuDevicePrimaryCtxRelease_v2", 0)


def test_calls_without_a_context_or_with_stale_handles_are_refused(make_node: MakeNode) -> None:
    """201 without a context, 400 for a destroyed event, 600 and 400 for times that are not there."""
    cuda = make_node().cuda()
    assert cuda.library.cuCtxSynchronize() == 201
    cuda.context()
    start, end = cuda.event(), cuda.event()
    milliseconds = ctypes.byref(ctypes.c_float())
    assert cuda.library.cuEventElapsedTime(milliseconds, start, end) == 400
    cuda.call("cuEventDestroy_v2", end)
    assert cuda.library.cuEventRecord(end, None) == 400
    cuda.call("cuDevicePrimaryCtxRelease_v2", 0)
    assert cuda.library.cuCtxSynchronize() == 201


def test_losing_a_gpu_in_mid_burn_ends_the_wait(make_node: MakeNode) -> None:
    """Synchronising answers 999 and does not wait for work that will never end."""
    node = make_node(gpus=1)
    burn = Burn(node.cuda())
    for _ in range(60):
        burn.launch(seconds=10)
    node.state.apply("gpu_lost")
    assert burn.cuda.library.cuCtxSynchronize() == 999


def test_rules_reach_cuda(make_node: MakeNode) -> None:
    """A launch on one GPU can be made to fail (719) from some call on."""
    node = make_node()
    node.state.inject("cuLaunchKernel", 719, after=3, gpu=1)  # one of them fills
    cuda = node.cuda()
    good, bad = Burn(cuda, 0), Burn(cuda, 1)
    codes = []
    for _ in range(4):
        try:
            bad.launch()
            codes.append(0)
        except CudaError as error:
            codes.append(error.code)
    assert codes == [0, 0, 719, 719]
    cuda.call("cuCtxSetCurrent", good.context)
    good.launch()
    good.close()
    bad.close()
