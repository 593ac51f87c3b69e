"""The known-answer launch: every GPU by its UUID, in a fresh process, and a reason wherever there is no answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from burning import Node
from gpugate.probe.kernels import MOST_RECORDS, SETS

MakeNode = Callable[..., Node]


@pytest.fixture
def make(tmp_path: Path, build_dir: Path) -> MakeNode:
    """Makes a simulated node."""
    return lambda **how: Node.make(tmp_path, build_dir, **how)


def answers(launches: list[dict[str, Any]]) -> list[Any]:
    """What stands for `correct` of each GPU: the boolean, or the reason."""
    return [one["correct"] if isinstance(one["correct"], bool) else one["correct"]["unavailable"] for one in launches]


def test_healthy_gpus_answer_right(make: MakeNode) -> None:
    """Every GPU is launched on and answers right, in the order in which they were asked for."""
    node = make(gpus=3)
    asked = list(reversed(node.uuids))
    launches = node.launch(asked)
    assert [one["uuid"] for one in launches] == asked
    assert answers(launches) == [True, True, True]


def test_user_s_choice_of_gpus_does_not_count(make: MakeNode) -> None:
    """CUDA_VISIBLE_DEVICES of whoever starts the probe hides no GPU from it."""
    node = make(gpus=2)
    assert answers(node.launch(node.uuids, CUDA_VISIBLE_DEVICES="1")) == [True, True]


def test_gpu_that_cuda_does_not_see_is_a_gap(make: MakeNode) -> None:
    """A UUID that is not among CUDA's devices gets a reason that names it, and costs the others nothing."""
    node = make(gpus=1)
    stranger = "GPU-00000000-1111-2222-3333-444444444444"
    found = answers(node.launch([stranger, *node.uuids]))
    assert stranger in found[0]
    assert "does not see" in found[0]
    assert found[1] is True


@pytest.mark.parametrize("code", [100, 802, 803, 804, 919, 999])
def test_refusal_to_initialise_carries_its_code(make: MakeNode, code: int) -> None:
    """Where cuInit refuses, every GPU's gap holds the CUresult, as a number and in words."""
    node = make(gpus=2)
    node.state.inject("cuInit", code)
    launches = node.launch(node.uuids)
    assert [one["correct"]["code"] for one in launches] == [code, code]
    assert all(f"cuInit answered {code}" in reason for reason in answers(launches))


def test_one_gpu_s_refusal_is_its_own(make: MakeNode) -> None:
    """A prohibited compute mode (46) on one GPU leaves the others' answers alone."""
    node = make(gpus=2)
    node.state.inject("cuDevicePrimaryCtxRetain", 46, gpu=0)
    first, second = node.launch(node.uuids)
    assert first["correct"]["code"] == 46
    assert node.uuid(0) in first["correct"]["unavailable"]
    assert second["correct"] is True


@pytest.mark.parametrize("work", ["fma", "f16", "bf16", "s8", "stream"])
def test_wrong_answer_is_false_not_a_gap(make: MakeNode, work: str) -> None:
    """A GPU that calculates wrong, in any work that it has, was measured: the answer is that it is not correct."""
    node = make(gpus=2)
    node.state.set("gpu.1.corruption_work", work)
    node.state.set("gpu.1.corruption", "always")
    assert answers(node.launch(node.uuids)) == [True, False]


@pytest.mark.parametrize("board", ["T4", "A100-SXM4-80GB", "B200"])
def test_every_generation_answers_right(make: MakeNode, board: str) -> None:
    """Cards of compute capability 7.5, 8.0 and 10.0 run what they have."""
    node = make(gpus=1, board=board, driver="580")
    assert answers(node.launch(node.uuids)) == [True]


def test_hung_launch_costs_only_its_own_gpu(make: MakeNode) -> None:
    """A launch that never returns is killed and blamed on its GPU; the GPUs after it are still asked."""
    node = make(gpus=3)
    node.state.inject("cuLaunchKernel", 0, gpu=1, hang=True)
    first, hung, last = answers(node.launch(node.uuids, step_s=2))
    assert first is True
    assert last is True
    assert "did not end and was killed" in hung
    assert node.uuid(1) in hung


def test_hung_initialisation_is_said_of_all(make: MakeNode) -> None:
    """Where cuInit never returns no GPU is blamed more than another."""
    node = make(gpus=2)
    node.state.inject("cuInit", 0, hang=True)
    found = answers(node.launch(node.uuids, step_s=1))
    assert all("initialising CUDA" in reason for reason in found)


def test_missing_library_is_named(make: MakeNode) -> None:
    """Without libcuda the gap says which library the loader did not find."""
    node = make(gpus=1)
    (node.libdir / "libcuda.so.1").unlink()
    (reason,) = answers(node.launch(node.uuids))
    assert "libcuda.so.1 cannot be loaded" in reason


_OTHER_TABLES = """
import json, struct, sys
from gpugate.evidence.facts import to_json
from gpugate.probe import kernels
from gpugate.probe.cuda.driver import Cuda
from gpugate.probe.cuda.kernel import Kernels
cuda = Cuda()
cuda.call("cuInit", 0)
right = kernels.tables
def wrong(card):
    table = bytearray(right(card))
    begin = 4 * struct.unpack_from("<I", table, 4 * kernels.ROLES["fma"])[0]
    table[begin + int(sys.argv[1])] ^= 4
    return bytes(table)
kernels.tables = wrong
gpu = Kernels(cuda, next(iter(cuda.devices().values())))
gpu.burn(kernels.roles("fma", gpu.capability), kernels.SETS, 1 << 62, 0)
gpu.wait()
answer = gpu.answer(0)
print(json.dumps([answer.wrong_words, to_json(answer.located), answer.rounds["fma"], gpu.blocks]))
"""


def test_wrong_table_is_noticed_by_every_warp(make: MakeNode) -> None:
    """The comparison is real: one bit of the first fma operand turned over makes that chain wrong in every warp."""
    wrong_words, located, rounds, blocks = make(gpus=1).run(_OTHER_TABLES, 0)[0]
    assert rounds == blocks * 16 * SETS
    assert wrong_words == blocks * 16  # one chain of one lane in one set
    assert 1 <= len(located) <= MOST_RECORDS
    assert {one["work"] for one in located} == {"fma"}
    assert all(one["expected"] ^ one["found"] for one in located)


def test_launch_that_leaves_a_work_out_is_a_gap(make: MakeNode) -> None:
    """Where a work was asked of the GPU and not done, nothing was proven: a gap that says how much was missing."""
    node = make(gpus=1, board="T4")
    (launch,) = node.run(_WITHOUT, node.uuid(0))[0]
    assert f"bf16 did 0 rounds of {40 * 16 * SETS} on {node.uuid(0)}" in launch["correct"]["unavailable"]


_WITHOUT = """
import json, sys
from gpugate.evidence.facts import Gap, to_json
from gpugate.evidence.types import Launch
from gpugate.errors import ProbeError
from gpugate.probe import kernels
from gpugate.probe.cuda import launch
from gpugate.probe.cuda.driver import Cuda
works, roles = kernels.works, kernels.roles
kernels.works = lambda card: [*works(card), "bf16"]
kernels.roles = lambda what, card: sum(3 << 4 * warp for warp in range(16)) if what == "bf16" else roles(what, card)
cuda = Cuda()
cuda.call("cuInit", 0)
uuid = json.loads(sys.argv[1])
try:
    correct = launch._launch(cuda, cuda.devices()[uuid], None)
except ProbeError as error:
    correct = Gap(f"{error} on {uuid}")
print(json.dumps([to_json(Launch(uuid, correct))]))
"""
