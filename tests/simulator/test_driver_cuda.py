"""The simulated libcuda: devices, modules, the burn kernel, and how it goes wrong."""

from __future__ import annotations

import ctypes

import pynvml
import pytest
from cuda_calls import Burn, Cuda, CudaError, golden, ptx
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


def test_good_answers_agree_and_wrong_golden_ones_do_not(make_node: MakeNode) -> None:
    """Results add up over launches; a wrong golden answer differs in every thread, and the first stays the first."""
    burn = Burn(make_node().cuda())
    burn.launch(blocks=4)
    burn.launch(blocks=4, seed=99)
    assert burn.read() == [2048, 0, 0, 0, 0]
    a, c = golden(burn.iterations)
    burn.launch(blocks=1, seed=5, golden=(a, c + 1))
    assert burn.read() == [2304, 256, 1, (5 * a + c + 1) % 2**32, (5 * a + c) % 2**32]
    burn.launch(blocks=1, seed=6, golden=(a + 2, c))
    assert burn.read()[:3] == [2560, 512, 1]
    burn.close()


def test_an_odd_number_of_iterations_is_wrong_everywhere(make_node: MakeNode) -> None:
    """The floating-point chains come back to their start after an even number only."""
    burn = Burn(make_node().cuda(), iterations=1001)
    burn.launch(blocks=1)
    assert burn.read()[:3] == [256, 256, 1]
    burn.close()


def _mismatches(burn: Burn, launches: int) -> list[int]:
    found = []
    for _ in range(launches):
        burn.clear()
        burn.launch(blocks=8)
        found.append(burn.read()[1])
    return found


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("wrong_bit_once", [1, 0, 0, 0]),
        ("wrong_answers", [128] * 4),
        ("nan_answers", [128] * 4),
        ("wrong_after_warmup", [0, 0, 128, 128]),
        ("wrong_under_heat", [0, 0, 0, 0]),
    ],
)
def test_corruption_goes_wrong_in_its_way(make_node: MakeNode, fault: str, expected: list[int]) -> None:
    """Once, always, or after some launches; on its GPU alone."""
    node = make_node()
    node.state.apply(fault, gpu=1)
    node.state.set("gpu.1.corruption_after_launches", 2)
    cuda = node.cuda()
    bad = Burn(cuda, 1)
    assert _mismatches(bad, 4) == expected
    bad.close()
    good = Burn(cuda, 0)
    assert _mismatches(good, 2) == [0, 0]
    good.close()


def test_corruption_under_heat_waits_for_it(make_node: MakeNode) -> None:
    """Right while cool, the same tile wrong when hot."""
    node = make_node(gpus=1)
    node.state.apply("wrong_under_heat")
    burn = Burn(node.cuda())
    assert _mismatches(burn, 2) == [0, 0]
    node.state.set("gpu.0.corruption_above_c", 20)
    burn.clear()
    burn.launch()
    first = burn.read()
    assert first[1:3] == [128, 8 * 256 // 3 + 1]
    assert first[3] != first[4]
    burn.close()


def test_a_burn_takes_device_time_and_heats(make_node: MakeNode) -> None:
    """60 s of events pass in far less wall time at scale 200; the GPU is busy, near its limit, and hot at the end."""
    node = make_node(gpus=1, time_scale=200)
    burn = Burn(node.cuda())
    one = burn.seconds(1, blocks=1_000_000)
    assert one == pytest.approx(16 * 256e6 * burn.iterations / (67e12 * 0.85), rel=1e-3)
    gpu = node.gpu()
    for _ in range(round(60 / one)):
        burn.launch(blocks=1_000_000)
    end = burn.cuda.event()
    burn.cuda.call("cuEventRecord", end, None)
    assert burn.cuda.library.cuEventQuery(end) == 600
    assert burn.cuda.library.cuStreamQuery(None) == 600
    busy = []
    while burn.cuda.library.cuEventQuery(end) == 600:
        busy.append((pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu, pynvml.nvmlDeviceGetPowerUsage(gpu)))
    assert max(busy) == (100, 679_000)
    assert node.state.show()["gpu"][0]["temperature_c"] > 58
    assert [p.pid for p in pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)] != []
    burn.close()
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(gpu) == []


def test_a_slow_gpu_takes_longer_and_a_limit_slows_it(make_node: MakeNode) -> None:
    """Rates follow the speed factor and the clock that the power limit leaves."""
    node = make_node(gpus=3, time_scale=5000)
    node.state.apply("slow_gpu", gpu=1)
    node.state.set("gpu.2.power_limit_w", 400)
    cuda = node.cuda()
    times = []
    for device in range(3):
        burn = Burn(cuda, device)
        burn.seconds(1, blocks=100_000)
        times.append(burn.seconds(3, blocks=1_000_000))
        burn.close()
    assert times[1] / times[0] == pytest.approx(1 / 0.88, rel=0.01)
    assert times[2] / times[0] > 1.2


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
        burn.launch(blocks=1_000_000)
    node.state.apply("gpu_lost")
    assert burn.cuda.library.cuCtxSynchronize() == 999


def test_rules_reach_cuda(make_node: MakeNode) -> None:
    """A launch on one GPU can be made to fail (719) from its third call on."""
    node = make_node()
    node.state.inject("cuLaunchKernel", 719, after=2, gpu=1)
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
