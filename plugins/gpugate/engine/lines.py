"""An answer that came as numbered lines (see on_node.py), put together again or refused.

What is no line of an answer (a banner, a message, another program's output) is passed by. A line of an answer that is
torn, missing, repeated, or comes after the end makes the whole answer worthless: nothing is guessed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib

from ..errors import EvidenceError

COLUMNS = 76
MOST_LINES = 16_384  # of 57 bytes: more than the largest answer that does not compress at all
MOST_BYTES = 1024 * 1024  # unpacked
_MARK = b"gpugate-answer "
_BEGIN = b"gpugate-answer begin"
_LINE = re.compile(rb"gpugate-answer (?:([0-9]{1,6}) ([A-Za-z0-9+/=]{1,%d})|end ([0-9]{1,6}) ([0-9a-f]{64}))" % COLUMNS)


class Lines:
    """One node's answer on its way. `began`: a line of it has come, if only the first, which says "here I am"."""

    def __init__(self) -> None:
        self.began = False
        self._parts: list[bytes] = []
        self._end: tuple[int, bytes] | None = None
        self._problem = ""

    @property
    def whole(self) -> bool:
        """Whether nothing more is to come: its end has come, or it is spoilt already."""
        return bool(self._end or self._problem)

    def take(self, line: bytes) -> None:
        """One line of output, without its end."""
        if line.startswith(_MARK) and not self._problem:
            self._problem = self._refuses(line)

    def payload(self) -> bytes:
        """What was sent, unpacked. Raises EvidenceError."""
        if self._problem:
            raise EvidenceError(self._problem)
        if self._end is None:
            raise EvidenceError(f"the answer was cut short after {len(self._parts)} lines")
        count, digest = self._end
        if count != len(self._parts):
            raise EvidenceError(f"{len(self._parts)} lines of the answer came, and {count} were sent")
        try:
            packed = base64.b64decode(b"".join(self._parts), validate=True)
        except binascii.Error as error:
            raise EvidenceError(f"the answer is no base64: {error}") from error
        if hashlib.sha256(packed).hexdigest().encode() != digest:
            raise EvidenceError("the answer is not the one that was sent (its digest differs)")
        return _unpacked(packed)

    def _refuses(self, line: bytes) -> str:
        if line == _BEGIN:
            again, self.began = self.began, True
            return "the answer begins twice: two answers are mixed" if again else ""
        self.began = True
        found = _LINE.fullmatch(line)
        if found is None:
            return f"a line of the answer is torn or too long: {line[:60]!r}"
        if self._end is not None:
            return "lines of the answer came after its end: it came twice, or two answers are mixed"
        number, part, count, digest = found.groups()
        if part is None:
            self._end = int(count), digest
            return ""
        if int(number) != len(self._parts):
            what = "came twice" if int(number) < len(self._parts) else "came too early: one before it is missing"
            return f"line {int(number)} of the answer {what}"
        if self._parts and len(self._parts[-1]) != COLUMNS:
            return f"line {len(self._parts) - 1} of the answer is torn"
        if len(self._parts) >= MOST_LINES:
            return f"the answer has more than {MOST_LINES} lines"
        self._parts.append(part)
        return ""


def _unpacked(packed: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        payload = unpacking.decompress(packed, MOST_BYTES)
    except zlib.error as error:
        raise EvidenceError(f"the answer cannot be unpacked: {error}") from error
    if not unpacking.eof or unpacking.unused_data:
        raise EvidenceError(f"the answer is larger than {MOST_BYTES} bytes, or does not end where it has to")
    return payload
