"""Text from nodes, made safe for XML, terminals and logs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache

from ClusterShell.RangeSet import RangeSet

# Everything that XML 1.0 forbids, that moves a terminal's cursor, or that turns the reading direction around.
_UNSAFE = re.compile(
    "[^\t\n\x20-\x7e\xa0-\u200a\u2010-\u2027\u202f-\u2065\u206a-\ud7ff\ue000-\ufdcf\ufdf0-\ufefe\uff00-\ufffd"
    "\U00010000-\U0001fffd\U00020000-\U0002fffd\U00030000-\U0003fffd]"
)
_SAFE_ASCII = b"\t\n" + bytes(range(0x20, 0x7F))
_PLAIN_HOST = re.compile(r"[\w.-]+", re.ASCII)
_NUMBER = re.compile(r"(\d+)")
_LAST_NUMBER = re.compile(r"(.*?)([0-9]+)([^0-9]*)")


def printable(text: str) -> str:
    """`text` with every unsafe character written as its escape, so that it is seen rather than obeyed."""
    if text.isascii() and not text.encode().translate(None, _SAFE_ASCII):
        return text  # as nearly all is, and much faster seen so
    return _UNSAFE.sub(_escape, text)


def one_line(text: str) -> str:
    """`printable` on one line."""
    return " ".join(printable(text).split())


def natural(text: str) -> list[tuple[int, int, str]]:
    """A sort key that puts gpu2 before gpu10."""
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in _NUMBER.split(text) if part]


def fold(hosts: Iterable[str]) -> str:
    """Host names as HPC operators read them: gpu[0-3,7]."""
    return _folded(frozenset(hosts))


def shortened(text: str, width: int) -> str:
    """`text`, or its beginning with "..." where it is longer than `width`; it ends at a comma or space if it can, and a
    bracket that was open is closed, so that a range stays one."""
    if len(text) <= width:
        return text
    kept = text[: width - 4]
    if (end := max(kept.rfind(","), kept.rfind(" "))) > width // 2:
        kept = kept[: end + 1]
    return kept + "..." + "]" * (kept.count("[") > kept.count("]"))


@lru_cache(maxsize=32)  # many causes have the same thousands of hosts
def _folded(hosts: frozenset[str]) -> str:
    if all(_PLAIN_HOST.fullmatch(name) for name in hosts):
        return ",".join(sorted(_ranges(hosts), key=natural))
    return ", ".join(map(one_line, sorted(hosts, key=natural)))


def _ranges(names: Iterable[str]) -> list[str]:
    """The names as ClusterShell's node sets, folded number by number from the last one.

    Not by NodeSet itself, which takes minutes for thousands of names with two numbers each and no pattern.
    """
    numbers: dict[tuple[str, str], list[str]] = defaultdict(list)  # of names that are alike but for the last number
    ranges = []
    for name in names:
        if found := _LAST_NUMBER.fullmatch(name):
            numbers[found[1], found[3]].append(found[2])
        else:
            ranges.append(name)
    heads: dict[tuple[str, str], list[str]] = defaultdict(list)  # of those that have the same last numbers
    for (head, tail), found_numbers in numbers.items():
        heads[str(RangeSet.fromlist(found_numbers)), tail].append(head)
    for (numbered, tail), found_heads in heads.items():
        folded = f"[{numbered}]" if {",", "-"} & set(numbered) else numbered
        ranges += [f"{head}{folded}{tail}" for head in _ranges(found_heads)]
    return ranges


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
