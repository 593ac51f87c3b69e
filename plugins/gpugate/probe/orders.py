"""Reading what the controller asks: strict, so that a misspelt wish is an error and never a default."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Callable, NoReturn

from ..errors import ProbeError
from ..evidence.request import MIX, MOST_S, WORKS, BurnRequest, ProbeRequest, WorkloadPattern

_MAX_TEXT = 1024
_MAX_WORKLOADS = 256
Check = Callable[[str, Any], Any]


def plain(text: str) -> Any:
    """The JSON value in `text`. Raises ProbeError, also for a key that stands twice and for NaN."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProbeError(f"the request is not JSON: {error}") from error


def probe_request(text: str) -> ProbeRequest:
    """The request in a JSON document. Raises ProbeError naming the first key that is wrong."""
    given = members(
        "the request",
        plain(text),
        {"nonce": words, "profile": words},
        {
            "launch": flag,
            "burn": _burn,
            "workloads": _workloads,
            "deadline_s": seconds,
            "allocate_bytes": size,
            "reserve_bytes": size,
            "wait_s": _wait,
        },
    )
    return ProbeRequest(**given)


def members(where: str, value: Any, required: Mapping[str, Check], optional: Mapping[str, Check]) -> dict[str, Any]:
    """An object's members, each checked. Raises ProbeError for an unknown, a missing and a wrong one."""
    if not isinstance(value, dict):
        raise ProbeError(f"{where} is no JSON object")
    known = {**required, **optional}
    for key in value:
        if key not in known:
            raise ProbeError(f"{where} has an unknown key {key!r}; known are {', '.join(known)}")
    for key in required:
        if key not in value:
            raise ProbeError(f"{where} lacks {key!r}")
    return {key: known[key](f"{where}: {key}", member) for key, member in value.items()}


def words(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value or len(value) > _MAX_TEXT or not value.isprintable():
        raise ProbeError(f"{where} must be printable text of 1 to {_MAX_TEXT} characters")
    return value


def flag(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ProbeError(f"{where} must be true or false, not {value!r}")
    return value


def count(where: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ProbeError(f"{where} must be a whole number from 1 on, not {value!r}")
    return value


def size(where: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ProbeError(f"{where} must be a number of bytes from 0 on, not {value!r}")
    return value


def share(where: str, value: Any) -> float:
    if not 0 <= number(where, value) <= 1:
        raise ProbeError(f"{where} must be from 0 to 1, not {value!r}")
    return float(value)


def number(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ProbeError(f"{where} must be a number, not {value!r}")
    return float(value)


def positive(where: str, value: Any) -> float:
    if number(where, value) <= 0:
        raise ProbeError(f"{where} must be above 0, not {value!r}")
    return float(value)


def _wait(where: str, value: Any) -> float | None:
    if value is None:
        return None
    if number(where, value) < 0:
        raise ProbeError(f"{where} must not be below 0, but is {value!r}")
    return float(value)


def seconds(where: str, value: Any) -> float:
    if positive(where, value) > MOST_S:
        raise ProbeError(f"{where} must be at most {MOST_S:g} s, not {value!r}")
    return float(value)


def burn_request(where: str, value: Any) -> BurnRequest:
    """How to burn, from plain JSON data. Raises ProbeError naming the first key that is wrong."""
    times: dict[str, Check] = {"min_s": seconds, "max_s": seconds, "deadline_s": seconds}
    bounds: dict[str, Check] = {"headroom_c": number, "abort_below_slowdown_c": number}
    wishes: dict[str, Check] = {"work": _work, "memory_share": share, "fatal": _fatal}
    request = BurnRequest(**members(where, value, {**times, **bounds}, wishes))
    if request.min_s > request.max_s:
        raise ProbeError(f"{where}: min_s {request.min_s:g} is above max_s {request.max_s:g}")
    return request


def _burn(where: str, value: Any) -> BurnRequest | None:
    return None if value is None else burn_request(where, value)


def _work(where: str, value: Any) -> str:
    known = [MIX, *(work for work in WORKS if work != "memory")]
    if value not in known:
        raise ProbeError(f"{where} must be one of {', '.join(known)}, not {value!r}")
    return str(value)


def _fatal(where: str, value: Any) -> list[str]:
    if not isinstance(value, list) or any(work not in WORKS for work in value):
        raise ProbeError(f"{where} must be a list of {', '.join(WORKS)}, not {value!r}")
    return list(value)


def _workloads(where: str, value: Any) -> list[WorkloadPattern]:
    if not isinstance(value, list) or len(value) > _MAX_WORKLOADS:
        raise ProbeError(f"{where} must be a list of {_MAX_WORKLOADS} at most")
    required: dict[str, Check] = {"name": words, "pattern": words}
    return [WorkloadPattern(**members(f"{where}[{i}]", item, required, {})) for i, item in enumerate(value)]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
