"""Memory that policy promises to jobs: had in one piece, written and read back, and nobody else's is touched."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from burning import Node
from gpugate.errors import Unavailable
from gpugate.evidence.request import ProbeRequest
from probing import Machine

MakeNode = Callable[..., Node]
MIB = 2**20


@pytest.fixture
def make(tmp_path: Path, build_dir: Path) -> MakeNode:
    """Makes a simulated node."""
    return lambda **how: Node.make(tmp_path, build_dir, **how)


@pytest.mark.parametrize("asked", [1000 * MIB, 1])
def test_promised_memory_is_had(make: MakeNode, asked: int) -> None:
    """Every GPU gives what was asked for, any number of bytes, and reads it back right."""
    node = make()
    found = node.allocate(asked, reserve=500 * MIB)
    assert [one["uuid"] for one in found] == node.uuids
    for one in found:
        assert one["asked_bytes"] == asked
        assert one["free_bytes"] > 70000 * MIB
        assert one["correct"] is True


def test_last_byte_before_the_reserve_may_be_taken_and_none_beyond(make: MakeNode) -> None:
    """Exactly what is free beside the reserve is tried; one byte more is not, and the gap has the numbers."""
    node = make(gpus=1)
    node.state.add_process(0, os.getpid(), 60000)
    (learnt,) = node.allocate(MIB)
    reserve = 100 * MIB
    asked = learnt["free_bytes"] - reserve
    assert node.allocate(asked, reserve)[0]["correct"] is True
    (refused,) = node.allocate(asked + 1, reserve)
    assert refused["free_bytes"] == learnt["free_bytes"]
    assert "not tried" in refused["correct"]["unavailable"]
    assert "0.10 GiB must stay free" in refused["correct"]["unavailable"]


def test_busy_gpu_is_not_touched(make: MakeNode) -> None:
    """Where a job holds nearly all memory nothing is allocated on that GPU; its sibling is tried."""
    node = make()
    node.state.add_process(0, os.getpid(), 80000)
    busy, free = node.allocate(4000 * MIB, reserve=1000 * MIB)
    assert busy["free_bytes"] < 4000 * MIB
    assert "not tried" in busy["correct"]["unavailable"]
    assert free["correct"] is True


def test_piece_that_the_driver_refuses_is_a_gap_with_its_code(make: MakeNode) -> None:
    """Free memory that is not to be had in one piece is said with sizes and CUDA's own code."""
    node = make(gpus=1)
    node.state.inject("cuMemAlloc_v2", 2, after=1)
    (one,) = node.allocate(1000 * MIB)
    assert one["correct"]["code"] == 2
    assert "not to be had in one piece" in one["correct"]["unavailable"]
    assert one["free_bytes"] > 0


def test_wrong_cell_is_false_not_a_gap(make: MakeNode) -> None:
    """Memory that reads back otherwise was measured: it is not correct, on that GPU only."""
    node = make()
    node.state.set("gpu.1.corruption", "memory")
    right, wrong = node.allocate(70000 * MIB)
    assert right["correct"] is True
    assert wrong["correct"] is False


def test_hung_allocation_costs_only_its_own_gpu(make: MakeNode) -> None:
    """An allocation that never returns is blamed on its GPU; the next one is still asked."""
    node = make()
    node.state.inject("cuMemAlloc_v2", 0, gpu=0, hang=True)
    hung, last = node.allocate(MIB, step_s=3)
    assert node.uuid(0) in hung["correct"]["unavailable"]
    assert "killed" in hung["correct"]["unavailable"]
    assert last["correct"] is True


def test_probe_allocates_only_where_asked(machine: Callable[..., Machine]) -> None:
    """The document has allocations of all GPUs where the request asks for some, and a gap with the profile if not."""
    node = machine()
    asked = node.evidence(ProbeRequest(nonce="n-1", profile="admission", launch=False, allocate_bytes=100 * MIB))
    assert [one.correct for one in asked.allocations] == [True, True]
    quiet = node.evidence(ProbeRequest(nonce="n-2", profile="quick", launch=False))
    with pytest.raises(Unavailable, match="not asked for in profile quick"):
        _ = quiet.allocations
