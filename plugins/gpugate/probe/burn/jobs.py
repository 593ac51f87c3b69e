"""What a burn queues on a GPU: one job is one launch, with the phase of the burn and the work that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

RAMP, MIX, RATES, MEMORY = "ramp", "mix", "rates", "memory"  # phases, in their order
# Device time that a launch should take: a sample each, 10.5 Hz.
LAUNCH_S = 0.095
# A pattern is its kind (see `kernels`) and its seed.
Pattern = tuple[int, int]


@dataclass(frozen=True)
class Compute:
    """Let each warp do its role for LAUNCH_S."""

    phase: str
    roles: int


@dataclass(frozen=True)
class Fill:
    """Share the stream buffer out among the stream warps of `roles`, and fill it."""

    phase: str
    roles: int


@dataclass(frozen=True)
class Sweep:
    """Go over a part of the memory under test: compare with one pattern, write another.

    `offset`: bytes from the start of the tested memory; `base`: the part's address.
    """

    phase: str
    base: int
    offset: int
    size: int
    expect: Pattern
    write: Pattern
    descending: bool

    @property
    def moved(self) -> int:
        """Bytes read and written."""
        return self.size * ((self.expect[0] != 0) + (self.write[0] != 0))


Job = Union[Compute, Fill, Sweep]
