"""`gpugate metrics`: the gate in the text format of Prometheus, for node_exporter's textfile collector.

What cannot be read makes no file: the old one stays, its times grow old, and the rules in deploy/prometheus say so.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from ..admission import files
from ..admission.breaker import was_stopped
from ..admission.memory import Remembered, refuse_clock
from ..admission.standing import Word
from ..admission.words import words_of
from ..errors import StateError
from ..policy import Profile
from ..report.runs import judged
from . import site

UNDECIDED = "undecided"
STATES = ("in_service", "removed", "kept_out", "out", "unknown", UNDECIDED)

Judged = Mapping[Profile, Mapping[str, datetime]]


def add(commands: Any) -> None:
    """Put the command among `commands`."""
    words = "write what the gate knows for Prometheus, or nothing where it cannot be read"
    parser = commands.add_parser("metrics", help=words, description=f"{words[0].upper()}{words[1:]}.")
    site.add(parser)
    parser.add_argument("--hosts", default="gpu_fleet", metavar="PATTERN", help="the fleet (default %(default)s)")
    where = "where reports go (default %(default)s)"
    parser.add_argument("--reports", type=Path, default=Path("reports"), metavar="DIR", help=where)
    words = "FILE.prom in the folder of node_exporter's textfile collector (default: standard output)"
    parser.add_argument("--output", type=Path, metavar="FILE", help=words)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    gate = site.gate(options, [options.hosts], look_only=True)
    if not gate.settled.store.exists():
        raise StateError(
            f"there is no state store at {gate.settled.store}: the gate has decided on nobody yet, or it is lost"
        )
    remembered = gate.memory.nodes()
    refuse_clock(remembered.values(), gate.now)
    words = words_of(gate.memory, gate.audit, gate.now)
    document = exposition(gate.hosts, remembered, words, judged(options.reports, set(gate.hosts), gate.now), gate.now)
    if options.output is None:
        sys.stdout.write(document.decode())
    else:
        files.replace(options.output, document)
    return 0


def exposition(
    hosts: list[str], remembered: Mapping[str, Remembered], words: Mapping[str, Word], runs: Judged, now: datetime
) -> bytes:
    """The document; every host has one state and one action, and nothing in it is longer than the inventory."""
    registry = CollectorRegistry()

    def gauge(name: str, help_: str, *labels: str) -> Gauge:
        return Gauge(f"gpugate_{name}", help_, labels, registry=registry)

    known = {host: remembered.get(host) for host in hosts}
    gauge("metrics_timestamp_seconds", "When this was written.").set(now.timestamp())
    complete = gauge(
        "last_complete_run_timestamp_seconds",
        "Since when every node of the fleet that ever was in a whole run of this profile has been in one: its start.",
        "profile",
    )
    for profile, times in runs.items():
        if times:
            complete.labels(profile).set(min(times.values()).timestamp())
    if decided := [each.decided for each in known.values() if each]:
        gauge("last_decision_timestamp_seconds", "When the gate last decided on a node.").set(max(decided).timestamp())
    nodes = gauge("nodes", "Nodes by where they stood when the gate last looked.", "state")
    counts = Counter(_state(each) for each in known.values())
    for state in STATES:
        nodes.labels(state).set(counts[state])
    stopped = gauge("removals_stopped", "Nodes that would be out of service, had not too many been at once.")
    stopped.set(sum(was_stopped(each.reasons) for each in known.values() if each))
    action = gauge("node_state", "1 for what the gate last decided on the node.", "host", "action")
    out = gauge("node_out_seconds", "For how long a node has been out that gpugate took out.", "host")
    until = gauge("word_until_timestamp_seconds", "Until when a person's word about a node is good.", "host", "kind")
    for host, each in known.items():
        action.labels(host, each.action.value if each else UNDECIDED).set(1)
        if each and each.removed is not None:
            out.labels(host).set((now - each.removed).total_seconds())
        if host in words:
            until.labels(host, words[host].kind).set(words[host].until.timestamp())
    return generate_latest(registry)


def _state(known: Remembered | None) -> str:
    if known is None:
        return UNDECIDED
    if known.inside is None:
        return "unknown"
    if known.inside:
        return "in_service"
    return "removed" if known.removed is not None else "kept_out" if known.owner else "out"
