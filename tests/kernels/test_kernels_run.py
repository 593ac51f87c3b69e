"""The kernels as compiled for the CPU: right cards answer right, in every role, for as long as they are told to."""

from __future__ import annotations

import importlib.util
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cards import TICKS, Card, build
from gpugate.probe import kernels

LANES = 32
CHUNK_WORDS = kernels.STREAM_CHUNK_BYTES // 4
COMPUTE = [(75, work) for work in ("fma", "f16", "s8")] + [(80, work) for work in ("fma", "f16", "bf16", "s8")]
MakeCard = Callable[[int], Card]


def alone(work: str, warp: int = 0) -> int:
    """A `roles` in which one warp of a block works and the others idle."""
    return kernels.ROLES[work] << 4 * warp


@pytest.mark.parametrize(("architecture", "work"), COMPUTE)
def test_a_right_card_answers_right(make_card: MakeCard, architecture: int, work: str) -> None:
    """More rounds than there are sets of operands, and not one word differs from what the host computed."""
    result = make_card(architecture).burn(alone(work, warp=3), kernels.SETS + 1)

    assert (result.completed, result.wrong, result.claimed, result.records) == (512, 0, 0, [])
    assert result.rounds == {work: kernels.SETS + 1}
    assert result.unused == [0] * 7


@pytest.mark.parametrize(("architecture", "work"), [pair for pair in COMPUTE if pair[1] in ("f16", "bf16")])
@pytest.mark.parametrize("order", [1, 2])
def test_order_of_summation_does_not_matter(make_card: MakeCard, architecture: int, work: str, order: int) -> None:
    """Tensor cores may add the products in any order: backwards, or all positive ones first."""
    card = make_card(architecture)
    card.sum_in_order(order)

    assert card.burn(alone(work), kernels.SETS).wrong == 0


def test_the_mix_works_on_all_warps(card: Card) -> None:
    """Two blocks of the whole mix: each role's warps do their rounds, each stream warp in a slice of its own."""
    card.give_stream(warps=8, chunks=3)

    result = card.burn(kernels.roles("mix", card.capability), 2, grid=2)

    assert (result.completed, result.wrong) == (1024, 0)
    assert result.rounds == {"fma": 2 * 4 * 2, "f16": 2 * 8 * 2, "stream": 2 * 4 * 2}


def test_each_work_alone_uses_every_warp(card: Card) -> None:
    """`roles` of one work gives it all 16 warps."""
    card.give_stream(warps=16, chunks=1)
    for work in ("fma", "stream"):
        card.burn(kernels.roles(work, card.capability), 1)

    assert card.burn(0).rounds == {"fma": 16, "stream": 16}


def test_launches_add_up(card: Card) -> None:
    """A result is only ever added to, so that no launch can hide what one before it found."""
    for launch in range(3):
        result = card.burn(alone("fma"), 2, launch=launch)

    assert (result.completed, result.rounds) == (3 * 512, {"fma": 6})


def test_idle_warps_and_foreign_roles_do_nothing(card: Card) -> None:
    """Role 0 and roles that do not exist end at once and are counted as completed threads only."""
    result = card.burn(int("fedcba9876000000", 16), 5)

    assert (result.completed, result.rounds, result.wrong) == (512, {}, 0)


def test_turing_has_no_bf16(make_card: MakeCard) -> None:
    """A warp that is told to do bf16 on sm_75 does no round, so that nobody takes it for work done."""
    assert make_card(75).burn(alone("bf16"), 5).rounds == {}


@pytest.mark.parametrize(("rounds", "cycles"), [(0, 1 << 40), (5, 0)])
def test_no_rounds_where_none_are_wanted(card: Card, rounds: int, cycles: int) -> None:
    """max_rounds 0 or cycles 0 is a launch without work."""
    card.give_stream(warps=4, chunks=1)
    result = card.burn(kernels.roles("mix", card.capability), rounds, cycles=cycles)

    assert (result.completed, result.rounds) == (512, {})
    assert card.progress.words() == [0] * 4


@pytest.mark.parametrize("work", ["fma", "s8", "stream"])
def test_time_ends_a_launch(card: Card, work: str) -> None:
    """A warp goes on until the first of its lanes' clocks has passed `cycles`, and all its lanes leave together."""
    card.give_stream(warps=1, chunks=1)
    # Lane 31's clock runs 3.1% faster than lane 0's, so it alone has had three rounds' time after two of them.
    for cycles, rounds in ((1, 1), (TICKS, 1), (2 * TICKS + 50, 2), (2 * TICKS + 100, 3)):
        before = card.burn(0).rounds.get(work, 0)
        assert card.burn(alone(work), 1000, cycles=cycles).rounds[work] - before == rounds


def test_streaming_goes_on_where_it_stopped(card: Card) -> None:
    """Launch after launch, a warp takes its slice's chunks in turn; each pass inverts what the one before left."""
    card.give_stream(warps=1, chunks=10)
    first = card.stream.words()
    turned = [word ^ 0xFFFFFFFF for word in first]

    for launch in range(7):
        result = card.burn(alone("stream"), 1, launch=launch)
        passes, ahead = divmod((launch + 1) * 16, 10)
        ahead *= CHUNK_WORDS
        after, before = (turned, first) if passes % 2 == 0 else (first, turned)
        assert card.stream.words() == after[:ahead] + before[ahead:], launch
        assert card.progress.words() == [(launch + 1) * 16 % 20]  # two passes are as none

    assert (result.wrong, result.rounds) == (0, {"stream": 7})


def test_stream_warps_have_slices_of_their_own(card: Card) -> None:
    """Wherever in a block the stream warps are, the n-th of the grid has the n-th slice and the n-th count."""
    card.give_stream(warps=4, chunks=3)
    roles = alone("stream", warp=2) | alone("stream", warp=13)

    assert card.burn(roles, 1, grid=2).wrong == 0
    assert card.progress.words() == [4] * 4

    card.progress[3] = 1  # as if the last one were a pass behind
    result = card.burn(roles, 1, grid=2)
    assert result.wrong == 3 * CHUNK_WORDS
    assert {(record.block, record.thread // LANES) for record in result.records} == {(1, 13)}
    assert min(record.word for record in result.records) >= 9 * CHUNK_WORDS


def test_the_stream_pattern_is_what_memory_writes(card: Card) -> None:
    """Word w of the buffer is w * 0x9E3779B1 + 0x7F4A7C15 before the first pass and its inverse after."""
    card.give_stream(warps=1, chunks=16)
    expected = [(w * 0x9E3779B1 + 0x7F4A7C15) & 0xFFFFFFFF for w in range(16 * CHUNK_WORDS)]
    assert card.stream.words() == expected

    card.burn(alone("stream"), 1)
    assert card.stream.words() == [word ^ 0xFFFFFFFF for word in expected]


def test_no_stream_without_a_buffer(card: Card) -> None:
    """With stream_chunks 0 stream warps do no round and touch nothing."""
    assert card.burn(alone("stream"), 3).rounds == {}


@pytest.mark.parametrize("architecture", [75, 80])
def test_operations_are_what_a_round_does(make_card: MakeCard, architecture: int) -> None:
    """The host's count of operations of a round is the count of instructions that a warp executes."""
    card = make_card(architecture)
    depth = {75: {"f16": 16 * 8 * 8, "s8": 8 * 8 * 16}, 80: dict.fromkeys(("f16", "bf16"), 16 * 8 * 16) | {"s8": 4096}}
    card.give_stream(warps=1, chunks=5)
    card.counts()
    for work in kernels.works(card.capability):
        card.burn(alone(work), 1)
        counts = card.counts()
        if work == "stream":
            done = 16 * (counts["load"] + counts["store"])
        elif work == "fma":
            done = 2 * counts["fma"]
        else:
            done = 2 * counts["mma"] * depth[architecture][work]
        assert done == kernels.operations(work, card.capability), work


def test_zig_compiles_the_same_card(tmp_path: Path) -> None:
    """A machine with no compiler but the wheel ziglang's runs the same kernels."""
    assert importlib.util.find_spec("ziglang"), "ziglang is a dependency of the tests"
    library = build(80, tmp_path, [sys.executable, "-m", "ziglang", "cc"])

    assert Card(library, 80).burn(alone("bf16"), 2).wrong == 0


def test_not_a_number_is_no_answer(make_card: MakeCard) -> None:
    """A NaN or an infinity among the operands ends in NaNs, and each of those is a wrong word like any other."""
    card = make_card(80)
    offset = card.tables[kernels.ROLES["f16"]]
    card.tables[offset] = struct.unpack("<I", struct.pack("<2e", float("nan"), 1.0))[0]

    result = card.burn(alone("f16"), 1)

    assert result.wrong == 4 * 8  # a row of A_0 with four B
    assert all(record.found & 0x7F800000 == 0x7F800000 and record.found & 0x7FFFFF for record in result.records)
