"""Burning simulated nodes: healthy ones settle, sick ones are found and located, and nothing burns on."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from burning import REQUEST, Node, child_of, ends, finish

MakeNode = Callable[..., Node]
# A burn that goes on until somebody ends it: real time, and a minimum that is out of reach.
ENDLESS = dataclasses.replace(REQUEST, min_s=1000, max_s=1000)


@pytest.fixture
def make(tmp_path: Path, build_dir: Path) -> MakeNode:
    """Makes a simulated node."""
    return lambda **how: Node.make(tmp_path, build_dir, **how)


def test_healthy_node_settles_on_the_true_steady_state(make: MakeNode) -> None:
    """Eight GPUs settle, each prediction holds ambient + R x P, and every thread has computed right."""
    node = make(gpus=8, scale=20)
    burn = node.burn()
    assert [gpu["uuid"] for gpu in burn["gpus"]] == [node.uuid(i) for i in range(8)]
    for i, gpu in enumerate(burn["gpus"]):
        steady = node.state.get(f"gpu.{i}.ambient_c") + node.state.get(f"gpu.{i}.thermal_resistance") * gpu["power_w"]
        left = node.state.get(f"gpu.{i}.slowdown_c") - steady
        assert gpu["ended"] == "settled", gpu["reason"]
        # A simulated GPU stands idle for a moment whenever this machine is busy elsewhere.
        assert gpu["below_slowdown_c"]["low"] - 2 <= left <= gpu["below_slowdown_c"]["high"] + 2
        assert gpu["memory_c"].get("value", 0) > 40, gpu["memory_c"]
        assert gpu["threads_completed"] == gpu["threads_launched"] > 0
        assert (gpu["mismatches"], gpu["first_mismatch"]) == (0, None)
        assert gpu["tflops"] > 20
        assert gpu["power_w"] > 500
        assert gpu["samples"] >= 3 * gpu["seconds"]  # 11 where nothing else runs
        assert set(gpu["event_shares"]) == {"hw_slowdown", "hw_thermal", "power_brake", "sw_thermal", "sw_power_cap"}
        assert gpu["event_shares"]["sw_thermal"] == 0
        assert (gpu["pcie_generation"], gpu["pcie_width"]) == (5, 16)
        assert len(gpu["nvlink_states"]) == 18
        assert gpu["ecc_uncorrected_gained"] == 0
        assert gpu["used_after_bytes"] <= gpu["used_before_bytes"]
        assert 0 < gpu["resistance_c_per_w"] < 0.2


def test_fouled_heat_sink_is_predicted_beyond_the_bound(make: MakeNode) -> None:
    """A GPU that cannot get rid of its heat is predicted too near to slowdown; its sibling is not blamed."""
    node = make()
    node.state.set("gpu.1.thermal_resistance", 0.085)
    healthy, fouled = node.burn()["gpus"]
    assert fouled["below_slowdown_c"]["high"] < REQUEST.headroom_c
    assert fouled["below_slowdown_c"]["low"] > -20
    assert healthy["mismatches"] == 0
    assert "unavailable" in healthy["below_slowdown_c"] or healthy["below_slowdown_c"]["low"] > REQUEST.headroom_c


def test_gpu_that_comes_too_near_to_slowdown_stops_alone(make: MakeNode) -> None:
    """Heat beyond the abort bound ends that GPU's burn at once, with its reason; its sibling is measured to the end."""
    node = make()
    node.state.set("gpu.1.thermal_resistance", 0.3)  # far too hot well before min_s, on a busy host too
    healthy, hot = node.burn()["gpus"]
    assert hot["ended"] == "aborted"
    assert hot["seconds"] < REQUEST.min_s
    assert node.uuid(1) in hot["reason"]
    assert "below slowdown" in hot["reason"]
    assert hot["below_slowdown_c"]["high"] < REQUEST.headroom_c
    assert healthy["ended"] == "settled"
    assert healthy["below_slowdown_c"]["low"] > REQUEST.headroom_c


def test_burn_ends_when_every_gpu_is_too_hot(make: MakeNode) -> None:
    """With no GPU left to burn, the burn is over, long before its maximum."""
    node = make()
    node.state.set("gpu.*.thermal_resistance", 0.3)  # far too hot well before min_s, on a busy host too
    burn = node.burn()
    assert {gpu["ended"] for gpu in burn["gpus"]} == {"aborted"}
    assert burn["seconds"] < REQUEST.min_s


def test_throttling_card_is_not_called_settled_and_fine(make: MakeNode) -> None:
    """A card that the throttle holds at its limit is refused by headroom and by the share of time that it throttled."""
    node = make()
    node.state.set("gpu.0.thermal_resistance", 0.11)
    throttled, _healthy = node.burn(dataclasses.replace(REQUEST, min_s=45, abort_below_slowdown_c=-20))["gpus"]
    assert throttled["below_slowdown_c"]["high"] < REQUEST.headroom_c
    assert throttled["event_shares"]["sw_thermal"] > 0.01


@pytest.mark.parametrize("kind", ["bit_once", "always", "nan", "after_warmup", "under_heat"])
def test_wrong_answers_are_counted_and_located(make: MakeNode, kind: str) -> None:
    """Corruption of any kind, even of one launch, stops the burn and names GPU, thread and bits."""
    node = make()
    node.state.set("gpu.1.corruption_after_launches", 40)
    node.state.set("gpu.1.corruption_above_c", 45)
    node.state.set("gpu.1.corruption", kind)
    right, wrong = node.burn()["gpus"]
    assert right["mismatches"] == 0
    assert wrong["mismatches"] > 0
    assert wrong["first_mismatch"]["thread"] > 0
    assert wrong["first_mismatch"]["expected"] != wrong["first_mismatch"]["found"]
    assert wrong["ended"] == right["ended"] == "aborted"
    assert f"{node.uuid(1)}) calculated wrong" in wrong["reason"]


def test_busy_gpu_is_not_burnt(make: MakeNode) -> None:
    """A compute process on any GPU refuses the burn, naming GPU and pid."""
    node = make()
    node.state.add_process(1, os.getpid(), 500)
    gap = node.burn()
    assert node.uuid(1) in gap["unavailable"]
    assert str(os.getpid()) in gap["unavailable"]


@pytest.mark.parametrize("no_folder", [False, True])
def test_second_burn_is_refused_while_one_is_under_way(make: MakeNode, no_folder: bool) -> None:
    """Two controllers do not burn one node at once, state folder or not; a burn that was killed stands in no way."""
    node = make(scale=1)
    if no_folder:
        node.state_dir.write_text("a file where a folder should be")
    first = node.start_burn(ENDLESS)
    child = child_of(first)
    assert "another one is under way" in node.burn()["unavailable"]
    first.kill()
    assert ends(child)
    first.communicate()
    assert "gpus" in node.burn(dataclasses.replace(REQUEST, min_s=1, max_s=2))


def test_lost_gpu_ends_the_burn(make: MakeNode) -> None:
    """A GPU that falls off the bus under load aborts all, and the reason carries NVML's words."""
    node = make()
    node.state.inject("nvmlDeviceGetTemperature", 15, after=60, gpu=1)
    burn = node.burn()
    assert {gpu["ended"] for gpu in burn["gpus"]} == {"aborted"}
    assert all(node.uuid(1) in gpu["reason"] and "15" in gpu["reason"] for gpu in burn["gpus"])
    assert "15" in burn["gpus"][1]["max_temperature_c"]["unavailable"]


def test_cuda_error_ends_the_burn(make: MakeNode) -> None:
    """A launch that CUDA refuses aborts all, and the reason names function, code and GPU."""
    node = make()
    node.state.inject("cuLaunchKernel", 719, after=60, gpu=0)
    burn = node.burn()
    assert {gpu["ended"] for gpu in burn["gpus"]} == {"aborted"}
    assert "cuLaunchKernel answered 719 (CUDA_ERROR_LAUNCH_FAILED)" in burn["gpus"][0]["reason"]
    assert node.uuid(0) in burn["gpus"][1]["reason"]


@pytest.mark.parametrize("function", ["cuEventQuery", "nvmlDeviceGetTemperature"])
def test_hung_call_is_named(make: MakeNode, function: str) -> None:
    """A call that never returns becomes a gap that says which library hung on which GPU."""
    node = make()
    node.state.inject(function, 0, after=60, gpu=1, hang=True)
    gap = node.burn(dataclasses.replace(REQUEST, deadline_s=3))
    assert "has not returned" in gap["unavailable"]
    assert node.uuid(1) in gap["unavailable"]
    assert ("cuEventQuery" if function.startswith("cu") else "NVML") in gap["unavailable"]


def test_killed_child_is_a_gap_with_its_cause(make: MakeNode) -> None:
    """A burn killed from outside says by which signal, and what was last heard of each GPU."""
    node = make(scale=1)
    process = node.start_burn(ENDLESS)
    os.kill(child_of(process), signal.SIGKILL)
    gap, _ = finish(process)
    assert "killed by signal 9" in gap["unavailable"]
    assert f"last heard: GPU 0 ({node.uuid(0)})" in gap["unavailable"]


def test_stopped_child_is_killed_at_the_deadline(make: MakeNode) -> None:
    """A burn that answers to nothing any more is killed by its parent when its time is up."""
    node = make(scale=1)
    process = node.start_burn(dataclasses.replace(ENDLESS, deadline_s=3))
    child = child_of(process)
    os.kill(child, signal.SIGSTOP)
    gap, _ = finish(process)
    assert "did not end within 3 s" in gap["unavailable"]
    assert ends(child)


def test_burn_does_not_outlive_its_parent(make: MakeNode) -> None:
    """Killing the probe ends the burn."""
    process = make(scale=1).start_burn(ENDLESS)
    child = child_of(process)
    process.kill()
    assert ends(child)
    process.communicate()


def test_deadline_ends_the_burn_in_good_order(make: MakeNode) -> None:
    """A burn that reaches its wall deadline stops by itself before it, and keeps what it has measured."""
    burn = make(scale=1).burn(dataclasses.replace(ENDLESS, deadline_s=3))
    for gpu in burn["gpus"]:
        assert gpu["ended"] == "aborted"
        assert "deadline of 3 s" in gpu["reason"]
        assert gpu["threads_completed"] == gpu["threads_launched"] > 0
        assert "unavailable" in gpu["below_slowdown_c"]


def test_short_maximum_gives_no_prediction(make: MakeNode) -> None:
    """At max_s the burn ends; a fit that has not settled by then is a gap that says why."""
    burn = make().burn(dataclasses.replace(REQUEST, min_s=4, max_s=5))
    for gpu in burn["gpus"]:
        assert gpu["ended"] == "maximum"
        assert "unavailable" in gpu["below_slowdown_c"]


def test_stuck_sensor_is_no_steady_state(make: MakeNode) -> None:
    """A temperature that does not move under load is called stuck."""
    node = make()
    node.state.set("gpu.0.sensor_stuck_c", 40)
    node.state.set("gpu.0.sensor_stuck", True)
    stuck, healthy = node.burn(dataclasses.replace(REQUEST, max_s=25))["gpus"]
    assert "stuck" in stuck["below_slowdown_c"]["unavailable"]
    assert healthy["below_slowdown_c"]["low"] > REQUEST.headroom_c


def test_power_brake_shows_in_the_shares(make: MakeNode) -> None:
    """A brake from outside is there for most of the burn, under its own name."""
    node = make()
    node.state.set("gpu.1.power_brake", True)
    free, braked = node.burn()["gpus"]
    assert braked["event_shares"]["power_brake"] > 0.5
    assert free["event_shares"]["power_brake"] == 0
    assert braked["tflops"] < 0.7 * free["tflops"]


def test_samples_are_kept_under_their_digest(make: MakeNode) -> None:
    """The series lie on the node as a gzip file named by its sha256, with one value per sample and sensor."""
    burn = make().burn()
    told = burn["samples"]
    packed = Path(told["path"]).read_bytes()
    assert hashlib.sha256(packed).hexdigest() == told["sha256"] == Path(told["path"]).name.split(".")[0]
    assert len(packed) == told["size_bytes"]
    content = json.loads(gzip.decompress(packed))
    for gpu in burn["gpus"]:
        series = content["gpus"][gpu["uuid"]]
        assert len(series["seconds"]) == len(series["temperature_c"]) == len(series["power_w"]) == gpu["samples"]
        assert series["seconds"] == sorted(series["seconds"])


def test_card_without_memory_sensor_says_so(make: MakeNode) -> None:
    """A T4 has no sensor in its memory: a gap in that one fact, and nothing else is missing."""
    burn = make(board="T4", gpus=1).burn(dataclasses.replace(REQUEST, max_s=200))
    (gpu,) = burn["gpus"]
    assert "unavailable" in gpu["memory_c"]
    assert gpu["nvlink_states"] == []
    assert gpu["below_slowdown_c"]["value"] > 0


def test_no_disk_for_samples_costs_only_the_samples(make: MakeNode) -> None:
    """Where the samples cannot be stored the burn's facts stand, and the gap says what the disk said."""
    node = make()
    node.state_dir.write_text("a file where a folder should be")
    burn = node.burn()
    assert burn["gpus"][0]["ended"] == "settled"
    assert "storing the burn's samples" in burn["samples"]["unavailable"]
