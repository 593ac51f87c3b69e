"""Which element of a matrix lies in which lane's register, for the `mma.sync` shapes that the kernels use.

The formulas are the PTX ISA's (section "Matrix multiply-accumulate operation using mma instruction", one figure for
each shape), written as one: they differ only in the elements a register and in the registers of a fragment. In all of
them lane = 4 * group + member; A is 16 or 8 rows of K columns, B is K rows of 8 columns, C is as high as A and 8 wide.
"""

from __future__ import annotations

import dataclasses

LANES = 32
_LANES = [divmod(lane, 4) for lane in range(LANES)]  # (group, member)


@dataclasses.dataclass(frozen=True)
class Shape:
    """One `mma.sync`: C (rows x 8) += A (rows x depth) * B (depth x 8), `packed` elements of A or B a register."""

    rows: int
    depth: int
    packed: int

    @property
    def a_registers(self) -> int:
        """Registers of A's fragment in each lane."""
        return self.rows * self.depth // self.packed // LANES

    @property
    def b_registers(self) -> int:
        """Registers of B's fragment in each lane."""
        return self.depth * 8 // self.packed // LANES

    @property
    def c_registers(self) -> int:
        """Registers of C's fragment in each lane; each holds one element."""
        return self.rows * 8 // LANES

    def a_fragment(self) -> list[list[tuple[int, int]]]:
        """A's (row, column) in each part of a register, low bits first; register by register, in each all 32 lanes."""
        return [
            [(group + register % self._heights * 8, self._k(register // self._heights, member, p)) for p in self._parts]
            for register in range(self.a_registers)
            for group, member in _LANES
        ]

    def b_fragment(self) -> list[list[tuple[int, int]]]:
        """B's (row, column), in the same order."""
        return [
            [(self._k(register, member, part), group) for part in self._parts]
            for register in range(self.b_registers)
            for group, member in _LANES
        ]

    def c_fragment(self) -> list[tuple[int, int]]:
        """C's (row, column), in the same order; a register holds one element."""
        return [
            (group + 8 * (register // 2), member * 2 + register % 2)
            for register in range(self.c_registers)
            for group, member in _LANES
        ]

    def _k(self, step: int, member: int, part: int) -> int:
        return (step * 4 + member) * self.packed + part

    @property
    def _heights(self) -> int:
        return self.rows // 8

    @property
    def _parts(self) -> range:
        return range(self.packed)


M16N8K16 = Shape(rows=16, depth=16, packed=2)  # f16 and bf16, from sm_80
M16N8K32 = Shape(rows=16, depth=32, packed=4)  # s8, from sm_80
M16N8K8 = Shape(rows=16, depth=8, packed=2)  # f16, from sm_75
M8N8K16 = Shape(rows=8, depth=16, packed=4)  # s8, from sm_75
