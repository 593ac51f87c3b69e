"""The burn's memory test: how much of the memory, in how many pieces, and that all of it comes back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from burning import SHORT, Node

MakeNode = Callable[..., Node]
# Allocations of a GPU before its memory test: result, tables, stream buffer, progress in the mix and of stream alone.
BEFORE = 5


@pytest.fixture
def make(tmp_path: Path, build_dir: Path) -> MakeNode:
    """Makes a simulated node."""
    return lambda **how: Node.make(tmp_path, build_dir, **how)


@pytest.mark.parametrize("board", ["H200-SXM-141GB", "T4"])
def test_nearly_all_free_memory_is_tested_and_comes_back(make: MakeNode, board: str) -> None:
    """At least 95% of what is free, in one piece, with every pattern, at the memory's speed; then all of it is free."""
    node = make(board=board)
    for gpu in node.burn(SHORT)["gpus"]:
        test = gpu["memory_test"]
        assert test["free_bytes"] > 0.9 * float(str(node.state.get("gpu.0.memory_total_mib"))) * 2**20
        assert 0.95 * test["free_bytes"] <= test["tested_bytes"] <= test["free_bytes"]
        assert (test["pieces"], test["mismatches"]) == (1, 0)
        assert {"address", "random"} < set(test["patterns"])
        assert any("moving inversions" in pattern for pattern in test["patterns"])
        speed = float(str(node.state.get("gpu.0.memory_gb_s")))
        assert 0.5 * speed < test["gb_per_s"] <= speed
        assert gpu["threads_completed"] == gpu["threads_launched"]
        assert gpu["used_after_bytes"] <= gpu["used_before_bytes"]


def test_share_is_policy_s(make: MakeNode) -> None:
    """Half of the memory is tested where half is asked for, and none where none is."""
    half = make(gpus=1).burn(dataclasses.replace(SHORT, memory_share=0.5))["gpus"][0]["memory_test"]
    assert half["tested_bytes"] == pytest.approx(half["free_bytes"] / 2, rel=0.01)


def test_no_memory_test_without_being_asked(make: MakeNode) -> None:
    """A share of 0 is a gap that says so; the rates are there."""
    (gpu,) = make(gpus=1).burn(dataclasses.replace(SHORT, memory_share=0.0))["gpus"]
    assert "not asked for" in gpu["memory_test"]["unavailable"]
    assert gpu["rates"]["f16"] > 0


def test_memory_that_is_not_to_be_had_in_one_piece_is_tested_in_several(make: MakeNode) -> None:
    """Where the driver refuses the whole, smaller pieces make up the share, and each is tested."""
    node = make()
    node.state.inject("cuMemAlloc_v2", 2, after=BEFORE, times=1, gpu=0)
    pieces, whole = (gpu["memory_test"] for gpu in node.burn(SHORT)["gpus"])
    assert pieces["pieces"] >= 2
    assert whole["pieces"] == 1
    assert pieces["tested_bytes"] >= 0.95 * pieces["free_bytes"]
    assert pieces["mismatches"] == 0


def test_too_little_memory_is_a_gap_with_its_size(make: MakeNode) -> None:
    """Where the share is not to be had at all nothing less passes for it; the sibling is tested."""
    node = make()
    node.state.inject("cuMemAlloc_v2", 2, after=BEFORE + 1, gpu=0)
    node.state.inject("cuMemAlloc_v2", 2, after=BEFORE, times=1, gpu=0)
    little, whole = node.burn(SHORT)["gpus"]
    assert "could be had, 95% were to be tested" in little["memory_test"]["unavailable"]
    assert little["memory_test"]["code"] == 2
    assert little["used_after_bytes"] <= little["used_before_bytes"]
    assert whole["memory_test"]["mismatches"] == 0


def test_driver_that_refuses_memory_otherwise_ends_the_burn(make: MakeNode) -> None:
    """Any other refusal than that there is no memory is the GPU's failure."""
    node = make()
    node.state.inject("cuMemAlloc_v2", 719, after=BEFORE, gpu=0)
    burn = node.burn(SHORT)
    assert {gpu["ended"] for gpu in burn["gpus"]} == {"aborted"}
    assert f"{node.uuid(0)}): cuMemAlloc_v2 answered 719" in burn["gpus"][1]["reason"]
