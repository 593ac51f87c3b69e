"""What the hosts of a gather share: configuration, keys, known hosts, and one connection to each jump host."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import asyncssh

from ..errors import NotGathered
from .jump import Jump, jump_of
from .master import Master, open_master
from .ssh import close_connection, login
from .ssh_config import Configs, Settings
from .ssh_options import Credentials
from .transport import unreachable

MEMORY_S = 60.0
_LONGEST_FOLDER = 60  # a control socket's path has to fit into 108 bytes, with what ssh adds to it


T = TypeVar("T")


@dataclass
class _Opening(Generic[T]):
    """A login at a jump host, under way or over; `again`: the connection before it was lost."""

    task: asyncio.Task[T]
    since: float
    again: bool


class _Shared(Generic[T]):
    """One connection for each jump host, or the login under way, or why there is none.

    A connection that was lost is made anew at once, but not over and over: what failed, or was lost twice, is told to
    every host that comes within MEMORY_S, and then tried again, for a gather may take hours.
    """

    def __init__(self, lost: Callable[[T], bool]) -> None:
        self._lost = lost
        self._latest: dict[Jump, _Opening[T]] = {}
        self._tasks: list[asyncio.Task[T]] = []

    async def get(self, jump: Jump, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
        now = asyncio.get_running_loop().time()
        latest = self._latest.get(jump)
        if latest is None or self._is_worth_another(latest, now):
            again = latest is not None and now - latest.since <= MEMORY_S
            latest = self._latest[jump] = _Opening(asyncio.create_task(begin()), now, again)
            self._tasks.append(latest.task)
        connection = await asyncio.shield(latest.task)
        if self._lost(connection):
            raise unreachable(jump.where, "it dropped its connection, and the next one too")
        return connection

    def _is_worth_another(self, latest: _Opening[T], now: float) -> bool:
        if not latest.task.done():
            return False
        remembered = now - latest.since <= MEMORY_S
        if latest.task.cancelled() or latest.task.exception() is not None:
            return not remembered
        return self._lost(latest.task.result()) and not (latest.again and remembered)

    async def close(self) -> list[T]:
        """Give up logins under way; the connections, the latest first, are the caller's to close."""
        tasks, self._tasks = self._tasks, []
        self._latest.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return [task.result() for task in reversed(tasks) if not task.cancelled() and task.exception() is None]


class Hops:
    """Belongs to one event loop; close it when the last host is done."""

    def __init__(self) -> None:
        self.configs, self.credentials = Configs(), Credentials()
        self._tunnels: _Shared[asyncssh.SSHClientConnection] = _Shared(lambda tunnel: tunnel.is_closed())
        self._masters: _Shared[Master] = _Shared(lambda master: master.closed)
        self._folder: Path | None = None

    @property
    def folder(self) -> Path:
        """A private folder for control sockets."""
        if self._folder is None:
            place = tempfile.gettempdir()
            place = place if len(place) <= _LONGEST_FOLDER else "/tmp"  # noqa: S108 - mkdtemp makes it private
            self._folder = Path(tempfile.mkdtemp(prefix="gpugate-", dir=place))
        return self._folder

    async def chain(self, settings: Settings) -> list[tuple[Jump, Settings]]:
        """The jump hosts on the way to a destination, the nearest to it first; raises NotGathered for a circle."""
        passed: list[tuple[Jump, Settings]] = []
        jump = jump_of(settings)
        while jump is not None:
            if jump in [other for other, _ in passed]:
                raise NotGathered(f"the way there goes in a circle, through {jump.where}")
            try:
                passed.append((jump, await self.configs.settings(jump.arguments, jump.destination)))
            except NotGathered as error:
                raise unreachable(jump.where, str(error)) from error
            jump = jump_of(passed[-1][1])
        return passed

    async def tunnel(self, chain: list[tuple[Jump, Settings]], connect_s: float) -> asyncssh.SSHClientConnection | None:
        """The connection to the chain's first jump host, through the others; None for an empty chain.

        Raises NotGathered, in the same words for every host behind it.
        """
        if not chain:
            return None
        (jump, settings), *before = chain

        async def begin() -> asyncssh.SSHClientConnection:
            tunnel = await self._through(jump, self.tunnel(before, connect_s))
            return await login(jump.where, settings, self.credentials, connect_s, tunnel=tunnel)

        return await self._tunnels.get(jump, begin)

    async def master(self, chain: list[tuple[Jump, Settings]], connect_s: float) -> Master | None:
        """As `tunnel`, by the OpenSSH client."""
        if not chain:
            return None
        (jump, settings), *before = chain

        async def begin() -> Master:
            through = await self._through(jump, self.master(before, connect_s))
            return await open_master(jump.where, settings, self.folder, connect_s, through=through)

        return await self._masters.get(jump, begin)

    @staticmethod
    async def _through(jump: Jump, opening: Coroutine[Any, Any, T]) -> T:
        try:
            return await opening
        except NotGathered as error:
            raise unreachable(jump.where, str(error)) from error

    async def close(self) -> None:
        """End every jump connection; never raises."""
        self.configs.close()
        for tunnel in await self._tunnels.close():
            await close_connection(tunnel)
        for master in await self._masters.close():
            await master.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
