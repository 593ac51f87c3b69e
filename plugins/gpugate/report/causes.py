"""What makes two sentences about two hosts one cause: all but what only differs from host to host."""

from __future__ import annotations

import re
from functools import lru_cache

_VARIES = re.compile(
    r"(?P<hop>jump host \S+)"  # hosts behind different jump hosts are missing for different reasons
    r"|GPU-[0-9a-f-]{8,}|SHA256:\S+|\b(?=[a-f]*\d)[0-9a-f]{8,}\b"
    r"|\b[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\b|\d+(\.\d+)*"
)
_NAME = re.compile(r"[\w-]+(?:\.[\w-]+)*")


def without_host(host: str, reason: str) -> str:
    """The reason without the host's own name and address, however often it says them."""
    own = {host}
    if where := re.match(rf"{re.escape(host)} \(([^()]*)\)", reason):  # as Target.where says it: name (address:port)
        reason = host + reason[where.end() :]
        address = re.sub(r":\d+$", "", where[1])
        own.add(address)
        reason = reason.replace(address, host) if ":" in address else reason
    return without_varying(_NAME.sub(lambda found: "HOST" if found[0] in own else found[0], reason))


@lru_cache(maxsize=16384)
def without_varying(text: str) -> str:
    """The text with each number, identifier and digest as one sign."""
    return _VARIES.sub(lambda found: found["hop"] or "#", text)
