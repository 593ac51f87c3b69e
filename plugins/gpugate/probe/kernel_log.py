"""The driver's own lines of the kernel log since boot.

Readers in order: the journal, /dev/kmsg, dmesg on the node itself; dev/kmsg, then var/log/kern.log below another
root. The first that reaches back to boot is taken, else the first that could be read at all.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ProbeError
from ..evidence.facts import Gap
from ..evidence.types import KernelLog
from . import pci
from .node import Node
from .reading import Result, attempt, printable, record

_MAX_LINES, _MAX_LINE, _MAX_BYTES = 1000, 500, 48 * 1024
_TIMEOUT_S = 30
_DRIVER = re.compile(r"NVRM|nvidia|\bS?Xid\b|fallen off the bus|RmInitAdapter", re.IGNORECASE)
_BUS_ERROR = re.compile(r"\bAER\b|PCIe Bus Error|device \[10de:")
# The first thing that a kernel says (init/main.c; arm64 says its processor first), but for an early update of the
# processor's microcode, which has a line or two.
_FIRST_WORDS = re.compile(r"^(?:\S+ )?(Linux version |Booting Linux )")


_FIRST_WORDS_WITHIN = 4
_MISSED = "e9bf28e6e834481bb6f48f548ad13606"  # SD_MESSAGE_JOURNAL_MISSED (sd-messages.h)


@dataclass(frozen=True)
class Log:
    """Lines as `TIME message`, and whether the first of them is the boot's first."""

    source: str
    lines: list[str]
    complete: bool


def kernel_log(node: Node) -> Result[KernelLog]:
    readers = (
        [lambda: journal(), lambda: _kmsg(node), lambda: dmesg()]
        if node.is_own
        else [lambda: _kmsg(node), lambda: _kern_log(node)]
    )
    logs: list[Log] = []
    refusals: list[Gap] = []
    for read in readers:
        answer = attempt("kernel log", read)
        if isinstance(answer, Gap):
            refusals.append(answer)
        else:
            logs.append(answer)
            if answer.complete:
                break
    if not logs:
        return Gap(printable("; ".join(gap.unavailable for gap in refusals)), refusals[0].code)
    log = next((log for log in logs if log.complete), logs[0])
    return attempt("kernel log", lambda: _own_lines(node, log))


def _own_lines(node: Node, log: Log) -> KernelLog:
    try:
        ports = pci.path_to_gpus(node)
    except OSError:
        ports = set()  # pci_gpus names this gap; lines with a PCI id of NVIDIA are still found

    def ours(line: str) -> bool:
        return bool(_DRIVER.search(line)) or bool(_BUS_ERROR.search(line) and any(port in line for port in ports))

    lines = [printable(line, _MAX_LINE) for line in log.lines if ours(line) or "[10de:" in line]
    kept = _newest(lines)
    return record(KernelLog, source=log.source, complete=log.complete, truncated=len(kept) < len(lines), lines=kept)


def _newest(lines: Sequence[str]) -> list[str]:
    kept: list[str] = []
    room = _MAX_BYTES
    for line in reversed(lines):
        room -= len(json.dumps(line)) + 1
        if room < 0 or len(kept) == _MAX_LINES:
            break
        kept.append(line)
    return kept[::-1]


def journal() -> Log:
    """The journal's. Its daemon notes where the kernel overwrote messages before it could read them."""
    command = ["journalctl", "--boot", "--output=short-unix", "--no-pager", "--quiet"]
    lines = []
    for line in _run([*command, "--dmesg"]).splitlines():
        stamp, _, rest = line.partition(" ")
        _, _, message = rest.partition(" kernel: ")
        if message:
            lines.append(f"{stamp} {message}")
    if not lines:
        raise ProbeError("the journal shows no kernel lines of this boot")
    whole = _from_boot(lines) and not _run([*command, f"MESSAGE_ID={_MISSED}"]).strip()
    return Log("journalctl --dmesg --boot", lines, whole)


def dmesg() -> Log:
    lines = [re.sub(r"^\[ *([0-9.]+)\] ", r"[\1] ", line) for line in _run(["dmesg"]).splitlines()]
    if not lines:
        raise ProbeError("dmesg shows no lines")
    return Log("dmesg", lines, _from_boot(lines))


def _from_boot(lines: list[str]) -> bool:
    return any(map(_FIRST_WORDS.match, lines[:_FIRST_WORDS_WITHIN]))


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except FileNotFoundError as error:
        raise ProbeError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise ProbeError(f"{command[0]} gave no answer within {_TIMEOUT_S} s") from error
    if done.returncode:
        words = done.stderr.decode("utf-8", "backslashreplace").strip()
        raise ProbeError(f"{command[0]} failed with status {done.returncode}: {words[-300:]}")
    return done.stdout.decode("utf-8", "backslashreplace")


def _kmsg(node: Node) -> Log:
    """Records are `priority,sequence,microseconds,flags;text`; a lower sequence was overwritten if 0 is not there."""
    place = node.path("dev/kmsg")
    records = _kmsg_device(place) if stat.S_ISCHR(place.stat().st_mode) else place.read_bytes().splitlines()
    lines, first = [], None
    for raw in records:
        head, separator, text = raw.partition(b";")
        fields = head.split(b",")
        if raw.startswith(b" ") or not separator or len(fields) < 4:
            continue  # a continuation of key=value pairs
        priority, sequence, micros = int(fields[0]), int(fields[1]), int(fields[2])
        first = sequence if first is None else first
        if priority >> 3 == 0:  # facility 0 is the kernel; programs may write here too, and are not it
            lines.append(f"[{micros / 1e6:.6f}] {text.decode('utf-8', 'backslashreplace')}")
    if first is None:
        raise ProbeError("/dev/kmsg holds no records")
    return Log("/dev/kmsg", lines, first == 0)


def _kmsg_device(place: Path) -> list[bytes]:
    descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK)
    records: list[bytes] = []
    try:
        while True:
            try:
                records.append(os.read(descriptor, 8192).partition(b"\n")[0])
            except BlockingIOError:
                return records
            except OSError as error:
                if error.errno != errno.EPIPE:  # overwritten while we read: the next read goes on after the hole
                    raise
                records.clear()
    finally:
        os.close(descriptor)


def _kern_log(node: Node) -> Log:
    """The log file since the last boot that it tells of; without one its lines may be of any boot."""
    lines: list[str] = []
    complete = False
    for line in node.text("var/log/kern.log").splitlines():
        stamp, found, message = line.partition(" kernel: ")
        if found:
            message = re.sub(r"^\[ *[0-9.]+\] ", "", message)
            if _FIRST_WORDS.match(message):
                lines.clear()
                complete = True
            lines.append(f"{stamp} {message}")
    if not lines:
        raise ProbeError("/var/log/kern.log holds no lines of the kernel")
    return Log("/var/log/kern.log", lines, complete)
