"""Jump hosts, each logged in to once for all the hosts behind it."""

from __future__ import annotations

import asyncio
import re
import shlex
from dataclasses import dataclass, field

import asyncssh

from ..errors import NotGathered
from .ssh import close_connection, login
from .ssh_config import Configs, Settings
from .ssh_options import Credentials, require_nothing_more

_FLAGS_WITH_VALUE = "BbcDEeFIiJLlmOopQRSWw"


@dataclass(frozen=True)
class Jump:
    """A jump host as it is asked for: the arguments and the destination that `ssh` would be given."""

    arguments: tuple[str, ...]
    destination: str

    @property
    def where(self) -> str:
        return f"the jump host {self.destination.removeprefix('ssh://')}"


def jump_of(settings: Settings) -> Jump | None:
    """The jump host next to a destination: of ProxyJump, or of a ProxyCommand that is nothing but `ssh -W`."""
    if chain := settings.get("proxyjump"):
        *before, last = chain.split(",")
        through = ("-J", ",".join(before)) if before else ()
        place = last if last.startswith("ssh://") else f"ssh://{last}"
        return Jump((*settings.config_file, *through), place)
    return _jump_of_command(settings.get("proxycommand"))


def _jump_of_command(command: str) -> Jump | None:
    """`ssh [OPTIONS] -W %h:%p HOST`; None for any other command, which is then run as it is."""
    if re.search(r"[$`;&|<>()*?~\n]", command):
        return None
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    if len(words) < 3 or words[0].rpartition("/")[2] != "ssh":
        return None
    arguments: list[str] = []
    places: list[str] = []
    forwards = False
    rest = iter(words[1:])
    for word in rest:
        if not word.startswith("-") or len(word) < 2:
            places.append(word)
            continue
        value = ""
        if word[1] in _FLAGS_WITH_VALUE:
            value = word[2:] or next(rest, "")
        if word[1] == "W":
            forwards = value in ("%h:%p", "[%h]:%p")
        elif value:
            arguments += [word[:2], value]
        else:
            arguments.append(word)
    if not forwards or len(places) != 1 or any("%" in argument for argument in arguments):
        return None
    return Jump(tuple(arguments), places[0])


@dataclass
class _Shared:
    """One jump host's connection, or the login that is under way, or why there is none."""

    opening: asyncio.Task[asyncssh.SSHClientConnection]
    renewed: bool = False


@dataclass
class Hops:
    """What the hosts of one gather share: configuration, keys, known hosts, and one connection for each jump host."""

    configs: Configs = field(default_factory=Configs)
    credentials: Credentials = field(default_factory=Credentials)
    _shared: dict[Jump, _Shared] = field(default_factory=dict)

    async def tunnel(self, jump: Jump, connect_s: float) -> asyncssh.SSHClientConnection:
        """The jump host's connection; raises NotGathered, in the same words for every host behind it.

        A connection that was lost is made anew once.
        """
        shared = self._shared.get(jump)
        if shared is None or (not shared.renewed and _is_lost(shared.opening)):
            opening = asyncio.create_task(self._login(jump, connect_s))
            shared = self._shared[jump] = _Shared(opening, renewed=shared is not None)
        connection = await asyncio.shield(shared.opening)
        if connection.is_closed():
            raise NotGathered(f"{jump.where} cannot be reached: it dropped its connection twice")
        return connection

    async def _login(self, jump: Jump, connect_s: float) -> asyncssh.SSHClientConnection:
        try:
            settings, before = await self._chain(jump)
            tunnel = None if before is None else await self.tunnel(before, connect_s)
        except NotGathered as error:
            raise NotGathered(f"{jump.where} cannot be reached: {error}") from error
        return await login(jump.where, settings, self.credentials, connect_s, tunnel=tunnel)

    async def _chain(self, jump: Jump) -> tuple[Settings, Jump | None]:
        """A jump host's settings and the jump host before it; raises NotGathered where the way there is a circle."""
        settings = await self.configs.settings(jump.arguments, jump.destination)
        before, passed = jump_of(settings), [jump]
        following = before
        while following is not None:
            if following in passed:
                raise NotGathered(f"the way there goes in a circle, through {following.where}")
            passed.append(following)
            following = jump_of(await self.configs.settings(following.arguments, following.destination))
        require_nothing_more(settings)
        return settings, before

    async def close(self) -> None:
        """End every jump connection; never raises."""
        shared, self._shared = list(self._shared.values()), {}
        for one in shared:
            one.opening.cancel()
        opened = await asyncio.gather(*(one.opening for one in shared), return_exceptions=True)
        self.configs.close()
        await asyncio.gather(
            *(close_connection(one) for one in reversed(opened) if isinstance(one, asyncssh.SSHClientConnection))
        )


def _is_lost(opening: asyncio.Task[asyncssh.SSHClientConnection]) -> bool:
    return opening.done() and not opening.cancelled() and opening.exception() is None and opening.result().is_closed()
