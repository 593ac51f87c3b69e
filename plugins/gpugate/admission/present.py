"""What a node is now, from the answer of the module `gpu_probe` with `state: identity`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..report.text import one_line
from .decision import Present


def present_from(result: object) -> Present:
    """The node's identity; whatever is missing, failed or of an unexpected shape is unknown, with its reason."""
    if not isinstance(result, Mapping):
        return Present(problem="the node was not asked which one it is")
    identity = result.get("identity")
    if result.get("unreachable") or result.get("failed") or not isinstance(identity, Mapping):
        said = one_line(str(result.get("msg", "it did not tell which one it is")))[:300]
        return Present(problem=f"the node cannot be reached: {said}" if result.get("unreachable") else said)
    problems: list[str] = []
    uuids = identity.get("gpu_uuids")
    texts = [str(uuid) for uuid in uuids if isinstance(uuid, str) and uuid] if isinstance(uuids, list) else []
    whole = isinstance(uuids, list) and len(texts) == len(uuids) == len(set(texts)) and bool(texts)
    if not whole:
        problems.append(f"its GPUs: {_why(uuids)}")
    machine_id, boot_id = (_text(identity, name, problems) for name in ("machine_id", "boot_id"))
    driver = _text(identity, "driver", problems) if "driver" in identity else ""
    return Present(machine_id, boot_id, frozenset(texts) if whole else None, "; ".join(problems), driver)


def _text(identity: Mapping[str, Any], name: str, problems: list[str]) -> str | None:
    value = identity.get(name)
    if isinstance(value, str) and value:
        return str(value)
    problems.append(f"its {name}: {_why(value)}")
    return None


def _why(value: object) -> str:
    gaps = [value, *value] if isinstance(value, list) else [value]
    reasons = [str(gap["unavailable"]) for gap in gaps if isinstance(gap, Mapping) and "unavailable" in gap]
    return one_line(reasons[0])[:300] if reasons else "the probe did not tell"
