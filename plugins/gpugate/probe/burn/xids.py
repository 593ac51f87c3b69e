"""How many Xid lines the kernel log gained between two looks at it."""

from __future__ import annotations

import re

from ...evidence.facts import Gap
from ...evidence.types import KernelLog
from ..reading import Result

_XID = re.compile(r"\bS?Xid \(")  # "NVRM: Xid (PCI:0000:18:00): 79, ...", of NVSwitches "SXid (PCI:...)"


def xids_gained(before: Result[KernelLog], after: Result[KernelLog]) -> Result[int]:
    """The Xid lines in `after` that were not yet there `before`.

    Both hold the newest lines only, so that the first of `before` may be gone; what is left of it stands first in
    `after`. A Gap where nothing is, or where a look failed.
    """
    if isinstance(before, Gap):
        return Gap(f"the kernel log could not be read before the burn: {before.unavailable}", before.code)
    if isinstance(after, Gap):
        return Gap(f"the kernel log could not be read after the burn: {after.unavailable}", after.code)
    if before.source != after.source:
        return Gap(f"the kernel log was read from {before.source} before the burn, from {after.source} after it")
    old, new = before.lines, after.lines
    for gone in range(len(old) + 1):
        common = len(old) - gone
        if new[:common] == old[gone:]:
            break
    gained = sum([1 for line in new[common:] if _XID.search(line)])
    if common == 0 and (old or after.truncated):
        return Gap(f"the kernel log does not reach back to the start of the burn; it holds {gained} Xid lines since")
    return gained
