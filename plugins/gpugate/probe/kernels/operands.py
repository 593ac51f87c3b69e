"""The operands of the burn and its golden words, as the kernel reads them.

Words are u32, little-endian. The head has 32:

    word r of 0..7   offset in words of role r's region, a multiple of 32; 0 where the role needs none
    word 8           0x80008000: the sign bits of two 16-bit numbers
    word 9           PASSES

A region is SETS sets, one after the other; a set is rows of 32 words, word l of a row being lane l's:

    f16, bf16, s8    TILES * a rows:          register r of A_i in row i * a + r
                     TILES * b rows:          register r of B_j in row j * b + r of these
                     TILES * TILES * c rows:  register r of the golden C_ij in row (i * TILES + j) * c + r of these
    fma              CHAINS rows: the chains' starts; CHAINS rows: their golden ends; one row: the lane's addend

with a, b, c the registers of the fragments (layouts.py says which element is where; two 16-bit or four 8-bit elements
a register, the first in the low bits). C_ij is A_i x B_j as FP32 for f16 and bf16, and PASSES * A_i x B_j mod 2**32
for s8. A chain is y = fma(y, y, addend), STEPS times.

No golden word is 0, so that a result which was never computed cannot pass. Operands are pseudo-random, so that all
bits of the multipliers work, and the same on every node. For f16, |a| is 1024 to 2047 and |b| 64 to 127, for bf16 both
are 128 to 255: a product is an integer below 2**18, and whatever is summed of the 16 that make one element, on top of
an accumulator that holds twice as much, is below 2**24, where FP32 has every integer: no order of summation rounds
anything.
"""

from __future__ import annotations

import hashlib
import struct

from .abi import CHAINS, PASSES, ROLES, SETS, STEPS, TILES
from .golden import Matrix, f32_bits, fma_chain, product
from .layouts import LANES, M8N8K16, M16N8K8, M16N8K16, M16N8K32, Shape

HEAD_WORDS = 32
SIGNS_WORD, SIGNS = 8, 0x80008000
PASSES_WORD = 9

SHAPES = {
    75: {"f16": M16N8K8, "s8": M8N8K16},
    80: {"f16": M16N8K16, "bf16": M16N8K16, "s8": M16N8K32},
}
_LEAST = {"f16": (1024, 64), "bf16": (128, 128)}  # |a| and |b| are this or more, and less than twice as much


def build(architecture: int) -> bytes:
    """The tables for the kernel of sm_75 or sm_80."""
    head = [0] * HEAD_WORDS
    head[SIGNS_WORD], head[PASSES_WORD] = SIGNS, PASSES
    body: list[int] = []
    for work in ("fma", *SHAPES[architecture]):
        head[ROLES[work]] = HEAD_WORDS + len(body)
        for number in range(SETS):
            body += _set(work, SHAPES[architecture].get(work), number)
    return struct.pack(f"<{HEAD_WORDS + len(body)}I", *head, *body)


def _set(work: str, shape: Shape | None, number: int) -> list[int]:
    """The words of one set: the first draw in which no golden word is 0."""
    attempt = 0
    while True:
        label = f"{work} {number} {attempt}"
        operands, golden, more = _tensor(work, shape, label) if shape else _fma(label)
        if 0 not in golden:
            return operands + golden + more
        attempt += 1


def _fma(label: str) -> tuple[list[int], list[int], list[int]]:
    """Chains of y * y - c with c in 1.9375 to 2: chaotic there, and no start between -1 and 1 ever leaves -2 to 2."""
    starts = [0x3F000000 | word & 0x807FFFFF for word in _draw(f"{label} starts", CHAINS * LANES)]
    addends = [0xBFF80000 | word & 0x0007FFFF for word in _draw(f"{label} addends", LANES)]
    ends = fma_chain(_floats(starts), _floats(addends) * CHAINS, STEPS)
    return starts, [f32_bits(end) for end in ends], addends


def _tensor(work: str, shape: Shape, label: str) -> tuple[list[int], list[int], list[int]]:
    a = [_matrix(work, 0, shape.rows, shape.depth, f"{label} a{i}") for i in range(TILES)]
    b = [_matrix(work, 1, shape.depth, 8, f"{label} b{j}") for j in range(TILES)]
    operands = [
        _packed(work, [matrix[row][column] for row, column in elements])
        for matrices, fragment in ((a, shape.a_fragment()), (b, shape.b_fragment()))
        for matrix in matrices
        for elements in fragment
    ]
    golden = [
        _golden(work, c[row][column])
        for c in (product(left, right) for left in a for right in b)
        for row, column in shape.c_fragment()
    ]
    return operands, golden, []


def _matrix(work: str, side: int, rows: int, columns: int, label: str) -> Matrix:
    """Random operands: signed numbers of the work's size, A's (side 0) or B's."""
    words = _draw(label, rows * columns)
    if work == "s8":
        numbers = [(word & 0xFF) - 128 for word in words]
    else:
        least = _LEAST[work][side]
        numbers = [(least | word & (least - 1)) * (-1 if word >> 31 else 1) for word in words]
    return [numbers[row * columns : (row + 1) * columns] for row in range(rows)]


def _packed(work: str, numbers: list[int]) -> int:
    """One register: two or four elements, the first in the low bits."""
    if work == "s8":
        return int.from_bytes(struct.pack("4b", *numbers), "little")
    if work == "f16":
        return int.from_bytes(struct.pack("<2e", *numbers), "little")
    low, high = (f32_bits(number) >> 16 for number in numbers)  # bf16 is the upper half of FP32
    return low | high << 16


def _golden(work: str, element: int) -> int:
    return PASSES * element & 0xFFFFFFFF if work == "s8" else f32_bits(element)


def _floats(words: list[int]) -> list[float]:
    return list(struct.unpack(f"<{len(words)}f", struct.pack(f"<{len(words)}I", *words)))


def _draw(label: str, count: int) -> list[int]:
    """`count` random words, always the same for a label, on every Python."""
    return list(struct.unpack(f"<{count}I", hashlib.shake_128(label.encode()).digest(4 * count)))
