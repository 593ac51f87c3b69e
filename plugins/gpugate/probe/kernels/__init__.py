"""Device code and the host's own knowledge of what it must answer."""

from __future__ import annotations

import functools
import pkgutil

from ...errors import ProbeError

BURN = "gpugate_burn"
FLOP_PER_STEP = 16  # eight fused multiply-adds a thread and iteration
RESULT_WORDS = 5  # threads completed, threads wrong, first wrong thread + 1, expected bits, found bits

MULTIPLIER, INCREMENT = 1664525, 1013904223
_WORD = 0xFFFFFFFF


def burn_ptx() -> bytes:
    """The text of the burn-in kernel, from the package or the zipapp that it travels in."""
    text = pkgutil.get_data(__name__, "burn.ptx")
    if text is None:
        raise ProbeError("the probe was packed without its kernel burn.ptx: build the zipapp anew")
    return text


@functools.lru_cache(maxsize=256)
def golden(iterations: int) -> tuple[int, int]:
    """(m, a) with x_n = x_0 * m + a mod 2^32 after `iterations` steps of the kernel's generator.

    By repeated squaring of the step, so in some 20 multiplications and not in a million: another way to the answer
    than the kernel's, on another processor.
    """
    multiplier, increment = 1, 0
    step_multiplier, step_increment = MULTIPLIER, INCREMENT
    while iterations:
        if iterations & 1:
            multiplier, increment = multiplier * step_multiplier, increment * step_multiplier + step_increment
        step_multiplier, step_increment = step_multiplier**2, step_increment * (step_multiplier + 1)
        step_multiplier, step_increment = step_multiplier & _WORD, step_increment & _WORD
        multiplier, increment = multiplier & _WORD, increment & _WORD
        iterations >>= 1
    return multiplier, increment
