"""Nodes to decide on: a green case, and the same with one thing changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from gpugate.admission import Case, Present, Standing
from gpugate.policy import Level
from gpugate.report.reader import Cell, HostCells, Report
from gpugate.verdict import Outcome

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
GPUS = frozenset({"GPU-a", "GPU-b"})
IDENTITY = {"machine_id": "m-1", "boot_id": "b-1", "gpu_uuids": "GPU-a,GPU-b", "policy_digest": "d-1",
            "measured_unix_s": f"{(NOW - timedelta(minutes=5)).timestamp():.3f}"}  # fmt: skip
LEVELS: dict[str, Level] = {"thermal.headroom": "evict", "errors.ecc": "admit", "host.clock": "observe"}


def cells(**changed: Outcome | None) -> dict[str, Cell]:
    """Green cells for LEVELS; `thermal_headroom=Outcome.FAIL` changes one, None takes it out."""
    found = {check: Cell(Outcome.PASS) for check in LEVELS}
    for name, outcome in changed.items():
        check = name.replace("_", ".", 1)
        found.pop(check, None)
        if outcome is not None:
            found[check] = Cell(outcome, f"{check} said so")
    return found


def report(
    found: Mapping[str, Cell] | None = None, identity: Mapping[str, str] | None = None, **changes: Any
) -> Report:
    """A whole admission report of gpu0, ten minutes old."""
    suite = HostCells(dict(IDENTITY if identity is None else identity), dict(cells() if found is None else found))
    known = Report("5ha", "20260301T115000000000Z-abcdef", NOW - timedelta(minutes=10), "admission", "whole", "",
                   {"gpu0": suite})  # fmt: skip
    return replace(known, **changes)


def case(in_service: bool | None = False, **changes: Any) -> Case:
    """A node with everything green; outside unless said otherwise."""
    known: dict[str, Any] = {
        "host": "gpu0",
        "expected": LEVELS,
        "waivers": (),
        "policy_digest": "d-1",
        "max_age_s": 3600.0,
        "clock_skew_s": 5.0,
        "report": report(),
        "present": Present("m-1", "b-1", GPUS),
        "standing": None if in_service is None else Standing(in_service),
        "now": NOW,
    }
    return Case(**known | changes)
