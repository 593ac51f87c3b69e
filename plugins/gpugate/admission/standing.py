"""What a decision looks at beside report and policy: where the node stands, what went before, and people's words."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Kind = Literal["hold", "release"]


@dataclass(frozen=True)
class Standing:
    """A node as the back end sees it now.

    `owner` is whose word keeps it out, and why, where that is not gpugate's ("root since 2026-03-01T02:00: disk");
    empty where gpugate may change it. `busy` says why nobody should touch it just now (a driver upgrade, a maintenance
    reservation); empty as a rule. `removed` is whether gpugate took it out, as against a node that is new to it;
    `since` is when it did, where the back end knows. `token` is what the back end compares before it changes anything:
    no other part reads it.
    """

    inside: bool
    owner: str = ""
    busy: str = ""
    removed: bool = False
    since: datetime | None = None
    token: str = ""


@dataclass(frozen=True)
class History:
    """What the gate found of a node in earlier runs.

    `last_run` is the newest run that was decided on (run ids sort by time; empty: none). `greens` counts admission
    reports that were green and proven, `unproven` runs of which nothing could be told, both in a row up to it.
    `removed` is whether gpugate took the node out and has not let it in since.
    """

    last_run: str = ""
    greens: int = 0
    unproven: int = 0
    removed: bool = False


NEW = History()


@dataclass(frozen=True)
class Word:
    """A person's word about a node, good until a time.

    `hold`: gpugate leaves the node as it is. `release`: gpugate does not remove it. Neither admits.
    """

    kind: Kind
    who: str
    why: str
    ticket: str
    since: datetime
    until: datetime

    def __str__(self) -> str:
        told = {"hold": "held", "release": "released"}[self.kind]
        ticket = f"{self.ticket}: " if self.ticket else ""
        return f"{told} by {self.who} until {self.until.isoformat(timespec='minutes')} ({ticket}{self.why})"
