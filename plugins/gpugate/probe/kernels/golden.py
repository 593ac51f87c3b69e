"""What a right device answers, computed here another way: products of integers, and FP32's fma out of doubles."""

from __future__ import annotations

import math
import struct
from array import array

Matrix = list[list[int]]


def product(a: Matrix, b: Matrix) -> Matrix:
    """A x B, exactly."""
    columns = list(zip(*b))
    return [[sum(map(int.__mul__, row, column)) for column in columns] for row in a]


def fma_chain(starts: list[float], addends: list[float], steps: int) -> list[float]:
    """y = fma(y, y, addend) `steps` times for each start, each step rounded once, to the nearest FP32, ties to even."""
    values = starts
    for _ in range(steps):
        # array("f") rounds a double to FP32 in C; what it is given is such that this is the only rounding that counts.
        values = array("f", map(_square_plus, values, addends)).tolist()
    return values


def _square_plus(y: float, addend: float) -> float:
    """y * y + addend in a double whose rounding to FP32 is the exact sum's; y and addend are FP32 numbers.

    The square has 48 bits, so it is exact. The sum may not be: then it becomes the odd one of the two doubles around
    the exact sum (rounding to odd), which lies on the same side of every FP32 number and of every middle between two.
    """
    square = y * y
    total = square + addend
    tail = total - square
    lost = (square - (total - tail)) + (addend - tail)  # what rounding took away, exactly (Knuth's two-sum)
    if lost and not _bits(total) & 1:
        return math.nextafter(total, math.copysign(math.inf, lost))
    return total


def _bits(number: float) -> int:
    return int(struct.unpack("<q", struct.pack("<d", number))[0])


def f32_bits(number: float) -> int:
    """The bits of a number that FP32 holds."""
    return int(struct.unpack("<I", struct.pack("<f", number))[0])
