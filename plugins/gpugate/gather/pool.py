"""Open connections, shared by everything that talks to nodes in a session: one a node, and not more than policy allows.

A connection stays open after its use, for a site's testinfra checks or the next look at a burn, until its place is
needed for another node. Logins are limited at once and per second, so that ten thousand nodes neither exhaust this
machine nor alarm the site's own.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ..errors import NotGathered
from ..inventory import Target
from .hops import Hops
from .open import open_transport
from .transport import Transport


@dataclass(frozen=True)
class Limits:
    """`connections` open at once; `logins_per_s` new ones a second. Raises ValueError for less than one, or none."""

    connections: int = 256
    logins_per_s: float = 100.0

    def __post_init__(self) -> None:
        if self.connections < 1 or not 0 < self.logins_per_s < math.inf:
            raise ValueError(f"limits have to be above 0: {self}")


@dataclass(eq=False)
class _Place:
    """One node's connection, or the wait for it."""

    users: int = 0
    broken: bool = False
    transport: Transport | None = None
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)


class Pool:
    """The connections of one session. Belongs to one event loop."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._hops = Hops()
        self._places: OrderedDict[str, _Place] = OrderedDict()  # the least recently used first
        self._room = asyncio.Semaphore(self.limits.connections)
        self._next_login = 0.0

    @asynccontextmanager
    async def of(self, target: Target) -> AsyncIterator[Transport]:
        """An open connection to this node. Raises NotGathered where it cannot be had.

        A connection on which NotGathered was raised is closed, and the next use opens a new one.
        """
        async with self._room:
            place, evicted = self._take(target.name)
            try:
                if evicted is not None:
                    await _close(evicted)
                async with place.opening:
                    if place.transport is None:
                        await self._pace()
                        place.transport = await open_transport(target, self._hops)
                yield place.transport
            except BaseException as error:
                place.broken = place.broken or place.transport is None or isinstance(error, NotGathered)
                raise
            finally:
                place.users -= 1
                if place.broken and not place.users:
                    if self._places.get(target.name) is place:
                        del self._places[target.name]
                    await _close(place)

    async def close(self) -> None:
        """Close everything."""
        places = list(self._places.values())
        self._places.clear()
        await asyncio.gather(*map(_close, places))
        await self._hops.close()

    def _take(self, name: str) -> tuple[_Place, _Place | None]:
        """This node's place, used from now on, and the one that has to be closed for it."""
        place, evicted = self._places.get(name), None
        if place is None or place.broken or (place.transport is not None and place.transport.closed):
            if place is None and len(self._places) >= self.limits.connections:
                # There are fewer users than places, or this one would have had to wait.
                idle = next(key for key, other in self._places.items() if not other.users)
                evicted = self._places.pop(idle)
            place = self._places[name] = _Place()
        place.users += 1
        self._places.move_to_end(name)
        return place, evicted

    async def _pace(self) -> None:
        now = time.monotonic()
        turn = self._next_login = max(now, self._next_login + 1 / self.limits.logins_per_s)
        await asyncio.sleep(turn - now)


async def _close(place: _Place) -> None:
    if place.transport is not None:
        await place.transport.close()
