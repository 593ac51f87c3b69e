"""Slurm's nodes as scontrol prints them, and what each state means for admission. Pure.

`scontrol show node` is the one form that Slurm 22.05 and 25.11 print alike without further plugins (JSON needs one, and
changes from release to release). Not `--oneliner`: on lines of their own, free texts (operating system, reason,
comment) cannot be taken for another key. State and flags are those of `node_states` and `node_state_flags` in Slurm's
slurm_protocol_defs.c; a word that is not known here is never interpreted.

The mark of new nodes counts only where Slurm says who set it and when. A `Reason=` in slurm.conf has neither: with each
restart of slurmctld it takes the place of whatever reason a person gave (slurmctld's read_config.c).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from ..errors import AdmissionError
from ..report.text import one_line
from .standing import Standing

NEW_NODE = "gpugate: not validated"
TIME_FORMAT = "%FT%TZ"  # for SLURM_TIME_FORMAT, with TZ=UTC0
_IN_USE = {"IDLE", "MIXED", "ALLOCATED"}
_HARMLESS = {"BLOCKED", "CLOUD", "COMPLETING", "DYNAMIC_FUTURE", "DYNAMIC_NORM", "NOT_RESPONDING", "PERFCTRS",
             "PLANNED", "RESERVED"}  # fmt: skip
_OUT = {"DRAIN", "FAIL"}
_GONE = {"DOWN": "it is DOWN in Slurm", "UNKNOWN": "slurmctld has not heard of it since it started (UNKNOWN)"}
# Draining a node that is powered up or down kills its jobs (update_node in Slurm's node_mgr.c).
_BUSY = {
    "INVALID_REG": "Slurm refuses its registration (INVALID_REG)",
    "MAINTENANCE": "a maintenance reservation holds it (MAINTENANCE)",
    "POWERED_DOWN": "Slurm has powered it down (POWERED_DOWN)",
    "POWERING_DOWN": "Slurm powers it down (POWERING_DOWN)",
    "POWERING_UP": "Slurm powers it up (POWERING_UP)",
    "POWER_DOWN": "Slurm is about to power it down (POWER_DOWN)",
    "POWER_UP": "Slurm is about to power it up (POWER_UP)",
    "REBOOT_ISSUED": "Slurm reboots it (REBOOT_ISSUED)",
    "REBOOT_REQUESTED": "Slurm is about to reboot it (REBOOT_REQUESTED)",
}
_NODE = re.compile(r"^NodeName=(\S+)", re.MULTILINE)
_STATE = re.compile(r"^   State=(\S+)", re.MULTILINE)
_REASON = re.compile(r"^   Reason=(.*(?:\n {10}.*)*)", re.MULTILINE)
_SET = re.compile(r"(.*?) \[([^\[\]\s]+)@(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)\]")


@dataclass(frozen=True)
class SlurmNode:
    """One node: base state, flags, and the reason with who set it and when; `at` is None where Slurm does not say."""

    name: str
    base: str
    flags: frozenset[str]
    reason: str = ""
    by: str = ""
    at: datetime | None = None

    @property
    def drained(self) -> bool:
        """Whether no new job may start there because somebody, or Slurm itself, said so."""
        return "DRAIN" in self.flags

    @property
    def inside(self) -> bool:
        """Whether it may take work."""
        return self.base in _IN_USE and not self.flags & _OUT

    @property
    def mark(self) -> dict[str, str]:
        """Reason, who and when, as they are remembered of a drain of gpugate's own."""
        return {"reason": self.reason, "by": self.by, "at": self.at.isoformat() if self.at else ""}


def parse(text: str) -> dict[str, SlurmNode | AdmissionError]:
    """The nodes that `scontrol show node` prints, by name; an AdmissionError for one that cannot be read."""
    found: dict[str, SlurmNode | AdmissionError] = {}
    starts = [*_NODE.finditer(text)]
    for start, end in zip(starts, [*(each.start() for each in starts[1:]), len(text)], strict=True):
        name = start[1]
        twice = name in found
        found[name] = AdmissionError("scontrol names it twice") if twice else _node(name, text[start.start() : end])
    return found


def standing(node: SlurmNode, remembered: dict[str, str] | None) -> Standing:
    """What Slurm's state means; `remembered` is the mark of the drain that gpugate made last, None for none."""
    busy = [_BUSY[flag] for flag in sorted(node.flags & _BUSY.keys())]
    if node.inside:
        return Standing(True, busy="; ".join(busy))
    if node.base in _GONE:
        busy.append(_GONE[node.base])
    if "NOT_RESPONDING" in node.flags:
        busy.append("slurmctld gets no answer from its slurmd (NOT_RESPONDING)")
    token = json.dumps(node.mark)
    if node.drained and "FAIL" not in node.flags and node.at is not None:
        if remembered == node.mark:
            return Standing(False, busy="; ".join(busy), removed=True, since=node.at, token=token)
        if node.reason == NEW_NODE:
            return Standing(False, busy="; ".join(busy), token=token)
    return Standing(False, owner=_owner(node), busy="; ".join(busy), token=token)


def _node(name: str, block: str) -> SlurmNode | AdmissionError:
    states, reasons = _STATE.findall(block), _REASON.findall(block)
    if len(states) != 1 or len(reasons) > 1:
        return AdmissionError("what scontrol prints of it has not one state and at most one reason")
    base, *flags = states[0].split("+")
    known = _IN_USE | {"DOWN"} | ({"UNKNOWN"} if _OUT & {*flags} else set())
    if base not in known or (unknown := set(flags) - _HARMLESS - _OUT - _BUSY.keys()):
        word = base if base not in known else sorted(unknown)[0]
        return AdmissionError(
            f"its state in Slurm is {one_line(states[0])[:100]}, and {one_line(word)[:50]} says nothing to gpugate"
        )
    first, *more = (line.strip() for line in reasons[0].split("\n")) if reasons else ("",)
    said = _SET.fullmatch(first)
    reason = "\n".join([said[1] if said else first, *more])
    if said is None:
        return SlurmNode(name, base, frozenset(flags), reason)
    return SlurmNode(name, base, frozenset(flags), reason, said[2], _time(said[3]))


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return None


def _owner(node: SlurmNode) -> str:
    """Whose word keeps the node out, and how it is handed to gpugate where it looks like gpugate's."""
    who = node.by or "somebody"
    since = f" since {node.at.astimezone().isoformat(timespec='seconds')}" if node.at else ""
    states = [node.base] * (node.base in _GONE) + sorted(node.flags & _OUT)
    owner = f"{who}{since}: {'+'.join(states)}: {one_line(node.reason)[:200] or 'no reason given'}"
    if node.drained and node.reason == NEW_NODE:
        return f"{owner} (slurm.conf's reason hides whose drain it is: see docs/slurm.md)"
    if node.drained and node.reason.startswith("gpugate:"):
        owner += (
            " (not as gpugate remembers its own drain: changed since, or the state store was lost; hand the node over "
            f"with scontrol update NodeName={node.name} Reason='{NEW_NODE}')"
        )
    return owner
