"""The gate: compares a report with what the nodes' policies expect of it. It asks no node and carries nothing out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ..policy import Level, Policy
from ..report.reader import Report
from .decision import Case, Decision, Present, decide
from .standing import NEW, History, Standing, Word


@dataclass(frozen=True)
class Node:
    """A node that somebody asks about: its policy, what it is now, and the failure domains that it is in."""

    host: str
    policy: Policy
    present: Present
    domains: tuple[str, ...] = ()


@dataclass(frozen=True)
class Known:
    """What is known of a node beside report and policy; `standing` is None where the back end cannot tell."""

    standing: Standing | None
    history: History = NEW
    word: Word | None = None


def decide_all(report: Report, nodes: Sequence[Node], known: Mapping[str, Known], now: datetime) -> list[Decision]:
    """A decision for every node, in their order. Hosts of the report that nobody asks about are left alone.

    `now` is local time with its zone: a waiver's last day ends at local midnight.
    """
    twins = _twins(report, nodes)
    nobody = Known(None)
    return [decide(_case(report, node, known.get(node.host, nobody), now, twins.get(node.host, ()))) for node in nodes]


def _twins(report: Report, nodes: Sequence[Node]) -> dict[str, tuple[str, ...]]:
    """The other hosts that have a GPU of a host too, in the report or now: they are one machine under two names."""
    owners: defaultdict[str, set[str]] = defaultdict(set)
    for host, suite in report.hosts.items():
        for uuid in filter(None, suite.identity.get("gpu_uuids", "").split(",")):
            owners[uuid].add(host)
    for node in nodes:
        for uuid in node.present.gpu_uuids or ():
            owners[uuid].add(node.host)
    found: defaultdict[str, set[str]] = defaultdict(set)
    for hosts in owners.values():
        for host in hosts if len(hosts) > 1 else ():
            found[host] |= hosts - {host}
    return {host: tuple(sorted(others)) for host, others in found.items()}


def _case(report: Report, node: Node, known: Known, now: datetime, twins: tuple[str, ...]) -> Case:
    policy = node.policy
    expected: dict[str, Level] = {check: policy.level_of(check) for check in policy.expected(report.profile)}
    return Case(
        host=node.host,
        expected=expected,
        waivers=tuple(policy.waivers),
        policy_digest=policy.digest,
        max_age_s=policy.report_max_age_s,
        clock_skew_s=policy.clock_skew_s,
        report=report,
        present=node.present,
        standing=known.standing,
        history=known.history,
        word=known.word,
        greens_to_return=policy.greens_to_return,
        suspect_after=policy.suspect_after,
        twins=twins,
        now=now,
    )
