"""The model: power, clocks and limits, in simulated time. A load is set by a key."""

from __future__ import annotations

import time

import pynvml
import pytest
from driver_node import MakeNode, let_pass, load
from gpusim.boards import BOARDS


@pytest.mark.parametrize("name", BOARDS)
def test_a_healthy_board_settles_between_62_and_72_degrees(make_node: MakeNode, name: str) -> None:
    """At full load with a normal inlet, with no thermal reason and full clock."""
    node = make_node(name, gpus=1, time_scale=2000)
    load(node, load_power_share=1.0)
    gpu = let_pass(node, 300)
    assert 62 <= gpu["temperature_c"] <= 72
    assert gpu["event_reasons"] & ~0x4 == 0
    assert gpu["power_w"] == pytest.approx(gpu["power_max_w"], rel=0.01)


def test_a_fouled_heat_sink_slows_the_clock(make_node: MakeNode) -> None:
    """Above margin 0 the clock and the power fall, reason 0x20 stands and its time counts; the sibling stays well."""
    node = make_node(time_scale=1000)
    node.state.apply("fouled_heatsink", gpu=1)
    load(node, 0)
    load(node, 1)
    fouled = let_pass(node, 200, gpu=1)
    healthy = node.state.show()["gpu"][0]
    assert fouled["temperature_c"] > 86.9
    assert fouled["event_reasons"] & 0x20
    assert fouled["sm_mhz"] < 1900
    assert fouled["sw_thermal_s"] > 10
    assert not fouled["lost"]
    assert (healthy["event_reasons"], healthy["sm_mhz"], healthy["sw_thermal_s"]) == (0, 1980, 0)
    assert pynvml.nvmlDeviceGetMarginTemperature(node.gpu(1)) <= 0


def test_a_warm_heat_sink_does_not_throttle_yet(make_node: MakeNode) -> None:
    """It settles below the slowdown, so that only a prediction or a margin shows it."""
    node = make_node(gpus=1, time_scale=1000)
    node.state.apply("warm_heatsink")
    load(node)
    gpu = let_pass(node, 200)
    assert 78 < gpu["temperature_c"] < 87
    assert gpu["sw_thermal_s"] == 0


def test_hardware_slows_down_when_software_does_not_suffice(make_node: MakeNode) -> None:
    """Far too hot an inlet: time in hardware slowdown passes, and the board does not shut down."""
    node = make_node(gpus=1, time_scale=1000)
    node.state.set("gpu.0.ambient_c", 60)
    node.state.set("gpu.0.thermal_resistance", 0.08)
    load(node)
    gpu = let_pass(node, 100)
    assert gpu["hw_thermal_s"] > 1
    status = pynvml.nvmlDeviceGetViolationStatus(node.gpu(), pynvml.NVML_PERF_POLICY_THERMAL)
    assert status.violationTime >= gpu["hw_thermal_s"] * 1e9


def test_a_board_shuts_itself_down(make_node: MakeNode) -> None:
    """At the shutdown temperature it is gone from the bus, Xid 79."""
    node = make_node(gpus=1, time_scale=1000)
    let_pass(node, 1)
    node.state.set("gpu.0.thermal_resistance", 5)
    node.state.set("gpu.0.ambient_c", 80)
    load(node)
    deadline = time.monotonic() + 30
    while not node.state.get("gpu.0.lost"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
        pynvml.nvmlDeviceGetCount()
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        node.gpu()
    assert node.state.get("gpu.0.last_xid") == 79


def test_hot_memory_slows_the_clock_too(make_node: MakeNode) -> None:
    """Reason 0x20 while the core is cool, and a margin that is the memory's."""
    node = make_node(gpus=1, time_scale=1000)
    node.state.apply("hot_memory")
    load(node)
    gpu = let_pass(node, 200)
    assert gpu["temperature_c"] < 75
    assert gpu["memory_temperature_c"] > 94
    assert gpu["event_reasons"] & 0x20
    assert pynvml.nvmlDeviceGetMarginTemperature(node.gpu()) <= 0


@pytest.mark.usefixtures("become")
def test_a_power_limit_holds(make_node: MakeNode) -> None:
    """Power stays at the limit, with reason 0x4, its time counted and a lower clock."""
    node = make_node(gpus=1, time_scale=500)
    pynvml.nvmlDeviceSetPowerManagementLimit(node.gpu(), 300_000)
    load(node)
    gpu = let_pass(node, 30)
    assert gpu["power_w"] == pytest.approx(300)
    assert gpu["event_reasons"] == 0x4
    assert gpu["sw_power_s"] > 25
    assert gpu["sm_mhz"] < 1400


@pytest.mark.parametrize(("fault", "reasons"), [("power_brake", 0x88), ("power_cap", 0x4), ("locked_clock", 0)])
def test_what_slows_a_clock_gives_its_reason(make_node: MakeNode, fault: str, reasons: int) -> None:
    """A brake shows 0x80 and 0x8, a cap from outside 0x4, a locked clock nothing at all."""
    node = make_node(gpus=1, time_scale=500)
    node.state.apply(fault)
    load(node)
    gpu = let_pass(node, 20)
    assert gpu["event_reasons"] == reasons
    assert gpu["sm_mhz"] < 1700


def test_an_idle_gpu_shifts_down(make_node: MakeNode) -> None:
    """Idle: low clock, PCIe generation 1, reason 0x1. A process brings clock and link up, and they go down after it."""
    node = make_node(gpus=1, time_scale=100)
    idle = let_pass(node, 5)
    handle = node.gpu()
    assert (idle["sm_mhz"], idle["event_reasons"], pynvml.nvmlDeviceGetCurrPcieLinkGeneration(handle)) == (345, 1, 1)
    node.state.add_process(0, 4321, 100)
    busy = let_pass(node, 5)
    assert (busy["sm_mhz"], busy["event_reasons"], pynvml.nvmlDeviceGetCurrPcieLinkGeneration(handle)) == (1980, 0, 5)
    node.state.apply("pcie_gen_down")
    assert pynvml.nvmlDeviceGetCurrPcieLinkGeneration(handle) == 3
    node.state.remove_process(0, 4321)
    assert let_pass(node, 5)["sm_mhz"] == 345


def test_errors_are_gained_under_load_only(make_node: MakeNode) -> None:
    """An idle GPU gains none; a loaded one gains ECC errors and PCIe replays at its rate."""
    node = make_node(gpus=1, time_scale=500)
    node.state.apply("ecc_under_load")
    node.state.apply("pcie_replays")
    assert let_pass(node, 100)["ecc_uncorrected_volatile"] == 0
    load(node)
    gpu = let_pass(node, 100)
    assert gpu["ecc_uncorrected_volatile"] >= 19
    assert gpu["ecc_uncorrected_aggregate"] == gpu["ecc_uncorrected_volatile"]
    assert gpu["pcie_replays"] >= 2400


def test_time_goes_on_from_where_it_was_when_its_scale_changes(make_node: MakeNode) -> None:
    """No jump: stamps before, across and after a change of scale are as far apart as they should be."""
    node = make_node(gpus=1, time_scale=1000)
    handle = node.gpu()

    def stamp() -> float:
        value = pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_POWER_INSTANT])[0]
        return float(value.timestamp) / 1e6

    first, wall = stamp(), time.monotonic()
    time.sleep(0.05)
    node.state.set("time_scale", 1)
    second = stamp()
    time.sleep(0.05)
    third = stamp()
    passed = time.monotonic() - wall
    assert 49 < second - first <= passed * 1000
    assert 0.05 <= third - second <= passed


def test_sensors_can_lie(make_node: MakeNode) -> None:
    """A stuck sensor repeats itself while the GPU heats; noise moves the reading around the truth."""
    node = make_node("L40S", gpus=2, time_scale=200)
    node.state.apply("sensor_stuck", gpu=0)
    node.state.apply("sensor_noise", gpu=1)
    load(node, 0)
    assert let_pass(node, 60)["temperature_c"] > 50
    assert pynvml.nvmlDeviceGetTemperature(node.gpu(0), 0) == 30
    assert pynvml.nvmlDeviceGetMarginTemperature(node.gpu(0)) == 88 - 30
    noisy = node.gpu(1)
    readings: set[int] = set()
    deadline = time.monotonic() + 10
    while len(readings) < 4:
        assert time.monotonic() < deadline
        readings.add(pynvml.nvmlDeviceGetTemperature(noisy, 0))
        time.sleep(0.002)
    true = node.state.show()["gpu"][1]["temperature_c"]
    assert all(abs(reading - true) <= 9 for reading in readings)


def test_energy_is_power_over_simulated_time(make_node: MakeNode) -> None:
    """The counter grows by the idle power, in device time, and stamps of field values pass as fast."""
    node = make_node(gpus=1, time_scale=300)
    handle = node.gpu()

    def read() -> tuple[float, float]:
        value = pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION])[0]
        return value.timestamp / 1e6, value.value.ullVal / 1000

    start, before = read()
    let_pass(node, 60)
    end, after = read()
    assert end - start >= 59
    assert (after - before) / (end - start) == pytest.approx(70, rel=0.02)
