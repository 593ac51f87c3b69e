"""Heat: die and heat sink, fans, neighbours, the memory's own, and sensors that are noisy."""

from __future__ import annotations

import math
from pathlib import Path

import pynvml
import pytest
from cuda_calls import Burn
from driver_node import DriverNode, MakeNode, let_pass, load
from gpusim.boards import BOARDS
from gpusim.errors import GpusimError
from gpusim.heat import memory_steady_c, steady_c
from gpusim.state import create_node_state


def test_heat_rises_with_two_time_constants(make_node: MakeNode) -> None:
    """The core is the sink, which is slow, and a part of the resistance on top that is quick."""
    node = make_node(gpus=1, time_scale=200)
    first = let_pass(node, 1)
    node.state.set("time_scale", 20)
    load(node)
    start = node.state.show()["model_time_s"]
    gpu = let_pass(node, 10)
    passed = node.state.show()["model_time_s"] - start
    full = gpu["thermal_resistance"] * gpu["power_w"]
    sink = gpu["ambient_c"] + 0.75 * full
    sink += (first["sink_c"] - sink) * math.exp(-passed / gpu["thermal_tau_s"])
    assert gpu["sink_c"] == pytest.approx(sink, abs=1.0)
    assert gpu["die_rise_c"] == pytest.approx(0.25 * full, rel=0.02)
    assert gpu["temperature_c"] == pytest.approx(gpu["sink_c"] + gpu["die_rise_c"], abs=1e-5)
    assert gpu["temperature_c"] < steady_c(gpu, gpu["power_w"]) - 5


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_settles_where_the_helper_says(make_node: MakeNode, name: str) -> None:
    """Core and memory, at the power of the mix: ambient + resistance x power, no more."""
    node = make_node(name, gpus=1, time_scale=2000)
    load(node)
    gpu = let_pass(node, 300)
    assert gpu["temperature_c"] == pytest.approx(steady_c(gpu, gpu["power_w"]), abs=0.05)
    assert gpu["temperature_c"] == pytest.approx(
        gpu["ambient_c"] + gpu["thermal_resistance"] * gpu["power_w"], abs=0.05
    )
    if gpu["has_memory_sensor"]:
        assert gpu["memory_temperature_c"] == pytest.approx(memory_steady_c(gpu, gpu["power_w"]), abs=0.05)
    assert pynvml.nvmlDeviceGetNumFans(node.gpu()) == 0
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetFanSpeed(node.gpu())


def test_fans_ramp_and_the_temperature_falls_again(make_node: MakeNode) -> None:
    """Slow fans let the card get hotter than where it settles, which the helper knows; NVML tells their speed."""
    node = make_node(gpus=1, time_scale=100)
    node.state.apply("fan_ramps")
    gpu = node.gpu()
    assert pynvml.nvmlDeviceGetNumFans(gpu) == 2
    assert pynvml.nvmlDeviceGetFanSpeed_v2(gpu, 1) == 30
    load(node)
    hottest = max(let_pass(node, 2)["temperature_c"] for _ in range(80))
    node.state.set("time_scale", 2000)
    end = let_pass(node, 300)
    assert end["temperature_c"] == pytest.approx(steady_c(end, end["power_w"]), abs=0.1)
    assert hottest > end["temperature_c"] + 2
    assert end["event_reasons"] == 0
    speed = pynvml.nvmlDeviceGetFanSpeed(gpu)
    assert speed == round(end["fan_percent"]) == pynvml.nvmlDeviceGetTargetFanSpeed(gpu, 0)
    assert 60 < speed < 100
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetFanSpeed_v2(gpu, 2)
    least, most = pynvml.nvmlDeviceGetMinMaxFanSpeed(gpu)
    assert (least, most) == (30, 100)
    assert pynvml.nvmlDeviceGetFanSpeedRPM(gpu) == speed * 60


def test_a_stuck_fan_throttles_the_card(make_node: MakeNode) -> None:
    """At 30% of its speed it takes too little away."""
    node = make_node(gpus=1, time_scale=1000)
    node.state.apply("fan_stuck")
    load(node)
    gpu = let_pass(node, 300)
    assert steady_c(gpu, 679) > 87
    assert gpu["event_reasons"] & 0x20
    assert pynvml.nvmlDeviceGetFanSpeed(node.gpu()) == 30


def test_neighbours_heat_each_other_with_a_lag(make_node: MakeNode) -> None:
    """The inlet of the coupled GPU rises while the others work, and by itself it stays cool."""
    node = make_node(gpus=4, time_scale=2000)
    node.state.apply("hot_neighbours", gpu=2)
    load(node, 2)
    alone = let_pass(node, 300, gpu=2)
    idle_w = 3 * 70
    assert alone["temperature_c"] == pytest.approx(steady_c(alone, alone["power_w"], idle_w), abs=0.1)
    for gpu in (0, 1, 3):
        load(node, gpu)
    together = let_pass(node, 300, gpu=2)
    assert together["temperature_c"] == pytest.approx(steady_c(together, together["power_w"], 3 * 679), abs=0.1)
    assert together["temperature_c"] > alone["temperature_c"] + 14
    other = node.state.show()["gpu"][1]
    assert other["temperature_c"] == pytest.approx(steady_c(other, other["power_w"]), abs=0.1)
    node.state.set("gpu.2.neighbour_tau_s", 600)
    node.state.set("gpu.*.load_utilization", 0)
    node.state.set("gpu.*.load_power_share", 0)
    later = let_pass(node, 300, gpu=2)
    assert 17.5 * math.exp(-1.2) < later["inlet_rise_c"] < 17.5 * math.exp(-0.4)


def test_one_gpu_has_no_neighbours(make_node: MakeNode) -> None:
    """The fault says so instead of doing nothing."""
    with pytest.raises(GpusimError, match="has one GPU"):
        make_node(gpus=1).state.apply("hot_neighbours")


def test_traffic_heats_the_memory(make_node: MakeNode) -> None:
    """At the same power of the board, memory that is read gets hotter than memory that is not."""
    node = make_node(time_scale=1000)
    cuda = node.cuda()
    rises = []
    for device, work in ((0, "fma"), (1, "stream")):
        burn = Burn(cuda, device, chunks=4)
        burn.launch(work, seconds=1e5)
        gpu = let_pass(node, 200, gpu=device)
        traffic = 1.0 if work == "stream" else 0.0
        assert gpu["memory_temperature_c"] == pytest.approx(memory_steady_c(gpu, gpu["power_w"], 0, traffic), abs=0.1)
        rises.append((gpu["memory_temperature_c"] - gpu["temperature_c"]) / gpu["power_w"])
        # What is queued ends with the process or its context, which nobody waits for.
        burn.close()
    assert rises[1] == pytest.approx(2 * rises[0], rel=0.05)


def _told(node: DriverNode) -> list[float]:
    gpus = [node.gpu(i) for i in range(8)]
    return [pynvml.nvmlDeviceGetFieldValues(gpu, [186])[0].value.uiVal / 1000 for gpu in gpus]


def test_noise_is_the_same_for_the_same_seed(make_node: MakeNode) -> None:
    """Each sensor its own, around the truth, and another seed gives another; here time nearly stands still."""
    told = []
    for name, seed in (("one", 5), ("same", 5), ("other", 6)):
        node = make_node(gpus=8, time_scale=0.01, name=name, seed=seed)
        for gpu in range(8):
            node.state.apply("power_noise", gpu=gpu)
        told.append(_told(node))
    assert told[0] == told[1]
    assert not set(told[0]) & set(told[2])
    assert len(set(told[0])) == 8
    assert all(30 <= watts <= 110 for watts in told[0] + told[2])


def test_noise_leaves_the_truth_alone(make_node: MakeNode) -> None:
    """Readings of the power scatter around it; energy and heat follow the truth."""
    node = make_node(gpus=1, time_scale=100)
    node.state.apply("power_noise")
    load(node)
    let_pass(node, 20)
    before = node.state.show()
    gpu = node.gpu()
    seen = set()
    for _ in range(200):
        let_pass(node, 0.1)
        seen.add(pynvml.nvmlDeviceGetFieldValues(gpu, [186])[0].value.uiVal / 1000)
    after = node.state.show()
    assert min(seen) < 679 - 30
    assert max(seen) > 679 + 30
    assert all(abs(watts - 679) <= 40.001 for watts in seen)
    joules = after["gpu"][0]["energy_j"] - before["gpu"][0]["energy_j"]
    assert joules / (after["model_time_s"] - before["model_time_s"]) == pytest.approx(679, rel=1e-3)


def test_a_new_node_is_as_warm_as_an_idle_one(tmp_path: Path, make_node: MakeNode) -> None:
    """It begins in its idle steady state, and stays there."""
    state = create_node_state(tmp_path / "state", "fresh", "H200-SXM-141GB", 1, "580")
    gpu = state.show()["gpu"][0]
    assert gpu["temperature_c"] == pytest.approx(steady_c(gpu, gpu["power_w"]), abs=1e-4)
    node = make_node("H200-SXM-141GB", gpus=1, time_scale=1000)
    begun = node.state.show()["gpu"][0]["temperature_c"]
    assert let_pass(node, 100)["temperature_c"] == pytest.approx(begun, abs=0.01)
