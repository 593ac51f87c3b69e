"""From what an engine brought back of a node to the document that was asked for, or the sentence why there is none."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..errors import EvidenceError
from ..evidence.codec import parse
from ..evidence.frame import unpack
from ..gather.streams import printable


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Whom an engine asks for what: `host` as the inventory calls it, `node` as the engine does."""

    host: str
    node: str
    nonce: str
    profile: str

    @property
    def where(self) -> str:
        """Both names, for a sentence."""
        return self.host if self.host == self.node else f"{self.host} (node {self.node})"


@dataclass(frozen=True, kw_only=True)
class _Head:
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    node: str
    status: int
    words: str


_HEAD = TypeAdapter(_Head)


def document(asked: Asked, payload: bytes) -> bytes:
    """The document in an answer of on_node.py. Raises EvidenceError with a sentence that names the host.

    Which node an answer is of is known from the engine; what the answer itself says can only contradict it.
    """
    first, _, output = payload.partition(b"\n")
    try:
        head = _HEAD.validate_json(first)
    except ValidationError as error:
        raise EvidenceError(f"{asked.where}: the answer's head is not valid: {printable(first[:100])}") from error
    if head.node != asked.node:
        raise EvidenceError(
            f"{asked.where}: this answer was made on {printable(head.node.encode())}, which counts for neither"
        )
    try:
        frame = unpack(output)
    except EvidenceError as error:
        raise EvidenceError(_why_none(asked, head, str(error))) from error
    return answering(asked, frame)


def framed(asked: Asked, output: bytes) -> bytes:
    """The document in a probe's own output, as it was written. Raises EvidenceError that names the host."""
    try:
        found = unpack(output)
    except EvidenceError as error:
        raise EvidenceError(f"{asked.where}: {error}") from error
    return answering(asked, found)


def answering(asked: Asked, found: bytes) -> bytes:
    """The document, if it is an answer to what was asked. Raises EvidenceError."""
    try:
        evidence = parse(found)
    except EvidenceError as error:
        raise EvidenceError(f"{asked.where}: {error}") from error
    if evidence.nonce != asked.nonce:
        told = printable(evidence.nonce[:40].encode())
        raise EvidenceError(
            f"{asked.where} answers another request than ours (nonce {told}): of another run, or another node's"
        )
    if evidence.profile != asked.profile:
        raise EvidenceError(f"{asked.where} answered for the profile {evidence.profile}, asked for {asked.profile}")
    return found


def _why_none(asked: Asked, head: _Head, complaint: str) -> str:
    lines = [line for line in head.words.splitlines() if line.strip()]
    said = printable(lines[-1][:300].encode()) if lines else "it said nothing"
    if "no request for this node" in said:
        return f"{asked.where}: {said}"
    if "sudo" in said or "password is required" in said:
        return f"{asked.where} does not let the engine's user become root: {said}: see docs/privileges.md"
    if "can't open file" in said:
        return f"{asked.where} has no probe ({said}): run playbooks/provision.yml on it"
    if head.status == 127:
        return f"{asked.where} cannot start the probe ({said}): set ansible_python_interpreter"
    return f"{asked.where}: {complaint}: the probe ended with exit status {head.status}: {said}"
