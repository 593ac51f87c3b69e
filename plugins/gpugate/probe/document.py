"""The record as a document: printable throughout, and under the cap whatever the node holds."""

from __future__ import annotations

import json
from typing import Any

from ..errors import EvidenceError
from ..evidence.facts import to_json
from ..evidence.frame import MAX_DOCUMENT_BYTES
from ..evidence.types import Evidence
from .reading import printable


def serialise(evidence: Evidence) -> bytes:
    """The JSON document. Over the cap it gives up, in this order and saying so: old lines of the kernel log, the
    workloads, the GPUs' process lists. Raises EvidenceError where that is not enough."""
    plain = _clean(to_json(evidence))
    for lose in (_nothing, _log_lines, _log_lines, _log_lines, _log_lines, _workloads, _processes):
        lose(plain)
        document = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
        if len(document) <= MAX_DOCUMENT_BYTES:
            return document
    raise EvidenceError(f"the document has {len(document)} bytes, over the cap of {MAX_DOCUMENT_BYTES}")


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): _clean(item) for key, item in value.items()}
    return value


def _nothing(plain: dict[str, Any]) -> None:
    """The first attempt is the whole document."""


def _log_lines(plain: dict[str, Any]) -> None:
    log = plain["kernel_log"]
    if log.get("lines"):
        log["lines"] = log["lines"][(len(log["lines"]) + 1) // 2 :]
        log["truncated"] = True


def _workloads(plain: dict[str, Any]) -> None:
    plain["workloads"] = _too_long()


def _processes(plain: dict[str, Any]) -> None:
    for gpu in plain["gpus"] if isinstance(plain["gpus"], list) else []:
        gpu["processes"] = _too_long()


def _too_long() -> dict[str, Any]:
    return {"unavailable": f"left out: the document would be over its cap of {MAX_DOCUMENT_BYTES} bytes", "code": None}
