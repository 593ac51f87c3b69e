"""Documents to records and back, on the controller. What a node sends is hostile until it has passed here."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..errors import EvidenceError
from .facts import to_json
from .frame import MAX_DOCUMENT_BYTES
from .types import SCHEMA, Evidence

RECEIPTS = "gathered"  # among the documents by host: how all of them came, so that no host can have this name
_MAX_DEPTH, _MAX_ITEMS, _MAX_TEXT = 12, 4096, 4096
_LONG = re.compile(rb'"[^"]{%d}' % (_MAX_TEXT + 1))
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _adapter() -> TypeAdapter[Evidence]:
    # Every record is a plain dataclass for the node's sake; strictness is the reader's, and set here once.
    from . import facts, types

    for kind in [*list(vars(types).values()), facts.Gap]:
        if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__"):
            kind.__pydantic_config__ = _STRICT  # type: ignore[attr-defined]  # pydantic's documented hook
    return TypeAdapter(Evidence)


_EVIDENCE = _adapter()


def parse(document: bytes) -> Evidence:
    """The evidence in a JSON document; raises EvidenceError naming the first things that are wrong with it."""
    if len(document) > MAX_DOCUMENT_BYTES:
        raise EvidenceError(f"the document has {len(document)} bytes, over the cap of {MAX_DOCUMENT_BYTES}")
    try:
        plain = json.loads(document, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise EvidenceError(f"the document is not JSON: {error}") from error
    if not _is_plain(document):
        _check_shape(plain, 0, "document")
    if not isinstance(plain, dict) or plain.get("schema") != SCHEMA:
        told = plain.get("schema") if isinstance(plain, dict) else None
        raise EvidenceError(f"the document has schema {told!r}, this controller reads {SCHEMA}: re-provision the probe")
    try:
        evidence = _EVIDENCE.validate_json(document)
    except ValidationError as error:
        _check_shape(plain, 0, "document")  # says better what is wrong, where that is wrong too
        raise EvidenceError(
            f"the document does not fit schema {SCHEMA}: {_sentence(error)}; re-provision the probe"
        ) from error
    _check_names(evidence)
    return evidence


def serialise(evidence: Evidence) -> bytes:
    """The canonical document of a record: sorted keys, no spaces, UTF-8."""
    return json.dumps(to_json(evidence), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def json_schema() -> dict[str, Any]:
    """The JSON Schema that documents are validated against."""
    schema = _EVIDENCE.json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = f"gpugate evidence, schema {SCHEMA}"
    return schema


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _is_plain(document: bytes) -> bool:
    """Whether the bytes alone show that `_check_shape` would find nothing, as they do for nearly every document.

    Without escapes a text ends at the next quote, so a stretch without quotes is longer than any text in it; bytes
    from 0x20 to 0x7e are printable, and JSON itself forbids those below in texts; no list or object has more items
    than the document has commas and one. Nesting is left to the schema, which ends long before the deepest level.
    """
    return (
        document.isascii()
        and not any(unusual in document for unusual in (b"\\", b"\x7f"))
        and document.count(b",") < _MAX_ITEMS
        and _LONG.search(document) is None
    )


def _check_shape(value: Any, depth: int, where: str) -> None:
    if depth > _MAX_DEPTH:
        raise EvidenceError(f"{where} is nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, str):
        if len(value) > _MAX_TEXT:
            raise EvidenceError(f"{where} holds a text of {len(value)} characters, over {_MAX_TEXT}")
        if not value.isprintable():
            raise EvidenceError(f"{where} holds control characters")
    elif isinstance(value, (list, dict)):
        if len(value) > _MAX_ITEMS:
            raise EvidenceError(f"{where} holds {len(value)} items, over {_MAX_ITEMS}")
        if isinstance(value, list):
            for index, item in enumerate(value):
                _check_shape(item, depth + 1, f"{where}[{index}]")
        else:
            for key, item in value.items():
                _check_shape(key, depth + 1, f"a key of {where}")
                _check_shape(item, depth + 1, f"{where}.{key}")


def _check_names(evidence: Evidence) -> None:
    """Refuse two records under one name: whoever looks one up by it would judge the other unseen."""
    gpus = [] if evidence.gap("gpus") else evidence.gpus
    burnt = [] if evidence.gap("burn") else evidence.burn.gpus
    names: dict[str, list[Any]] = {
        "GPU index": [gpu.index for gpu in gpus],
        "GPU UUID": [gpu.uuid for gpu in gpus if not gpu.gap("uuid")],
        "burn record": [gpu.uuid for gpu in burnt],
        "allocation": [] if evidence.gap("allocations") else [tried.uuid for tried in evidence.allocations],
        "kernel launch": [] if evidence.gap("launches") else [launch.uuid for launch in evidence.launches],
    }
    for kind, found in names.items():
        if len(set(found)) != len(found):
            twice = next(name for name in found if found.count(name) > 1)
            raise EvidenceError(f"the document has the {kind} {twice} twice")


def _sentence(error: ValidationError, most: int = 3) -> str:
    problems = {".".join(map(str, e["loc"])): e["msg"] for e in error.errors(include_url=False, include_input=False)}
    shown = "; ".join(f"{place}: {message}" for place, message in list(problems.items())[:most])
    return shown + (f"; and {len(problems) - most} more" if len(problems) > most else "")


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=1, sort_keys=True))
