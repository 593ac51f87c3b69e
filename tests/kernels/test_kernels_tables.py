"""Tables: golden words by another way each, layouts against a second source, the bounds that make sums exact."""

from __future__ import annotations

import itertools
import random
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import gpugate
import pytest
from gpugate.errors import ProbeError
from gpugate.probe import kernels
from gpugate.probe.kernels import abi, golden, layouts, operands
from gpugate.probe.kernels.abi import CHAINS, PASSES, SETS, STEPS, TILES
from gpugate.probe.kernels.layouts import Shape

M32 = 0xFFFFFFFF
TENSOR = [(number, work) for number, works in operands.SHAPES.items() for work in works]
CAPABILITY = {75: (7, 5), 80: (8, 0)}


def region(architecture: int, work: str, rows: int) -> list[list[list[int]]]:
    """A role's region as operands.py describes it: for each set its rows of 32 words."""
    packed = kernels.tables(CAPABILITY[architecture])
    words = struct.unpack(f"<{len(packed) // 4}I", packed)
    start = words[kernels.ROLES[work]]
    assert start % 32 == 0
    assert start >= operands.HEAD_WORDS
    flat = words[start : start + SETS * rows * 32]
    return [[list(flat[(s * rows + row) * 32 : (s * rows + row + 1) * 32]) for row in range(rows)] for s in range(SETS)]


def unpacked(work: str, word: int) -> list[int]:
    """The whole numbers in one register of an operand."""
    if work == "s8":
        return list(struct.unpack("<4b", word.to_bytes(4, "little")))
    if work == "f16":
        numbers = struct.unpack("<2e", word.to_bytes(4, "little"))
    else:
        numbers = struct.unpack("<2f", struct.pack("<2I", (word & 0xFFFF) << 16, word & 0xFFFF0000))
    assert all(number == int(number) for number in numbers)
    return [int(number) for number in numbers]


def cute(shape: tuple[int, ...], strides: tuple[int, ...], index: int) -> int:
    """CuTe's way to write a layout: the index's mixed-radix digits, lowest first, each times its stride."""
    total = 0
    for size, stride in zip(shape, strides, strict=True):
        index, digit = divmod(index, size)
        total += digit * stride
    return total


# CUTLASS' MMA_Traits (include/cute/atom/mma_traits_sm75.hpp, _sm80.hpp): value digits and their strides after the
# thread's (4, 8); the offset counts columns of A (M x K), of B seen as N x K, and of C (M x N).
C_16X8 = ((32, 1), (2, 2), (16, 8))
TRAITS = {
    layouts.M16N8K16: (((32, 1), (2, 2, 2), (16, 8, 128)), ((16, 1), (2, 2), (8, 64)), C_16X8),
    layouts.M16N8K32: (((64, 1), (4, 2, 2), (16, 8, 256)), ((32, 1), (4, 2), (8, 128)), C_16X8),
    layouts.M16N8K8: (((32, 1), (2, 2), (16, 8)), ((16, 1), (2,), (8,)), C_16X8),
    layouts.M8N8K16: (((32, 1), (4,), (8,)), ((32, 1), (4,), (8,)), ((16, 1), (2,), (8,))),
}


@pytest.mark.parametrize("shape", TRAITS, ids=lambda shape: f"m{shape.rows}n8k{shape.depth}")
def test_layouts_are_cutlass_traits(shape: Shape) -> None:
    """Each lane's elements lie where NVIDIA's own library of templates has them."""
    for name, (thread, sizes, strides) in zip("abc", TRAITS[shape], strict=True):
        height = 8 if name == "b" else shape.rows
        if name == "c":
            fragment = [[element] for element in shape.c_fragment()]
        else:
            fragment = shape.a_fragment() if name == "a" else shape.b_fragment()
        for place, elements in enumerate(fragment):
            register, lane = divmod(place, 32)
            for part, (row, column) in enumerate(elements):
                value = register * len(elements) + part
                offset = cute((4, 8), thread, lane) + cute(sizes, strides, value)
                assert (offset % height, offset // height) == ((column, row) if name == "b" else (row, column))


@pytest.mark.parametrize("shape", TRAITS, ids=lambda shape: f"m{shape.rows}n8k{shape.depth}")
def test_fragments_cover_their_matrices(shape: Shape) -> None:
    """Every element of A, B and C is in exactly one place."""
    a = list(itertools.chain(*shape.a_fragment()))
    b = list(itertools.chain(*shape.b_fragment()))
    assert sorted(a) == list(itertools.product(range(shape.rows), range(shape.depth)))
    assert sorted(b) == list(itertools.product(range(shape.depth), range(8)))
    assert sorted(shape.c_fragment()) == list(itertools.product(range(shape.rows), range(8)))


@pytest.mark.parametrize(("architecture", "work"), TENSOR)
def test_golden_words_are_the_operands_products(architecture: int, work: str) -> None:
    """Unpacked and multiplied one by one, the operands give the golden words; none is 0, and no sum can round."""
    shape = operands.SHAPES[architecture][work]
    a_rows, b_rows = TILES * shape.a_registers, TILES * shape.b_registers
    for rows in region(architecture, work, a_rows + b_rows + TILES * TILES * shape.c_registers):
        a = [matrix(work, rows[i * shape.a_registers :], shape.a_fragment()) for i in range(TILES)]
        b = [matrix(work, rows[a_rows + j * shape.b_registers :], shape.b_fragment()) for j in range(TILES)]
        for i, j in itertools.product(range(TILES), range(TILES)):
            first = a_rows + b_rows + (i * TILES + j) * shape.c_registers
            for place, (row, column) in enumerate(shape.c_fragment()):
                terms = [a[i][row, k] * b[j][k, column] for k in range(shape.depth)]
                word = rows[first + place // 32][place % 32]
                assert word != 0
                if work == "s8":
                    assert word == PASSES * sum(terms) & M32
                else:
                    assert struct.unpack("<f", struct.pack("<I", word))[0] == sum(terms)
                    # Whatever part of the terms is added first, to whatever of them an accumulator can hold:
                    assert 2 * abs(sum(terms)) + sum(map(abs, terms)) < 1 << 24


def matrix(work: str, rows: list[list[int]], fragment: list[list[tuple[int, int]]]) -> dict[tuple[int, int], int]:
    """A fragment's elements by (row, column)."""
    found: dict[tuple[int, int], int] = {}
    for place, elements in enumerate(fragment):
        found.update(zip(elements, unpacked(work, rows[place // 32][place % 32]), strict=True))
    return found


@pytest.mark.parametrize(("architecture", "work"), TENSOR)
def test_operands_use_their_whole_range(architecture: int, work: str) -> None:
    """Both signs, the smallest and the largest size, and every bit of the mantissa both ways."""
    shape = operands.SHAPES[architecture][work]
    a_rows, b_rows = TILES * shape.a_registers, TILES * shape.b_registers
    bounds = {"f16": ((1024, 2047), (64, 127)), "bf16": ((128, 255), (128, 255)), "s8": ((0, 128), (0, 128))}[work]
    sets = region(architecture, work, a_rows + b_rows + TILES * TILES * shape.c_registers)
    for (least, most), start, count in ((bounds[0], 0, a_rows), (bounds[1], a_rows, b_rows)):
        words = itertools.chain(*(row for rows in sets for row in rows[start : start + count]))
        numbers = [number for word in words for number in unpacked(work, word)]
        sizes = [abs(number) for number in numbers]
        assert least <= min(sizes)
        assert max(sizes) <= most
        assert 0.4 < sum(number < 0 for number in numbers) / len(numbers) < 0.6
        assert all(0.4 < sum(size >> bit & 1 for size in sizes) / len(sizes) < 0.6 for bit in range(6))


def test_fma_ends_are_exact_steps() -> None:
    """With fractions, each step rounded once by hand: the golden ends, no NaN, no 0, nothing beyond -2 to 2."""
    for rows in region(80, "fma", 2 * CHAINS + 1)[:1]:
        for chain, lane in itertools.product(range(CHAINS), range(0, 32, 7)):
            y, addend = as_fraction(rows[chain][lane]), as_fraction(rows[2 * CHAINS][lane])
            assert -2 < addend <= Fraction(-31, 16)
            for _ in range(STEPS):
                y = rounded(y * y + addend)
                assert abs(y) < 2
            end = rows[CHAINS + chain][lane]
            assert end != 0
            assert as_fraction(end) == y


@pytest.mark.parametrize("architecture", [75, 80])
def test_fma_ends_are_the_processor_s(architecture: int) -> None:
    """All chains of all sets end where the exact arithmetic of one step after another ends, by chains of one step."""
    for rows in region(architecture, "fma", 2 * CHAINS + 1):
        flat = list(itertools.chain(*rows))
        floats = list(struct.unpack(f"<{len(flat)}f", struct.pack(f"<{len(flat)}I", *flat)))
        values, addends = floats[: CHAINS * 32], floats[2 * CHAINS * 32 :] * CHAINS
        for _ in range(STEPS):
            values = golden.fma_chain(values, addends, 1)
        assert values == floats[CHAINS * 32 : 2 * CHAINS * 32]


def test_fma_rounds_inexact_doubles_right() -> None:
    """Small roots, whose squares reach far below the last bit of a double near 2, give what fractions give."""
    chance = random.Random(3)  # noqa: S311
    inexact = 0
    while inexact < 1000:
        y = as_float(chance.randrange(100 << 23, 124 << 23))
        addend = -as_float(0x3FF80000 | chance.randrange(1 << 19))
        inexact += Fraction(y * y + addend) != Fraction(y) ** 2 + Fraction(addend)
        (got,) = golden.fma_chain([y], [addend], 1)
        assert Fraction(got) == rounded(Fraction(y) ** 2 + Fraction(addend))


@pytest.mark.parametrize(
    ("root", "addend"),
    [
        (1 + 2.0**-12, 2.0**-60),  # a hair beyond the middle of two FP32 numbers, which a double does not see
        (1 + 2.0**-12, -(2.0**-60)),
        (1 + 3 * 2.0**-12, 2.0**-60),
        (1 + 3 * 2.0**-12, -(2.0**-60)),
        (1 + 2.0**-12, 0.0),  # in the middle: to the even one
        (1 + 3 * 2.0**-12, 0.0),
        (2.0**-12, -1.5),
        (2.0**-12, -(1.5 + 2.0**-23)),
        (2.0**-12 * (1 + 2.0**-23), -1.5),
    ],
)
def test_fma_rounds_once(root: float, addend: float) -> None:
    """Rounding to a double first would go to the wrong side of a middle that the exact sum only nearly hits."""
    (got,) = golden.fma_chain([root], [addend], 1)
    assert Fraction(got) == rounded(Fraction(root) ** 2 + Fraction(addend))


def as_float(bits: int) -> float:
    """The number that FP32 bits stand for."""
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


def as_fraction(bits: int) -> Fraction:
    """The same, exactly."""
    return Fraction(as_float(bits))


def rounded(exact: Fraction) -> Fraction:
    """To the nearest of the FP32 numbers, ties to even, with whole numbers alone."""
    if exact == 0:
        return exact
    size, exponent = abs(exact), 0
    while size * Fraction(2) ** -exponent >= 1 << 24:
        exponent += 1
    while size * Fraction(2) ** -exponent < 1 << 23 and exponent > -149:
        exponent -= 1
    units = round(size * Fraction(2) ** -exponent)  # Fraction rounds ties to even
    return units * Fraction(2) ** exponent * (1 if exact > 0 else -1)


def test_tables_are_the_same_on_every_python() -> None:
    """Nothing in them depends on the process: another one, with other hashing, gets the same bytes."""
    program = "import sys; from gpugate.probe import kernels as k; sys.stdout.buffer.write(k.tables((9, 0)))"
    root = Path(gpugate.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        timeout=60,
        env={"PYTHONPATH": str(root), "PYTHONHASHSEED": "7"},
    )
    assert done.stdout == kernels.tables((12, 0))


def test_head_of_the_tables() -> None:
    """Offsets of the roles that have a region, 0 for the others, then the signs and the passes."""
    for capability, without in (((7, 5), [0, 3, 5, 6, 7]), ((10, 0), [0, 5, 6, 7])):
        head = struct.unpack(f"<{operands.HEAD_WORDS}I", kernels.tables(capability)[: 4 * operands.HEAD_WORDS])
        assert [role for role in range(8) if head[role] == 0] == without
        assert head[8:10] == (0x80008000, 25)
        assert set(head[10:]) == {0}


def test_works_and_roles() -> None:
    """The works of a card, each alone on 16 warps, and the mix: mostly f16, with fma and stream on every scheduler."""
    assert kernels.works((7, 5)) == ["fma", "f16", "s8", "stream"]
    assert kernels.works((8, 6)) == ["fma", "f16", "bf16", "s8", "stream"]
    assert kernels.roles("bf16", (8, 0)) == 0x3333333333333333
    mix = kernels.roles("mix", (9, 0))
    assert kernels.roles("mix", (7, 5)) == mix
    for scheduler in range(4):
        warps = [mix >> 4 * warp & 15 for warp in range(scheduler, 16, 4)]
        assert sorted(warps) == sorted(kernels.ROLES[work] for work in ("f16", "f16", "fma", "stream"))


@pytest.mark.parametrize(
    "ask",
    [
        lambda: kernels.ptx((7, 0)),
        lambda: kernels.tables((6, 1)),
        lambda: kernels.works((5, 2)),
        lambda: kernels.roles("mix", (7, 2)),
        lambda: kernels.operations("fma", (7, 0)),
    ],
)
def test_old_cards_are_refused(ask: object) -> None:
    """A card before 7.5 gets a sentence that says what it is and what to do."""
    assert callable(ask)
    with pytest.raises(ProbeError, match=r"compute capability 7\.5 or later .* this card has \d\.\d: leave it out"):
        ask()


def test_works_that_a_card_lacks_are_refused() -> None:
    """bf16 on Turing, and words that are no work."""
    with pytest.raises(ProbeError, match=r"7\.5 does not do bf16"):
        kernels.roles("bf16", (7, 5))
    with pytest.raises(ProbeError, match="does not do mix"):
        kernels.operations("mix", (9, 0))


def test_chunk_is_what_a_warp_takes() -> None:
    """A chunk is 32 lanes' 16 vectors of 16 bytes."""
    assert abi.STREAM_CHUNK_BYTES == 32 * 16 * 16
