"""Records of evidence from plain JSON data, on the node: what another process wrote is checked against the record."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from ...errors import ProbeError
from ...evidence.facts import Facts, Gap

T = TypeVar("T", bound=Facts)


def restored(kind: type[T], plain: Any, where: str = "the result") -> T:
    """The record that `plain` describes, Gaps and nested records included. ProbeError for anything else."""
    if not isinstance(plain, dict):
        raise ProbeError(f"{where} is no JSON object")
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]  # every record is a dataclass
    if wrong := sorted(set(plain) ^ set(names)):
        raise ProbeError(f"{where} is no {kind.__name__}: missing or unknown {', '.join(wrong)}")
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], plain[name], f"{where}.{name}") for name in names})


def gap_in(plain: Any) -> Gap | None:
    """The Gap that `plain` stands for, if it does."""
    if not isinstance(plain, dict) or plain.keys() != {"unavailable", "code"}:
        return None
    return Gap(str(plain["unavailable"]), plain["code"] if isinstance(plain["code"], int) else None)


def strict(text: str) -> Any:
    """The JSON value in `text`. ValueError also for NaN and infinities, which are no JSON."""
    return json.loads(text, parse_constant=_refuse_constant)


def _value(hint: Any, value: Any, where: str) -> Any:
    kinds, origin = get_args(hint), get_origin(hint)
    if origin is Union:  # a Reading: what it says, or a Gap
        gap = gap_in(value)
        return gap if gap else _value(next(kind for kind in kinds if kind is not Gap), value, where)
    if origin is list and isinstance(value, list):
        return [_value(kinds[0], item, f"{where}[{place}]") for place, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {str(key): _value(kinds[1], item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(hint, type) and issubclass(hint, Facts):
        return restored(hint, value, where)
    if hint is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise ProbeError(f"{where} is {str(value)[:100]!r}, and has to be {getattr(hint, '__name__', hint)}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
