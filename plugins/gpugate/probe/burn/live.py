"""What a burn says of its GPUs while it runs: one row a GPU, from whatever the burning process wrote."""

from __future__ import annotations

import math
from typing import Any

from ..reading import printable

_NUMBERS = (
    "index",
    "seconds",
    "temperature_c",
    "below_slowdown_c",
    "power_w",
    "sm_mhz",
    "mismatches",
)
_WORDS = ("uuid", "phase", "rate")
_MOST_WORDS = 64


def row(said: Any) -> dict[str, Any]:
    """The row of one GPU: every number is one or None, every word printable or None."""
    plain = said if isinstance(said, dict) else {}
    return {
        **{name: _number(plain.get(name)) for name in _NUMBERS},
        **{name: _word(plain.get(name)) for name in _WORDS},
    }


def line(gpu: dict[str, Any]) -> str:
    """A row in words."""
    return (
        f"GPU {say(gpu['index'])} ({say(gpu['uuid'])}): {say(gpu['phase'])} {say(gpu['seconds'], '.1f')} s, "
        f"{say(gpu['temperature_c'], 'g')} C, {say(gpu['below_slowdown_c'], 'g')} C below slowdown, "
        f"{say(gpu['power_w'], '.0f')} W, {say(gpu['sm_mhz'], '.0f')} MHz, {say(gpu['rate'])}, "
        f"{say(gpu['mismatches'])} mismatches"
    )


def say(value: Any, form: str = "") -> str:
    """A value in its format; ? for what is not known."""
    return "?" if value is None else format(value, form)


def _number(value: Any) -> int | float | None:
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return value if known else None


def _word(value: Any) -> str | None:
    return printable(value, _MOST_WORDS) if isinstance(value, str) and value else None
