"""How a document travels over a remote command's output: found behind a login banner, never taken when cut short.

A frame is one header line `gpugate-evidence LENGTH SHA256`, then LENGTH bytes of JSON, then a newline.
"""

from __future__ import annotations

import hashlib
import re

from ..errors import EvidenceError

MAX_DOCUMENT_BYTES = 256 * 1024
_HEADER = re.compile(rb"(?:^|\n)gpugate-evidence ([0-9]{1,9}) ([0-9a-f]{64})\n")


def pack(document: bytes) -> bytes:
    """Frame one document. Raises EvidenceError where it is over MAX_DOCUMENT_BYTES."""
    if len(document) > MAX_DOCUMENT_BYTES:
        raise EvidenceError(f"the document has {len(document)} bytes, over the cap of {MAX_DOCUMENT_BYTES}")
    digest = hashlib.sha256(document).hexdigest()
    return b"gpugate-evidence %d %s\n%s\n" % (len(document), digest.encode(), document)


def unpack(output: bytes) -> bytes:
    """The document inside a command's output, whatever a login banner wrote before it.

    Raises EvidenceError for no frame, several frames, a document that was cut short, altered, or over the cap.
    """
    headers = list(_HEADER.finditer(output))
    if not headers:
        raise EvidenceError("the probe's answer holds no document")
    length, digest = int(headers[0][1]), headers[0][2].decode()
    if length > MAX_DOCUMENT_BYTES:
        raise EvidenceError(f"the document announces {length} bytes, over the cap of {MAX_DOCUMENT_BYTES}")
    document = output[headers[0].end() : headers[0].end() + length]
    if len(document) < length:
        raise EvidenceError(f"the document was cut short: {len(document)} of {length} bytes")
    if hashlib.sha256(document).hexdigest() != digest:
        raise EvidenceError("the document is not the one that the probe sent (its digest differs)")
    if _HEADER.search(output, headers[0].end() + length):
        raise EvidenceError("the probe's answer holds more than one document")
    return document
