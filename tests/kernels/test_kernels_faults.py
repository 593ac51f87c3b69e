"""Broken cards: whatever goes wrong, once or always, is counted, and the first sixteen words are located."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from cards import ACCUMULATOR, ALWAYS, CHAIN, FIRST_MULTIPROCESSOR, OPERAND_A, OPERAND_B, VECTOR, Card, Record
from gpugate.probe import kernels
from gpugate.probe.kernels.abi import PASSES, TILES
from gpugate.probe.kernels.operands import SHAPES

MakeCard = Callable[[int], Card]
TENSOR = [(75, "f16"), (75, "s8"), (80, "f16"), (80, "bf16"), (80, "s8")]
MMAS = PASSES * TILES * TILES  # a round
NAN = 0x7FC00000


def golden(card: Card, work: str, number: int, word: int, lane: int) -> int:
    """A golden word as operands.py describes its place."""
    region = card.tables[kernels.ROLES[work]]
    if work == "fma":
        return card.tables[region + (number * 17 + 8 + word) * 32 + lane]
    shape = SHAPES[card.architecture][work]
    operands = TILES * (shape.a_registers + shape.b_registers)
    rows = operands + TILES * TILES * shape.c_registers
    return card.tables[region + (number * rows + operands + word) * 32 + lane]


@pytest.mark.parametrize(("architecture", "work"), TENSOR)
def test_a_wrong_accumulator_is_located(make_card: MakeCard, architecture: int, work: str) -> None:
    """One bit of one accumulator, once, in the middle of a round: one wrong word, and the record says all about it."""
    card = make_card(architecture)
    registers = SHAPES[architecture][work].c_registers
    warp, lane, tile, number = 6, 21, 7, 5  # the sixth round, so the second set again
    thread = warp * 32 + lane
    struck = number * MMAS + 13 * TILES * TILES + tile  # an odd pass, before which C is not 0
    card.fault(ACCUMULATOR, block=1, thread=thread, index=registers - 1, first=struck, flip=1 << 14)

    result = card.burn(kernels.ROLES[work] << 4 * warp, 7, grid=3, launch=9)

    word = tile * registers + registers - 1
    expected = golden(card, work, number % kernels.SETS, word, lane)
    assert (result.wrong, result.claimed, result.completed) == (1, 1, 3 * 512)
    (record,) = result.records
    role = kernels.ROLES[work]
    assert record == Record(role, FIRST_MULTIPROCESSOR + 1, 1, thread, 9, number, word, expected, record.found)
    assert record.found != expected


@pytest.mark.parametrize(("architecture", "work"), TENSOR)
@pytest.mark.parametrize("operand", [OPERAND_A, OPERAND_B])
def test_a_wrong_operand_spoils_its_row_or_column(
    make_card: MakeCard, architecture: int, work: str, operand: int
) -> None:
    """A bit that flips on the way into one mma shows in a row (A) or a column (B) of that one product."""
    card = make_card(architecture)
    shape = SHAPES[architecture][work]
    tile = 9
    card.fault(operand, thread=3, first=4 * TILES * TILES + tile, flip=1 << 3)

    result = card.burn(kernels.ROLES[work], 1)

    assert 0 < result.wrong <= (8 if operand == OPERAND_A else shape.rows)
    assert {record.word // shape.c_registers for record in result.records} == {tile}


@pytest.mark.parametrize(("architecture", "work"), TENSOR)
def test_a_fault_in_every_mma_does_not_cancel(make_card: MakeCard, architecture: int, work: str) -> None:
    """A multiplier that is always wrong the same way, and so right on average as B's sign changes, is found."""
    card = make_card(architecture)
    card.fault(OPERAND_A, thread=17, count=ALWAYS, flip=1 << 2)

    result = card.burn(kernels.ROLES[work], 1)

    assert {record.word // SHAPES[architecture][work].c_registers for record in result.records} <= set(range(16))
    assert result.wrong >= 16 * 4


@pytest.mark.parametrize(("architecture", "work"), [pair for pair in TENSOR if pair[1] != "s8"])
def test_a_nan_in_an_accumulator_is_wrong(make_card: MakeCard, architecture: int, work: str) -> None:
    """A NaN stays one, and its bits are not the golden word's."""
    card = make_card(architecture)
    card.fault(ACCUMULATOR, thread=40, index=2, first=30, becomes=NAN)

    (record,) = card.burn(kernels.ROLES[work] << 4, 1).records

    assert (record.thread, record.word) == (40, (30 % 16) * 4 + 2)
    assert record.found & 0x7F800000 == 0x7F800000


def test_a_wrong_step_of_fma_is_located(card: Card) -> None:
    """One bit of one step of one chain grows until the end, which is that chain's word."""
    card.fault(CHAIN, thread=45, first=128 * 8 + 8 * 20 + 5, flip=1 << 22)  # second round, step 20, chain 5

    (record,) = card.burn(kernels.ROLES["fma"] << 4, 3, launch=2).records

    expected = golden(card, "fma", 1, 5, 13)
    assert record == Record(1, FIRST_MULTIPROCESSOR, 0, 45, 2, 1, 5, expected, record.found)
    assert record.found != expected


def test_an_fma_chain_shows_what_goes_wrong_in_it(make_card: MakeCard) -> None:
    """Any upper bit of any of the first hundred steps, signs aside, changes the end, in all but few tries.

    Not in all: a square forgets its root's sign, and the last bits of a root near 0.
    """
    chance = random.Random(1)  # noqa: S311
    card = make_card(80)
    tries, wrong = 200, 0
    for _ in range(tries):
        step, chain, bit = chance.randrange(100), chance.randrange(8), chance.randrange(10, 31)
        card.fault(CHAIN, thread=chance.randrange(32), first=step * 8 + chain, flip=1 << bit)
        wrong = card.burn(kernels.ROLES["fma"], 1).wrong
    assert wrong >= 0.97 * tries


def test_a_nan_in_a_chain_is_wrong(card: Card) -> None:
    """It stays to the end, and NaN is no answer."""
    card.fault(CHAIN, thread=1, first=8 * 60, becomes=NAN)

    (record,) = card.burn(kernels.ROLES["fma"], 1).records

    assert record.word == 0
    assert record.found & 0x7FC00000 == NAN


def test_a_wrong_word_of_the_stream_is_located(card: Card) -> None:
    """A bit that flips in the buffer between two passes is found once, with its place in all of the buffer."""
    card.give_stream(warps=2, chunks=16)
    roles = kernels.ROLES["stream"] << 4 * 3 | kernels.ROLES["stream"] << 4 * 8
    card.burn(roles, 1)
    word = 16 * 2048 + 5 * 2048 + 3 * 128 + 21 * 4 + 2  # second slice, chunk 5, vector 3 of lane 21, its third word
    right = card.stream[word]
    card.stream[word] ^= 1 << 31

    card.burn(roles, 1, launch=4)
    result = card.burn(roles, 1, launch=5)

    assert (result.wrong, result.claimed) == (1, 1)
    thread = 8 * 32 + 21
    assert result.records == [
        Record(5, FIRST_MULTIPROCESSOR, 0, thread, 4, 0, word, right, right ^ 1 << 31),
    ]


def test_a_wrong_read_of_the_stream_is_found(card: Card) -> None:
    """What is wrong on the bus alone, and right in memory, is wrong all the same."""
    card.give_stream(warps=1, chunks=3)
    card.fault(VECTOR, thread=30, index=1, first=16 * 7 + 9, flip=1)  # chunk 7 is the third pass's second

    (record,) = card.burn(kernels.ROLES["stream"], 1).records

    assert (record.thread, record.word) == (30, 2048 + 9 * 128 + 30 * 4 + 1)
    assert record.expected ^ record.found == 1


def test_the_seventeenth_mismatch_is_counted_and_not_recorded(card: Card) -> None:
    """There is room for sixteen records: more are counted, and what was recorded first stays."""
    card.fault(CHAIN, thread=2, first=127 * 8, count=8, flip=1)  # the last step of all eight chains of a thread
    for launch in range(2):
        result = card.burn(kernels.ROLES["fma"], 1, launch=launch)
    assert (result.wrong, result.claimed, len(result.records)) == (16, 16, 16)
    assert [(record.launch, record.word) for record in result.records] == [(n // 8, n % 8) for n in range(16)]

    after = card.burn(kernels.ROLES["fma"], 1, launch=2)
    assert (after.wrong, after.records) == (24, result.records)
    assert after.claimed >= 16


def test_a_wrong_golden_word_is_found_in_every_warp(card: Card) -> None:
    """A table that lies is no proof of anything: all warps that use the word disagree with it."""
    offset = card.tables[kernels.ROLES["s8"]]
    operands = TILES * sum((SHAPES[card.architecture]["s8"].a_registers, SHAPES[card.architecture]["s8"].b_registers))
    card.tables[offset + operands * 32 + 11] ^= 1

    result = card.burn(kernels.roles("s8", card.capability), 1)

    assert result.wrong == 16
    assert {(record.word, record.thread % 32) for record in result.records} == {(0, 11)}
