"""Who may burn now: the rule, as a function of all tickets.

Tickets are served in the order of asking. One that does not fit keeps its place in the domains that are full for it;
the oldest of all keeps it in all of its domains. So small wishes pass big ones of other racks, and none waits for ever:
the oldest waits only for burns that end, and each ticket is the oldest some day. The cap of a domain is the smallest
that any node names which burns there, asked earlier, or asks now.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from ..errors import StateError

_SHOWN = 8


@dataclass(frozen=True)
class Cap:
    """How many nodes, GPUs and watts may burn at once in a domain; None: as many as like."""

    nodes: int | None = None
    gpus: int | None = None
    watts: int | None = None


@dataclass(frozen=True)
class Wish:
    """A node that wants to burn `gpus` GPUs with `watts` W in all, in every one of its power domains at once.

    `key` tells this wish from all others. Raises StateError where the node alone is more than a cap: it would wait
    for ever.
    """

    key: str
    node: str
    gpus: int
    watts: int
    domains: Mapping[str, Cap]

    def __post_init__(self) -> None:
        for domain, cap in self.domains.items():
            for unit in _UNITS:
                most = unit.cap(cap)
                if most is not None and unit.need(self) > most:
                    raise StateError(
                        f"{self.node} burns {unit.text(unit.need(self))} {unit.name} by itself and would wait for "
                        f"ever: its power domain {domain} may burn {unit.text(most)} at once "
                        "(gpugate_power_domains)"
                    )


@dataclass(frozen=True)
class Ticket:
    """A wish that was written down. `holder` is user@host; `left_s` is how long it lasts at most, unless renewed."""

    wish: Wish
    holder: str
    waits: bool
    left_s: float


def decide(tickets: Iterable[Ticket], ours: Set[str]) -> dict[str, str]:
    """For the key of each waiting ticket of `ours`: an empty text where it may burn, else why it waits.

    `tickets` are in the order of asking.
    """
    domains: dict[str, _Domain] = defaultdict(_Domain)
    tickets = list(tickets)
    for ticket in tickets:
        if not ticket.waits:
            for name in ticket.wish.domains:
                domains[name].burns(name, ticket)
    answers: dict[str, str] = {}
    oldest = True
    for ticket in tickets:
        if not ticket.waits:
            continue
        wish = ticket.wish
        for name in wish.domains:
            domains[name].heed(name, wish)
        obstacles = {name: why for name in wish.domains if (why := domains[name].obstacle(name, wish))}
        granted = wish.key in ours and not obstacles
        if wish.key in ours:
            answers[wish.key] = f"waits for {'; '.join(obstacles.values())}" if obstacles else ""
        for name in wish.domains:
            if granted:
                domains[name].burns(name, ticket)
            elif name in obstacles or not obstacles or oldest:
                domains[name].keep(wish)
        oldest = oldest and granted
    return answers


class _Domain:
    """What goes on in one domain: who burns, who keeps a place, and the smallest cap of each unit and whose it is."""

    def __init__(self) -> None:
        self._burning: list[Ticket] = []
        self._keeping: list[Wish] = []
        self._used: Counter[str] = Counter()
        self._kept: Counter[str] = Counter()
        self._caps: dict[str, tuple[int, str]] = {}

    def burns(self, name: str, ticket: Ticket) -> None:
        self.heed(name, ticket.wish)
        self._burning.append(ticket)
        self._used.update(_needs(ticket.wish))

    def keep(self, wish: Wish) -> None:
        """Nobody who asked later may take what this one needs."""
        self._keeping.append(wish)
        self._kept.update(_needs(wish))

    def heed(self, name: str, wish: Wish) -> None:
        """Let a node's idea of the cap count."""
        for unit in _UNITS:
            most = unit.cap(wish.domains[name])
            if most is not None:
                known = self._caps.get(unit.name)
                self._caps[unit.name] = min(known, (most, wish.node)) if known else (most, wish.node)

    def obstacle(self, name: str, wish: Wish) -> str:
        """Why a node may not burn here now; empty where it may."""
        for unit in _UNITS:
            if unit.name not in self._caps:
                continue
            most, whose = self._caps[unit.name]
            used, kept, need = self._used[unit.name], self._kept[unit.name], unit.need(wish)
            if used + kept + need <= most:
                continue
            parts = [f"{unit.text(used)} of {unit.text(most)} {unit.name} burn{self._who()}"]
            if unit.name != "nodes":
                parts.append(f"it needs {unit.text(need)}")
            if self._keeping:
                earlier = [other.node for other in self._keeping[:_SHOWN]]
                parts.append(f"asked earlier: {_some(earlier, len(self._keeping))}")
            if most != unit.cap(wish.domains[name]):
                parts.append(f"{unit.text(most)} is the cap of {whose}, the smallest counts")
            return f"power domain {name}: " + "; ".join(parts)
        return ""

    def _who(self) -> str:
        if not self._burning:
            return ""
        nodes = _some([ticket.wish.node for ticket in self._burning[:_SHOWN]], len(self._burning))
        names = list(dict.fromkeys(ticket.holder for ticket in self._burning))
        holders = _some(names[:_SHOWN], len(names))
        first = min(ticket.left_s for ticket in self._burning)
        return f" ({nodes}; held by {holders}; the next ends within {first:.0f} s)"


@dataclass(frozen=True)
class _Unit:
    """One of the things that a cap counts."""

    name: str
    attribute: str
    scale: int = 1

    def cap(self, cap: Cap) -> int | None:
        most: int | None = getattr(cap, self.attribute)
        return most

    def need(self, wish: Wish) -> int:
        return 1 if self.attribute == "nodes" else int(getattr(wish, self.attribute))

    def text(self, amount: int) -> str:
        return f"{amount / self.scale:.10g}"


_UNITS = (_Unit("nodes", "nodes"), _Unit("GPUs", "gpus"), _Unit("kW", "watts", 1000))


def _needs(wish: Wish) -> dict[str, int]:
    return {unit.name: unit.need(wish) for unit in _UNITS}


def _some(first: list[str], total: int) -> str:
    more = f" and {total - len(first)} more" if total > len(first) else ""
    return ", ".join(first) + more
