"""The evidence folder: documents as they came, and how they came.

`<host>.json` holds a host's document byte for byte; `gathered.json` says of every host that was asked with which
nonce, when, and what went wrong. Judging always starts from this folder, so that a replay is the same path. Several
folders, gathered by several engines, become one by `merge`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..errors import EvidenceError, GpugateError, NotGathered
from ..evidence.codec import RECEIPTS, parse
from ..evidence.frame import MAX_DOCUMENT_BYTES
from ..verdict import Gathered

LOG = f"{RECEIPTS}.json"


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
    (folder / LOG).write_text(json.dumps(asdict(log), indent=1, sort_keys=True) + "\n")


def read_log(folder: Path) -> GatherLog | None:
    """The receipts of a folder, or None where the documents were gathered by other means (srun, a DaemonSet)."""
    path = folder / LOG
    if not path.exists():
        return None
    try:
        return _LOG_ADAPTER.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise EvidenceError(f"{path} is not a valid gather log: {error}") from error


def document_path(folder: Path, host: str) -> Path:
    """Where a host's document lies; a host's name never leads out of the folder."""
    return folder / f"{_file(host)}.json"


def _file(host: str) -> str:
    return quote(host, safe="")


def merge(folders: Sequence[Path], into: Path) -> None:
    """Put several evidence folders together into an empty one. A host that one could not reach may be in another.

    Raises EvidenceError where two of them hold an answer of one host, where their profiles differ, and where only some
    have receipts: nothing is chosen in silence.
    """
    logs = {folder: read_log(folder) for folder in folders}
    known = {folder: log for folder, log in logs.items() if log is not None}
    if len(known) not in (0, len(folders)) or len(logs) != len(folders):
        without = ", ".join(str(folder) for folder in folders if folder not in known)
        raise EvidenceError(
            f"only some of the evidence folders have receipts ({LOG} is missing in {without}), or one is given twice: "
            "judge those apart, or bring them in with `gpugate import`"
        )
    profiles = {log.profile: str(folder) for folder, log in known.items()}
    if len(profiles) > 1:
        told = ", ".join(f"{folder}: {profile}" for profile, folder in profiles.items())
        raise EvidenceError(f"evidence of different profiles is never one run ({told})")
    answers = {folder: _answers(folder, log) for folder, log in logs.items()}
    owner: dict[str, Path] = {}
    for folder, names in answers.items():
        for name in names:
            if name in owner:
                raise EvidenceError(
                    f"{owner[name]} and {folder} both hold an answer of {unquote(name)}: take one of them away, as "
                    "nobody here knows which counts"
                )
            owner[name] = folder
            if (document := folder / f"{name}.json").is_file():
                shutil.copyfile(document, into / document.name)
    if known:
        receipts = {host: receipt for log in known.values() for host, receipt in log.hosts.items()}
        for folder, log in known.items():
            receipts |= {host: receipt for host, receipt in log.hosts.items() if owner.get(_file(host)) == folder}
        started = min(log.started_unix_s for log in known.values())
        write_log(into, GatherLog(started_unix_s=started, profile=next(iter(profiles)), hosts=receipts))


def _answers(folder: Path, log: GatherLog | None) -> list[str]:
    """The hosts that answered, by the stems of their files; a receipt that says so counts without a document too."""
    if log is None:
        return [path.stem for path in folder.glob("*.json")]
    return [_file(host) for host, receipt in log.hosts.items() if not receipt.missing]


def load(folder: Path, host: str, log: GatherLog | None) -> Gathered:
    """What the folder knows about one host. Nothing is assumed of a host that it does not know."""
    receipt = log.hosts.get(host) if log is not None else None
    if log is not None and receipt is None:
        return Gathered(host, None, NotGathered(f"{host} was not asked in this gather"))
    nonce = receipt.nonce if receipt else ""
    asked = receipt.asked_unix_s if receipt else 0.0
    received = receipt.received_unix_s if receipt else 0.0

    def without(problem: GpugateError, sha256: str = "") -> Gathered:
        return Gathered(host, None, problem, nonce, asked, received, sha256)

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
    sha256 = hashlib.sha256(document).hexdigest() if len(document) <= MAX_DOCUMENT_BYTES else ""
    try:
        evidence = parse(document)
    except EvidenceError as error:
        return without(error, sha256)
    if log is not None and evidence.profile != log.profile:
        refused = EvidenceError(f"{host} answered for the profile {evidence.profile}, asked for {log.profile}")
        return without(refused, sha256)
    return Gathered(host, evidence, None, nonce, asked, received, sha256)
