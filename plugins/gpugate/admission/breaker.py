"""The circuit breaker: more removals at once than policy allows stop all of them.

A fault that takes out many nodes on one day is seldom many faults: it is a rack's power, a driver, a check with a bug.
Whoever removes them all turns a doubt into an outage. So removals are counted by fleet, failure domain, cause and
driver, together with those that the gate made lately, and one group above its share stops every removal of the run.
Pure: everything that it looks at is handed in.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..errors import AdmissionError
from .decision import Action, Decision


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many of a group's nodes may be removed within `window_h` hours, in per cent of those in service; but
    `at_least` always may be, or a small fleet would never lose a broken node. `cause` is one check, in per cent of the
    fleet."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    fleet_percent: float = 10.0
    domain_percent: float = 50.0
    driver_percent: float = 25.0
    cause_percent: float = 5.0
    at_least: int = 2
    window_h: float = 24.0


TOO_MANY = "too many nodes would be removed at once"
_LIMITS = TypeAdapter(Limits)


def limits_from(value: Mapping[str, object]) -> Limits:
    """The limits that an inventory gives; raises AdmissionError naming what is wrong."""
    try:
        limits = _LIMITS.validate_json(json.dumps(value, default=str))  # through JSON: 10 is a float too
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, ("gpugate_breaker", *first["loc"])))
        raise AdmissionError(f"{where}: {first['msg']}") from error
    for name, most in (("fleet_percent", 100), ("domain_percent", 100), ("driver_percent", 100), ("cause_percent", 100),
                       ("window_h", 24 * 365)):  # fmt: skip
        if not 0 <= getattr(limits, name) <= most:
            raise AdmissionError(f"gpugate_breaker: {name}: {getattr(limits, name)} is not between 0 and {most}")
    if limits.at_least < 0:
        raise AdmissionError(f"gpugate_breaker: at_least: {limits.at_least} is below 0")
    return limits


@dataclass(frozen=True)
class Member:
    """One node of the fleet: whether it counts as in service, the checks for which it was removed lately (empty: it
    was not), and the groups that it is in beside the fleet."""

    inside: bool
    removed_for: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    driver: str = ""


class Group(NamedTuple):
    """Nodes that may have one fault in common."""

    kind: str
    name: str

    def __str__(self) -> str:
        return {"fleet": "the fleet", "domain": f"failure domain {self.name}", "driver": f"driver {self.name}",
                "cause": f"for {self.name}"}[self.kind]  # fmt: skip


@dataclass(frozen=True)
class Tripped:
    """A group above its share: so many would be out of so many, and so many may."""

    group: Group
    out: int
    of: int
    may: int

    def __str__(self) -> str:
        share = f"{self.may} of {self.of} {'node' if self.of == 1 else 'nodes'}"
        if self.group.kind == "cause":
            return f"{self.out} node{'s' * (self.out != 1)} {self.group}, and {share} may"
        return f"{self.out} of {self.group}, and {share} may"


def trips(decisions: Iterable[Decision], fleet: Mapping[str, Member], limits: Limits) -> list[Tripped]:
    """The groups that the removals among the decisions would bring above their share, the worst first.

    `fleet` holds every node that the gate knows of, as it was before the decisions.
    """
    due = {each.host: each.checks for each in decisions if each.action is Action.REMOVE}
    if not due:
        return []
    out: defaultdict[Group, set[str]] = defaultdict(set)
    size: defaultdict[Group, set[str]] = defaultdict(set)
    for host, member in fleet.items():
        checks = due.get(host, member.removed_for)
        for group in _groups(member):
            if member.inside or checks:
                size[group].add(host)
            if checks:
                out[group].add(host)
        for check in checks:
            out[Group("cause", check)].add(host)
    found = []
    for group, hosts in out.items():
        if hosts.isdisjoint(due):  # what nobody adds to is no news
            continue
        of = len(size[Group("fleet", "") if group.kind == "cause" else group])
        may = max(limits.at_least, int(of * _percent(limits, group) / 100))
        if len(hosts) > may:
            found.append(Tripped(group, len(hosts), of, may))
    return sorted(found, key=lambda each: (-each.out / max(each.may, 1), each.group))


def stopped(decisions: Sequence[Decision], why: str) -> list[Decision]:
    """The same decisions with every removal held."""
    return [
        replace(each, action=Action.HOLD, checks=(), reasons=(_held(why), *each.reasons))
        if each.action is Action.REMOVE
        else each
        for each in decisions
    ]


def was_stopped(reasons: Sequence[str]) -> bool:
    """Whether these are the reasons of a removal that was held because there were too many."""
    return _held(TOO_MANY) in reasons


def _held(why: str) -> str:
    return f"would be removed, but {why}"


def _groups(member: Member) -> list[Group]:
    groups = [Group("fleet", ""), *(Group("domain", name) for name in member.domains)]
    return [*groups, Group("driver", member.driver)] if member.driver else groups


def _percent(limits: Limits, group: Group) -> float:
    return {"fleet": limits.fleet_percent, "domain": limits.domain_percent, "driver": limits.driver_percent,
            "cause": limits.cause_percent}[group.kind]  # fmt: skip
