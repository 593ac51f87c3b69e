"""What a burn does: its works, the warps that do them, and how much one round of a warp is."""

from __future__ import annotations

from ...errors import ProbeError
from .abi import CHAINS, PASSES, ROLES, STEPS, STREAM_CHUNK_BYTES, STREAM_CHUNKS, TILES, WARPS_A_BLOCK
from .layouts import LANES
from .operands import SHAPES

# A multiprocessor has four schedulers, and warp w is number w % 4's. So each of them gets two warps of tensor work
# (one computes while the other loads and compares), one of fma and one that streams. The order lets a burn that starts
# with a quarter of the warps use all four, and everything that it adds falls on all four alike.
MIX = ("f16",) * 8 + ("fma",) * 4 + ("stream",) * 4


def architecture(capability: tuple[int, int]) -> int:
    """Which of the two kernels a card runs: 75 or 80, for sm_75 and sm_80. Raises ProbeError for cards before 7.5."""
    if capability < (7, 5):
        raise ProbeError(
            f"the burn-in needs compute capability 7.5 or later (T4 and younger), and this card has"
            f" {capability[0]}.{capability[1]}: leave it out of the burn"
        )
    return 75 if capability < (8, 0) else 80


def works(capability: tuple[int, int]) -> list[str]:
    """The works that a card can do one by one, in the order of their roles."""
    tensor = SHAPES[architecture(capability)]
    return [work for work in ROLES if work in tensor or work in ("fma", "stream")]


def roles(work: str, capability: tuple[int, int]) -> int:
    """The kernel's `roles` for "mix" or for one work on all warps: 4 bits a warp, warp 0's the lowest."""
    architecture(capability)
    warps = MIX if work == "mix" else (_known(work, capability),) * WARPS_A_BLOCK
    return sum(ROLES[name] << 4 * warp for warp, name in enumerate(warps))


def operations(work: str, capability: tuple[int, int]) -> float:
    """What one round of one warp is: operations, a multiply-add being two; for stream, bytes read and written."""
    if _known(work, capability) == "fma":
        return 2.0 * CHAINS * STEPS * LANES
    if work == "stream":
        return 2.0 * STREAM_CHUNKS * STREAM_CHUNK_BYTES
    shape = SHAPES[architecture(capability)][work]
    return 2.0 * PASSES * TILES * TILES * shape.rows * 8 * shape.depth


def _known(work: str, capability: tuple[int, int]) -> str:
    if work not in works(capability):
        raise ProbeError(f"a card of compute capability {capability[0]}.{capability[1]} does not do {work}")
    return work
