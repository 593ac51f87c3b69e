"""What a gather has done so far, line by line, so that another one can go on where it was interrupted.

`journal.jsonl` in the evidence folder: first {"schema", "profile", "started_unix_s"}, then in the order of events
{"asked": host, "nonce", "request"} before a host is asked, and {"answered": host, "receipt"} after. A node that is
asked again with the same nonce adopts the burn that it began for it, so nothing is done twice. `request` is the digest
of everything else that was asked: where policy has changed since, the host is asked anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..errors import EvidenceError
from ..evidence.request import ProbeRequest
from ..policy import Profile
from .folder import Receipt, document_path

FILE = "journal.jsonl"
_SCHEMA = 1
_RECEIPT = TypeAdapter(Receipt)
_PROFILE: TypeAdapter[Profile] = TypeAdapter(Profile)


@dataclass(frozen=True)
class _Asked:
    nonce: str
    request: str


class Journal:
    """The journal of one folder, which it holds a lock on until it is closed.

    Raises EvidenceError where the folder is another gather's, still under way, of another profile, or unreadable.
    """

    def __init__(self, folder: Path, profile: Profile) -> None:
        self._asked: dict[str, _Asked] = {}
        self._receipts: dict[str, Receipt] = {}
        self.folder, self.profile, self.started_unix_s = folder, profile, time.time()
        path = folder / FILE
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise EvidenceError(f"the gather in {folder} is still under way in another process") from error
        try:
            self._read(path)
        except BaseException:
            self._file.close()
            raise

    def request(self, host: str, request: ProbeRequest) -> tuple[ProbeRequest, bool]:
        """The request as this host is to be asked: with the nonce that it was asked with before, if it was asked for
        the same; and whether it was. The answer to it may be a burn that began long ago."""
        wanted = _digest(request)
        known = self._asked.get(host)
        if known is not None and known.request == wanted:
            return replace(request, nonce=known.nonce), True
        asked = _Asked(secrets.token_hex(16), wanted)
        self._receipts.pop(host, None)
        self._asked[host] = asked
        self._write({"asked": host, "nonce": asked.nonce, "request": asked.request})
        return replace(request, nonce=asked.nonce), False

    def answered(self, host: str, receipt: Receipt) -> None:
        """Write down how a host's answer came."""
        self._receipts[host] = receipt
        self._write({"answered": host, "receipt": asdict(receipt)})

    def whole(self, host: str, request: ProbeRequest) -> Receipt | None:
        """The receipt of a host whose document is here, as an answer to what it was asked last, and is to be asked."""
        receipt, asked = self._receipts.get(host), self._asked.get(host)
        if receipt is None or asked is None or (receipt.nonce, _digest(request)) != (asked.nonce, asked.request):
            return None
        if receipt.missing or receipt.problem:
            return None
        return receipt if document_path(self.folder, host).is_file() else None

    def close(self) -> None:
        """Let another gather have the folder."""
        self._file.close()

    def _read(self, path: Path) -> None:
        """Take over what is written; a last line that was cut short counts as never written."""
        *lines, torn = path.read_bytes().split(b"\n")
        if torn:
            self._file.truncate(path.stat().st_size - len(torn))
        if not lines:
            self._write({"schema": _SCHEMA, "profile": self.profile, "started_unix_s": self.started_unix_s})
            return
        try:
            head = json.loads(lines[0])
            if (head["schema"], head["profile"]) != (_SCHEMA, self.profile):
                raise EvidenceError(
                    f"{path} is of schema {head['schema']} and the profile {head['profile']}; this gather is of "
                    f"schema {_SCHEMA} and the profile {self.profile}"
                )
            self.started_unix_s = float(head["started_unix_s"])
            for line in lines[1:]:
                self._take(json.loads(line))
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise EvidenceError(f"{path} is no journal of a gather: {type(error).__name__}: {error}") from error

    def _take(self, entry: dict[str, Any]) -> None:
        if "asked" in entry:
            self._asked[str(entry["asked"])] = _Asked(str(entry["nonce"]), str(entry["request"]))
        else:
            self._receipts[str(entry["answered"])] = _RECEIPT.validate_json(json.dumps(entry["receipt"]))

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        self._file.flush()


def profile_of(folder: Path) -> Profile:
    """The profile of an interrupted gather; raises EvidenceError where the folder holds none."""
    try:
        with (folder / FILE).open("rb") as stream:
            return _PROFILE.validate_python(json.loads(stream.readline())["profile"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvidenceError(f"{folder} holds no interrupted gather ({error})") from error


def unfinished(root: Path) -> list[Path]:
    """The folders below `root` that hold an interrupted gather, the newest first; those that are under way are not."""
    found = []
    for path in root.glob(f"*/{FILE}"):
        descriptor = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found.append(path.parent)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
    return sorted(found, key=lambda folder: folder.name, reverse=True)


def _digest(request: ProbeRequest) -> str:
    plain = {**asdict(request), "nonce": "", "wait_s": None}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
