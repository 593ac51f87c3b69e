"""The known-answer launch: every GPU by its UUID, in a fresh process, and a reason wherever there is no answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from burning import Node

MakeNode = Callable[..., Node]


@pytest.fixture
def make(tmp_path: Path, build_dir: Path) -> MakeNode:
    """Makes a simulated node."""
    return lambda **how: Node.make(tmp_path, build_dir, **how)


def uuids(node: Node) -> list[str]:
    """All GPUs of a node, in NVML's order."""
    return [node.uuid(i) for i in range(node.state.gpus)]


def answers(launches: list[dict[str, Any]]) -> list[Any]:
    """What stands for `correct` of each GPU: the boolean, or the reason."""
    return [one["correct"] if isinstance(one["correct"], bool) else one["correct"]["unavailable"] for one in launches]


def test_healthy_gpus_answer_right(make: MakeNode) -> None:
    """Every GPU is launched on and answers right, in the order in which they were asked for."""
    node = make(gpus=3)
    asked = list(reversed(uuids(node)))
    launches = node.launch(asked)
    assert [one["uuid"] for one in launches] == asked
    assert answers(launches) == [True, True, True]


def test_user_s_choice_of_gpus_does_not_count(make: MakeNode) -> None:
    """CUDA_VISIBLE_DEVICES of whoever starts the probe hides no GPU from it."""
    node = make(gpus=2)
    assert answers(node.launch(uuids(node), CUDA_VISIBLE_DEVICES="1")) == [True, True]


def test_gpu_that_cuda_does_not_see_is_a_gap(make: MakeNode) -> None:
    """A UUID that is not among CUDA's devices gets a reason that names it, and costs the others nothing."""
    node = make(gpus=1)
    stranger = "GPU-00000000-1111-2222-3333-444444444444"
    found = answers(node.launch([stranger, *uuids(node)]))
    assert stranger in found[0]
    assert "does not see" in found[0]
    assert found[1] is True


@pytest.mark.parametrize("code", [100, 802, 803, 804, 919, 999])
def test_refusal_to_initialise_carries_its_code(make: MakeNode, code: int) -> None:
    """Where cuInit refuses, every GPU's gap holds the CUresult, as a number and in words."""
    node = make(gpus=2)
    node.state.inject("cuInit", code)
    launches = node.launch(uuids(node))
    assert [one["correct"]["code"] for one in launches] == [code, code]
    assert all(f"cuInit answered {code}" in reason for reason in answers(launches))


def test_one_gpu_s_refusal_is_its_own(make: MakeNode) -> None:
    """A prohibited compute mode (46) on one GPU leaves the others' answers alone."""
    node = make(gpus=2)
    node.state.inject("cuDevicePrimaryCtxRetain", 46, gpu=0)
    first, second = node.launch(uuids(node))
    assert first["correct"]["code"] == 46
    assert node.uuid(0) in first["correct"]["unavailable"]
    assert second["correct"] is True


def test_wrong_answer_is_false_not_a_gap(make: MakeNode) -> None:
    """A GPU that calculates wrong was measured: the answer is that it is not correct."""
    node = make(gpus=2)
    node.state.set("gpu.1.corruption", "always")
    assert answers(node.launch(uuids(node))) == [True, False]


def test_hung_launch_costs_only_its_own_gpu(make: MakeNode) -> None:
    """A launch that never returns is killed and blamed on its GPU; the GPUs after it are still asked."""
    node = make(gpus=3)
    node.state.inject("cuLaunchKernel", 0, gpu=1, hang=True)
    first, hung, last = answers(node.launch(uuids(node), step_s=2))
    assert first is True
    assert last is True
    assert "did not end and was killed" in hung
    assert node.uuid(1) in hung


def test_hung_initialisation_is_said_of_all(make: MakeNode) -> None:
    """Where cuInit never returns no GPU is blamed more than another."""
    node = make(gpus=2)
    node.state.inject("cuInit", 0, hang=True)
    found = answers(node.launch(uuids(node), step_s=1))
    assert all("initialising CUDA" in reason for reason in found)


def test_missing_library_is_named(make: MakeNode) -> None:
    """Without libcuda the gap says which library the loader did not find."""
    node = make(gpus=1)
    (node.libdir / "libcuda.so.1").unlink()
    (reason,) = answers(node.launch(uuids(node)))
    assert "libcuda.so.1 cannot be loaded" in reason


_WRONG_GOLDEN = """
import json, sys
from gpugate.probe.cuda.driver import Cuda
from gpugate.probe.cuda.kernel import BurnKernel
from gpugate.probe.kernels import golden
cuda = Cuda()
cuda.call("cuInit", 0)
kernel = BurnKernel(cuda, next(iter(cuda.devices().values())))
multiplier, increment = golden(1024)
kernel.launch_expecting(1024, 5, multiplier, increment ^ 1)
kernel.wait()
answer = kernel.answer()
print(json.dumps([kernel.threads_launched, answer.threads_completed, answer.mismatches, answer.first.thread]))
"""


def test_wrong_golden_answer_is_noticed_by_every_thread(make: MakeNode) -> None:
    """The comparison is real: told a wrong expectation, each thread reports a mismatch."""
    launched, completed, mismatches, _first = make(gpus=1).run(_WRONG_GOLDEN, None)[0]
    assert launched == completed == mismatches > 0
