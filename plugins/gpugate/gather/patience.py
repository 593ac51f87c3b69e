"""How long each step of reaching a node may take, and what a missed deadline says."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from .transport import no_connection, no_login

LOGIN_DEADLINE_S = 20.0
RETRIES = 3


class Progress:
    """How far reaching a node has come: TCP first, then the login (key exchange and authentication)."""

    def __init__(self, limit: asyncio.Timeout) -> None:
        self._limit = limit
        self.is_connected = False
        self.lost = ""  # why an earlier attempt ended

    def connected(self) -> None:
        """The node answers; from the first time on the login's own deadline counts, for all attempts together."""
        if not self.is_connected and not self._limit.expired():
            self.is_connected = True
            self._limit.reschedule(asyncio.get_running_loop().time() + LOGIN_DEADLINE_S)


@asynccontextmanager
async def patience(where: str, connect_s: float) -> AsyncIterator[Progress]:
    """Give what happens inside `connect_s` to connect, and LOGIN_DEADLINE_S more from then on; raises NotGathered."""
    limit = asyncio.timeout(connect_s)
    progress = Progress(limit)
    try:
        async with limit:
            yield progress
    except TimeoutError as error:
        if not limit.expired():
            raise
        if not progress.is_connected:
            raise no_connection(where, connect_s) from error
        raise no_login(where, LOGIN_DEADLINE_S, progress.lost) from error


def pauses() -> Iterator[float]:
    """Seconds to wait before each retry: an sshd that drops what it has no time for (MaxStartups) drops at random."""
    for attempt in range(RETRIES):
        yield (attempt + 1) * random.uniform(0.3, 1.0)  # noqa: S311 - no secret
