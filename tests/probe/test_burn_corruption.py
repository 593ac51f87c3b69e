"""Wrong answers of every kind: found, located, and the end of the burn where policy calls the work fatal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from burning import REQUEST, SHORT, Node
from gpugate.evidence.request import WORKS
from gpugate.evidence.types import Mismatch
from gpugate.probe.burn.gpu import Abort, BurningGpu
from gpugate.probe.cuda.kernel import NO_ANSWER

MakeNode = Callable[..., Node]
MIX = ("f16", "fma", "stream")


@pytest.fixture
def make(tmp_path: Path, build_dir: Path) -> MakeNode:
    """Makes a simulated node."""
    return lambda **how: Node.make(tmp_path, build_dir, **how)


def corrupt(node: Node, kind: str, work: str = "any") -> None:
    """Let the second GPU go wrong."""
    node.state.set("gpu.1.corruption_after_launches", 40)
    node.state.set("gpu.1.corruption_above_c", 45)
    node.state.set("gpu.1.corruption_work", work)
    node.state.set("gpu.1.corruption", kind)


def check_located(node: Node, gpu: dict[str, Any]) -> None:
    """Every wrong word that is told has a place on this GPU and bits that differ."""
    assert 1 <= len(gpu["wrong"]) <= 16
    for one in gpu["wrong"]:
        assert one["work"] in WORKS
        assert one["sm"] < int(str(node.state.get("gpu.1.sm_count")))
        assert one["thread"] < 512
        assert one["launch"] >= 1
        assert one["expected"] ^ one["found"]


@pytest.mark.parametrize("kind", ["bit_once", "always", "nan", "after_warmup", "under_heat"])
def test_wrong_answer_ends_the_burn_and_is_located(make: MakeNode, kind: str) -> None:
    """Corruption of any kind, even of one bit of one launch, aborts all; GPU, SM, block, word and bits are named."""
    node = make()
    corrupt(node, kind)
    burn = node.burn(REQUEST if kind == "under_heat" else SHORT)
    right, wrong = burn["gpus"]
    assert (right["mismatches"], right["wrong"]) == (0, [])
    assert wrong["ended"] == right["ended"] == "aborted"
    assert right["threads_completed"] == right["threads_launched"] > 0
    assert wrong["mismatches"] > 0
    check_located(node, wrong)
    first = wrong["wrong"][0]
    assert f"{node.uuid(1)}) calculated wrong" in wrong["reason"] == right["reason"]
    assert f"multiprocessor {first['sm']}, block {first['block']}, thread {first['thread']}" in wrong["reason"]
    assert f"word {first['word']}" in wrong["reason"]
    assert f"xor {first['expected'] ^ first['found']:#010x}" in wrong["reason"]
    if kind == "bit_once":
        assert wrong["mismatches"] == 1
        assert (first["expected"] ^ first["found"]).bit_count() == 1
    if kind == "nan":
        assert first["found"] & 0x7F800000 == 0x7F800000
        assert first["found"] & 0x007FFFFF
    if kind == "after_warmup":
        assert first["launch"] > 30


@pytest.mark.parametrize("work", ["fma", "f16", "bf16", "s8", "stream"])
def test_each_work_is_checked(make: MakeNode, work: str) -> None:
    """Whatever unit is broken its own work finds it: in the mix, or alone where the mix does not have it."""
    node = make()
    corrupt(node, "always", work)
    wrong = node.burn(SHORT)["gpus"][1]
    assert {one["work"] for one in wrong["wrong"]} == {work}
    assert wrong["ended"] == "aborted"
    check_located(node, wrong)
    assert f"first in {work}" in wrong["reason"]
    assert "unavailable" in wrong["rates"]


@pytest.mark.parametrize("work", ["f16", "bf16"])
def test_work_that_is_not_fatal_is_counted(make: MakeNode, work: str) -> None:
    """Where policy does not call a work fatal its wrong words are counted, and the burn goes on to its own end."""
    node = make()
    corrupt(node, "always", work)
    right, wrong = node.burn(dataclasses.replace(SHORT, fatal=[other for other in WORKS if other != work]))["gpus"]
    assert "aborted" not in (right["ended"], wrong["ended"])
    assert right["mismatches"] == 0
    assert wrong["mismatches"] > 16
    assert {one["work"] for one in wrong["wrong"]} == {work}
    assert wrong["rates"][work] > 0
    assert wrong["memory_test"]["mismatches"] == 0


def test_wrong_memory_cell_is_found_by_the_memory_test(make: MakeNode) -> None:
    """A cell that always reads as one is fatal, at one place of the tested memory, and nothing computed is blamed."""
    node = make()
    corrupt(node, "memory")
    right, wrong = node.burn(SHORT)["gpus"]
    assert wrong["ended"] == right["ended"] == "aborted"
    assert right["mismatches"] == 0
    for one in wrong["wrong"]:
        assert (one["work"], one["word"]) == ("memory", wrong["wrong"][0]["word"])
        assert one["expected"] ^ one["found"] == 0x1000
    assert wrong["mismatches"] == len(wrong["wrong"]) >= 1
    assert "first in memory" in wrong["reason"]
    assert "unavailable" in wrong["memory_test"]
    assert wrong["rates"]["f16"] > 0  # measured before


def test_memory_cell_that_is_not_fatal_is_counted_at_one_place(make: MakeNode) -> None:
    """Every pattern that needs a zero there finds the same word, in whatever parts the memory is walked over."""
    node = make(board="T4", gpus=2)
    corrupt(node, "memory")
    wrong = node.burn(dataclasses.replace(SHORT, fatal=["f16"]))["gpus"][1]
    assert wrong["ended"] != "aborted"
    assert wrong["memory_test"]["mismatches"] == wrong["mismatches"] == len(wrong["wrong"]) >= 4
    places = {one["word"] for one in wrong["wrong"]}
    assert len(places) == 1
    mib = float(str(node.state.get("gpu.1.memory_total_mib"))) - float(str(node.state.get("gpu.1.memory_reserved_mib")))
    used = mib * 2**20 - wrong["memory_test"]["free_bytes"]
    assert 4 * places.pop() == pytest.approx(0.6 * mib * 2**20 - used, abs=2**24)


@pytest.mark.parametrize(("work", "fatal"), [("f16", False), ("role 9", True)])
def test_wrong_word_of_an_unknown_work_is_fatal(work: str, fatal: bool) -> None:
    """A sick device may write a role that does not exist: policy called no such thing harmless, so the burn ends."""
    wrong = Mismatch(work, 1, 1, 5, 7, 0, 3, 1, 2)
    gpu = SimpleNamespace(
        answer=dataclasses.replace(NO_ANSWER, wrong_words=1, located=[wrong]),
        located=[],
        name="GPU 0",
        _placed=lambda one: one,
        _request=dataclasses.replace(REQUEST, fatal=[]),
    )
    with pytest.raises(Abort, match="GPU 0 calculated wrong") if fatal else nullcontext():
        BurningGpu._check(gpu, SimpleNamespace(launch=7), NO_ANSWER)  # type: ignore[arg-type]  # what it looks at
