"""The evidence folder: documents as they came, and how they came.

`<host>.json` holds a host's document byte for byte; `gathered.json` says of every host that was asked with which
nonce, when, and what went wrong. Judging always starts from this folder, so that a replay is the same path.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..errors import EvidenceError, GpugateError, NotGathered
from ..evidence.codec import parse
from ..evidence.frame import MAX_DOCUMENT_BYTES
from ..verdict import Gathered

_LOG = "gathered.json"


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """How one host's evidence came. `missing` and `problem` are sentences, empty where all went well: `missing` for a
    host that never reported, `problem` for an answer without usable evidence. Times are the controller's clock."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    nonce: str
    asked_unix_s: float
    received_unix_s: float
    missing: str = ""
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class GatherLog:
    """What one gather did: when it started, the profile it asked for, and a receipt for every host."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    started_unix_s: float
    profile: str
    hosts: dict[str, Receipt]


_LOG_ADAPTER = TypeAdapter(GatherLog)


def write_log(folder: Path, log: GatherLog) -> None:
    """Write the receipts; the documents are already there."""
    (folder / _LOG).write_text(json.dumps(asdict(log), indent=1, sort_keys=True) + "\n")


def read_log(folder: Path) -> GatherLog | None:
    """The receipts of a folder, or None where the documents were gathered by other means (srun, a DaemonSet)."""
    path = folder / _LOG
    if not path.exists():
        return None
    try:
        return _LOG_ADAPTER.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise EvidenceError(f"{path} is not a valid gather log: {error}") from error


def document_path(folder: Path, host: str) -> Path:
    """Where a host's document lies; a host's name never leads out of the folder."""
    return folder / f"{quote(host, safe='')}.json"


def load(folder: Path, host: str, log: GatherLog | None) -> Gathered:
    """What the folder knows about one host. Nothing is assumed of a host that it does not know."""
    receipt = log.hosts.get(host) if log is not None else None
    if log is not None and receipt is None:
        return Gathered(host, None, NotGathered(f"{host} was not asked in this gather"))
    nonce = receipt.nonce if receipt else ""
    asked = receipt.asked_unix_s if receipt else 0.0
    received = receipt.received_unix_s if receipt else 0.0

    def without(problem: GpugateError) -> Gathered:
        return Gathered(host, None, problem, nonce, asked, received)

    if receipt is not None and receipt.missing:
        return without(NotGathered(receipt.missing))
    if receipt is not None and receipt.problem:
        return without(EvidenceError(receipt.problem))
    path = document_path(folder, host)
    try:
        with path.open("rb") as stream:
            document = stream.read(MAX_DOCUMENT_BYTES + 1)
    except FileNotFoundError:
        return without(NotGathered(f"{folder} holds no document of {host}"))
    except OSError as error:
        return without(EvidenceError(f"{path} cannot be read: {error.strerror}"))
    try:
        evidence = parse(document)
    except EvidenceError as error:
        return without(error)
    if log is not None and evidence.profile != log.profile:
        return without(EvidenceError(f"{host} answered for the profile {evidence.profile}, asked for {log.profile}"))
    return Gathered(host, evidence, None, nonce, asked, received)
