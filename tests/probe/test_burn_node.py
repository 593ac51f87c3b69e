"""Burning simulated nodes: healthy ones settle, sick ones are found, and what hangs or falls off is named."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import mean

import pytest
from burning import REQUEST, SHORT, Node
from gpugate.probe.burn.jobs import LAUNCH_S
from gpugate.probe.burn.predict import RAMP_S

MakeNode = Callable[..., Node]


@pytest.fixture
def make(tmp_path: Path, build_dir: Path) -> MakeNode:
    """Makes a simulated node."""
    return lambda **how: Node.make(tmp_path, build_dir, **how)


def test_healthy_node_shows_all_that_a_burn_can_show(make: MakeNode) -> None:
    """Eight GPUs settle well away from the bound; every fact that they have a sensor for is there."""
    node = make(gpus=8, scale=20)
    burn = node.burn()
    assert [gpu["uuid"] for gpu in burn["gpus"]] == node.uuids
    assert 0 < burn["sampler_core_share"] < 1
    for gpu in burn["gpus"]:
        assert gpu["ended"] == "settled", gpu["reason"]
        assert gpu["below_slowdown_c"]["low"] > REQUEST.headroom_c
        assert gpu["memory_c"].get("value", 0) > 40, gpu["memory_c"]
        assert gpu["threads_completed"] == gpu["threads_launched"] > 0
        assert (gpu["mismatches"], gpu["wrong"]) == (0, [])
        assert set(gpu["rates"]) == {"fma", "f16", "bf16", "s8", "stream"}
        assert gpu["rates"]["s8"] > gpu["rates"]["f16"] > gpu["rates"]["fma"] > 20
        assert gpu["rates"]["stream"] > 2000
        assert gpu["memory_test"]["mismatches"] == 0
        assert gpu["power_w"] > 500
        assert gpu["samples"] >= 3 * gpu["seconds"]  # 11 where nothing else runs
        assert gpu["samples_per_s"] == pytest.approx(gpu["samples"] / gpu["seconds"])
        assert set(gpu["event_shares"]) == {"hw_slowdown", "hw_thermal", "power_brake", "sw_thermal", "sw_power_cap"}
        assert gpu["event_shares"]["sw_thermal"] == 0
        assert (gpu["pcie_generation"], gpu["pcie_width"], gpu["pcie_replays_gained"]) == (5, 16, 0)
        assert len(gpu["nvlink_states"]) == 18
        assert (gpu["ecc_corrected_gained"], gpu["ecc_uncorrected_gained"], gpu["rows_remapped_gained"]) == (0, 0, 0)
        assert gpu["used_after_bytes"] <= gpu["used_before_bytes"]
        assert 0 < gpu["resistance_c_per_w"] < 0.2


def test_fouled_heat_sink_is_predicted_beyond_the_bound(make: MakeNode) -> None:
    """A GPU that cannot get rid of its heat is predicted too near to slowdown; its sibling is not blamed."""
    node = make()
    node.state.set("gpu.1.thermal_resistance", 0.085)
    healthy, fouled = node.burn()["gpus"]
    assert fouled["below_slowdown_c"]["high"] < REQUEST.headroom_c
    assert healthy["mismatches"] == 0
    assert "unavailable" in healthy["below_slowdown_c"] or healthy["below_slowdown_c"]["low"] > REQUEST.headroom_c


def test_gpu_that_comes_too_near_to_slowdown_stops_alone(make: MakeNode) -> None:
    """Heat beyond the abort bound ends that GPU's burn at once, with its reason; its sibling is measured to the end."""
    node = make()
    node.state.set("gpu.1.thermal_resistance", 0.15)  # too hot before min_s
    healthy, hot = node.burn()["gpus"]
    assert hot["ended"] == "aborted"
    assert hot["seconds"] < REQUEST.min_s
    assert node.uuid(1) in hot["reason"]
    assert "below slowdown" in hot["reason"]
    assert hot["below_slowdown_c"]["high"] < REQUEST.headroom_c
    assert all("below slowdown" in hot[fact]["unavailable"] for fact in ("rates", "memory_test"))
    assert healthy["ended"] == "settled"
    assert healthy["below_slowdown_c"]["low"] > REQUEST.headroom_c
    assert healthy["memory_test"]["mismatches"] == 0


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


@pytest.mark.parametrize("after_launches", [60, 3])
def test_lost_gpu_ends_the_burn(make: MakeNode, after_launches: int) -> None:
    """A GPU that falls off the bus under load, or as the load begins, aborts all; the others' facts are there."""
    node = make()
    node.state.set("gpu.1.lost_after_launches", after_launches)
    burn = node.burn()
    assert {gpu["ended"] for gpu in burn["gpus"]} == {"aborted"}
    assert all(node.uuid(1) in gpu["reason"] for gpu in burn["gpus"])
    assert burn["gpus"][0]["max_temperature_c"] > 20
    assert burn["gpus"][0]["threads_completed"] == burn["gpus"][0]["threads_launched"] > 0
    assert "unavailable" in burn["gpus"][1]["ecc_uncorrected_gained"]


def test_gpu_that_nvml_loses_ends_the_burn(make: MakeNode) -> None:
    """Where a sensor answers that the GPU is lost, the reason carries NVML's words."""
    node = make()
    node.state.inject("nvmlDeviceGetTemperature", 15, after=20, gpu=1)
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


@pytest.mark.parametrize("function", ["cuEventQuery", "nvmlDeviceGetTemperature", "nvmlDeviceGetFieldValues"])
def test_hung_call_is_named(make: MakeNode, function: str) -> None:
    """A call that never returns becomes a gap that names it and its GPU."""
    node = make()
    node.state.inject(function, 0, after=20, gpu=1, hang=True)
    gap = node.burn(dataclasses.replace(REQUEST, deadline_s=8))
    assert f"{function} for GPU 1 ({node.uuid(1)}) has not returned" in gap["unavailable"]


def test_launch_that_never_ends_is_named(make: MakeNode) -> None:
    """A kernel that hangs on a GPU ends the burn with a gap that says on which, not with waiting."""
    node = make()
    node.state.set("gpu.1.hang_after_launches", 60)
    node.state.set("gpu.1.hang_launch", True)
    gap = node.burn(dataclasses.replace(REQUEST, deadline_s=8))
    assert f"a launch on GPU 1 ({node.uuid(1)}) has not come to its end" in gap["unavailable"]


@pytest.mark.parametrize("function", ["nvmlDeviceGetClockInfo", "nvmlDeviceGetCurrPcieLinkWidth"])
def test_sensor_that_fails_costs_only_its_facts(make: MakeNode, function: str) -> None:
    """Where a sensor that nothing depends on stops answering, its facts are gaps, and the burn goes on."""
    node = make()
    node.state.inject(function, 999, after=5, gpu=1)
    whole, part = node.burn(SHORT)["gpus"]
    fact = "sm_mhz" if "Clock" in function else "pcie_width"
    assert part[fact]["code"] == 999
    assert whole[fact] > 0
    assert "aborted" not in (whole["ended"], part["ended"])
    assert part["memory_test"]["mismatches"] == 0


def test_deadline_ends_the_burn_in_good_order(make: MakeNode) -> None:
    """A burn that reaches its wall deadline stops by itself before it, and keeps what it has measured."""
    burn = make(scale=1).burn(dataclasses.replace(REQUEST, min_s=1000, max_s=1000, deadline_s=4))
    for gpu in burn["gpus"]:
        assert gpu["ended"] == "aborted"
        assert "deadline of 4 s" in gpu["reason"]
        assert gpu["threads_completed"] == gpu["threads_launched"] > 0
        assert "unavailable" in gpu["below_slowdown_c"]
        assert "unavailable" in gpu["rates"]
        assert "unavailable" in gpu["memory_test"]


def test_maximum_ends_the_burn(make: MakeNode) -> None:
    """At max_s the burn ends, whatever is known by then; a fit that has not settled is a gap that says why."""
    burn = make().burn(dataclasses.replace(REQUEST, min_s=1, max_s=1.5))
    for gpu in burn["gpus"]:
        assert 1.5 <= gpu["seconds"] < 30
        assert gpu["ended"] == "maximum"
        assert "unavailable" in gpu["below_slowdown_c"]


def test_stuck_sensor_is_no_steady_state(make: MakeNode) -> None:
    """A temperature that does not move under load is called stuck."""
    node = make()
    node.state.set("gpu.0.sensor_stuck_c", 40)
    node.state.set("gpu.0.sensor_stuck", True)
    stuck, healthy = node.burn(dataclasses.replace(REQUEST, max_s=25))["gpus"]
    assert "stuck" in stuck["below_slowdown_c"]["unavailable"]
    assert healthy["mismatches"] == 0


def test_slow_clock_lengthens_no_launch(make: MakeNode) -> None:
    """A card that a brake from outside slows down to half shows it in shares and rates, and is launched on as often."""
    node = make(scale=10)
    node.state.set("gpu.1.power_brake", True)
    free, braked = node.burn(dataclasses.replace(REQUEST, min_s=10, max_s=10))["gpus"]
    assert braked["event_shares"]["power_brake"] > 0.5
    assert free["event_shares"]["power_brake"] == 0
    assert all(braked["rates"][work] < 0.7 * free["rates"][work] for work in ("fma", "f16", "bf16", "s8"))
    launches = braked["threads_launched"] / (512 * int(str(node.state.get("gpu.1.sm_count"))))
    assert launches > 0.8 * braked["seconds"] / LAUNCH_S


def test_power_rises_in_steps(make: MakeNode) -> None:
    """Within the first second a GPU draws more with each quarter of its warps, and the second GPU comes later."""
    node = make(scale=2)
    burn = node.burn(dataclasses.replace(SHORT, memory_share=0.0))
    series = json.loads(gzip.decompress(Path(burn["samples"]["path"]).read_bytes()))["gpus"][node.uuid(0)]
    steps = [
        mean(
            watts
            for t, watts in zip(series["seconds"], series["power_w"], strict=True)
            if quarter * RAMP_S / 4 < t - LAUNCH_S <= (quarter + 1) * RAMP_S / 4
        )
        for quarter in range(4)
    ]
    assert all(after > before + 20 for before, after in pairwise(steps)), steps
    assert burn["gpus"][0]["seconds"] > burn["gpus"][1]["seconds"] + RAMP_S / 4


def test_what_grows_under_load_is_told(make: MakeNode) -> None:
    """ECC errors and PCIe replays that a GPU gains while it burns are counted, on that GPU only."""
    node = make()
    node.state.set("gpu.1.ecc_corrected_volatile", 7)  # of before
    node.state.apply("ecc_under_load", 1)
    node.state.apply("pcie_replays", 1)
    clean, sick = node.burn(dataclasses.replace(REQUEST, max_s=25))["gpus"]
    assert sick["ecc_uncorrected_gained"] > 0
    assert sick["ecc_corrected_gained"] == 0
    assert sick["pcie_replays_gained"] > 0
    assert clean["ecc_uncorrected_gained"] == clean["pcie_replays_gained"] == 0


@pytest.mark.parametrize("work", ["f16", "stream"])
def test_one_work_alone_can_be_burnt(make: MakeNode, work: str) -> None:
    """A burn of one work does only that one, and measures its rate."""
    node = make(gpus=1)
    burn = node.burn(dataclasses.replace(SHORT, work=work))
    (gpu,) = burn["gpus"]
    assert burn["work"] == work
    assert gpu["ended"] != "aborted", gpu["reason"]
    assert list(gpu["rates"]) == [work]


def test_work_that_a_card_cannot_do_is_refused(make: MakeNode) -> None:
    """A T4 has no bf16: the burn does not start, and says what the card can do."""
    node = make(gpus=1, board="T4")
    gap = node.burn(dataclasses.replace(SHORT, work="bf16"))
    assert "cannot do bf16; it can do fma, f16, s8, stream" in gap["unavailable"]


def test_samples_are_kept_under_their_digest(make: MakeNode) -> None:
    """The series lie on the node as a gzip file named by its sha256, with one value per sample and sensor."""
    burn = make().burn(SHORT)
    told = burn["samples"]
    packed = Path(told["path"]).read_bytes()
    assert hashlib.sha256(packed).hexdigest() == told["sha256"] == Path(told["path"]).name.split(".")[0]
    assert len(packed) == told["size_bytes"]
    content = json.loads(gzip.decompress(packed))
    for gpu in burn["gpus"]:
        series = content["gpus"][gpu["uuid"]]
        assert len(series["seconds"]) == len(series["temperature_c"]) == len(series["power_w"]) == gpu["samples"]
        assert series["seconds"] == sorted(series["seconds"])
        later = content["after_mix"][gpu["uuid"]]["seconds"]
        assert later[0] > series["seconds"][-1]


def test_card_without_sensors_of_memory_and_fan_says_so(make: MakeNode) -> None:
    """A T4 has no sensor in its memory, no fan and no bf16: gaps in those facts, and nothing else is missing."""
    burn = make(board="T4", gpus=1).burn(dataclasses.replace(REQUEST, max_s=25))
    (gpu,) = burn["gpus"]
    assert "unavailable" in gpu["memory_c"]
    assert "unavailable" in gpu["max_fan_percent"]
    assert gpu["nvlink_states"] == []
    assert set(gpu["rates"]) == {"fma", "f16", "s8", "stream"}
    assert gpu["memory_test"]["mismatches"] == 0


def test_no_place_for_samples_costs_only_the_samples(make: MakeNode) -> None:
    """Where the samples cannot be stored the burn's facts stand, and the gap says what the disk said."""
    node = make()
    node.state_dir.mkdir()
    (node.state_dir / "samples").write_text("a file where a folder should be")
    burn = node.burn(SHORT)
    assert burn["gpus"][0]["memory_test"]["mismatches"] == 0
    assert "storing the burn's samples" in burn["samples"]["unavailable"]


_LAZY = """
import json, sys, time
from gpugate.evidence.request import BurnRequest
from gpugate.probe import kernels, nvml
from gpugate.probe.burn import gpu as module
from gpugate.probe.burn.node import Watch, burn
from gpugate.probe.cuda.driver import Cuda
uuid, request, work = json.loads(sys.argv[1])
if work == "stream":
    module._MOST_STREAM_BYTES = 8192  # less than one chunk for each warp
else:
    works, roles, operations = kernels.works, kernels.roles, kernels.operations
    kernels.works = lambda card: [*works(card), work]
    kernels.roles = lambda what, card: sum(3 << 4 * warp for warp in range(16)) if what == work else roles(what, card)
    kernels.operations = lambda what, card: 1.0 if what == work else operations(what, card)
cuda = Cuda()
cuda.call("cuInit", 0)
request = BurnRequest(**request)
gpu = module.BurningGpu(cuda, cuda.devices()[uuid], nvml.start().device_by_uuid(uuid), uuid, request)
until = time.monotonic() + 60
outcome = burn([gpu], request, Watch(until, until, 60, lambda: False, lambda: None, lambda: None))
rates = gpu.rates()
print(json.dumps([outcome.ended, outcome.reason, getattr(rates, "unavailable", rates)]))
"""


def test_work_of_the_mix_that_does_nothing_ends_the_burn(make: MakeNode) -> None:
    """Where one work of the mix does not a single round, the load is not what it has to be: the burn is aborted."""
    node = make(gpus=1)
    ended, reason, _ = node.run(_LAZY, [node.uuid(0), dataclasses.asdict(SHORT), "stream"])[0]
    assert ended == "aborted"
    assert f"{node.uuid(0)}): stream did nothing" in reason


def test_work_alone_that_does_nothing_has_no_rate(make: MakeNode) -> None:
    """Where a work alone does not a single round (here: one that the card does not have), there are no rates."""
    node = make(gpus=1, board="T4")
    ended, _, rates = node.run(_LAZY, [node.uuid(0), dataclasses.asdict(SHORT), "bf16"])[0]
    assert ended != "aborted"
    assert "bf16 did nothing in a launch of its own" in rates
