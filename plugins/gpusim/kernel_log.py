"""The kernel log of a node: an ordinary file in the record format of /dev/kmsg.

A record is `priority,sequence,microseconds since boot,flags;text` (kernel documentation, ABI/testing/dev-kmsg).
"""

from __future__ import annotations

import time
from pathlib import Path

from gpusim.errors import GpusimError
from gpusim.noderoot import boot_time, remove, text

LOG = "dev/kmsg"
INFO, ERROR = 6, 3


def begin(root: Path, lines: list[str]) -> None:
    """Start the log anew with these lines."""
    remove(root / LOG)
    text(root / LOG, "".join(f"{INFO},{i},{i * 125000},-;{line}\n" for i, line in enumerate(lines)))


def append(root: Path, line: str, *, priority: int = ERROR) -> None:
    """Append one record, stamped with the time since this node's boot.

    :raises GpusimError: the text is empty or no single printable line.
    """
    if not line or not line.isprintable():
        raise GpusimError(f"a kernel log line is one line of printable text, not {line!r}")
    path = root / LOG
    if not path.is_file():
        raise GpusimError("the kernel log of this node cannot be written while it is unreadable: clear the fault first")
    last = path.read_text().splitlines()[-1:]
    sequence = int(last[0].split(",")[1]) + 1 if last else 0
    stamp = max(0, round((time.time() - boot_time(root)) * 1e6))
    with path.open("a") as file:
        file.write(f"{priority},{sequence},{stamp},-;{line}\n")


def rotate(root: Path) -> None:
    """Lose the beginning of the log, once, as the kernel does when its buffer is full."""
    records = (root / LOG).read_text().splitlines()
    if records and records[0].split(",")[1] == "0":
        text(root / LOG, "".join(f"{record}\n" for record in records[2:]))
