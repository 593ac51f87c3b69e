"""One asyncssh connection to one node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import asyncssh

from ..inventory import Target
from .patience import Progress, patience, pauses
from .ssh_config import Settings
from .ssh_options import Credentials, Keys, options
from .streams import MAX_STDERR_BYTES, MAX_STDOUT_BYTES, read_bounded, read_lines, reason
from .transport import Answer, refused, silent, stopped, unknown_key, unreachable

_CLOSE_DEADLINE_S = 5.0


class SshTransport:
    """A Transport over asyncssh; `login` opens the connection."""

    def __init__(self, target: Target, connection: asyncssh.SSHClientConnection) -> None:
        self._target, self._connection = target, connection
        self._given_up = False

    async def run(
        self, command: str, stdin: bytes, deadline_s: float, on_line: Callable[[str], None] | None = None
    ) -> Answer:
        """See Transport.run."""
        try:
            async with asyncio.timeout(deadline_s):
                return await self._run(command, stdin, on_line)
        except TimeoutError as error:
            self._given_up = True
            self._connection.abort()  # a node that froze would never confirm that anything is closed
            raise silent(self._target.where, deadline_s) from error
        except (asyncssh.Error, OSError) as error:
            raise stopped(self._target.where, reason(error)) from error

    async def _run(self, command: str, stdin: bytes, on_line: Callable[[str], None] | None) -> Answer:
        process = await self._connection.create_process(command, encoding=None)
        try:
            # A node that has no probe closes its end before it has read the request: its own answer says why.
            try:
                process.stdin.write(stdin)
                process.stdin.write_eof()
            except (BrokenPipeError, asyncssh.Error, OSError):
                pass
            where = self._target.where
            stdout, stderr = await asyncio.gather(
                read_bounded(process.stdout, MAX_STDOUT_BYTES, where),
                read_lines(process.stderr, MAX_STDERR_BYTES, where, on_line),
            )
            await process.wait_closed()
            status = process.returncode
            if status is None:
                raise stopped(where, "the connection was lost")
            return Answer(status, stdout, stderr)
        finally:
            process.close()

    @property
    def closed(self) -> bool:
        """See Transport.closed."""
        return self._given_up or self._connection.is_closed()

    async def close(self) -> None:
        """See Transport.close."""
        await close_connection(self._connection)


async def login(
    where: str, settings: Settings, credentials: Credentials, connect_s: float, *,
    password: str | None = None, tunnel: asyncssh.SSHClientConnection | None = None,
) -> asyncssh.SSHClientConnection:  # fmt: skip
    """Connect and log in; raises NotGathered, with a sentence of its own for each cause.

    `where` begins those sentences. `tunnel` is the jump host's connection. What an overloaded sshd drops before the key
    exchange is over (MaxStartups) is tried again, in the same time.
    """
    keys, trusted = credentials.keys(settings), credentials.known_hosts(settings).trusted(settings)
    async with patience(where, connect_s) as progress:
        try:
            return await _log_in(settings, trusted, keys, password, tunnel, progress)
        except asyncssh.HostKeyNotVerifiable as error:
            raise unknown_key(where, bool(trusted[0] or trusted[1]), reason(error)) from error
        except asyncssh.PermissionDenied as error:
            unread = f"; not tried: {', '.join(keys.unread)}" if keys.unread else ""
            raise refused(where, reason(error) + unread) from error
        except (asyncssh.Error, OSError, ValueError) as error:
            raise unreachable(where, reason(error)) from error


async def _log_in(
    settings: Settings, trusted: tuple[Any, ...], keys: Keys, password: str | None,
    tunnel: asyncssh.SSHClientConnection | None, progress: Progress,
) -> asyncssh.SSHClientConnection:  # fmt: skip
    latest: list[asyncssh.SSHClientConnection] = []

    class Client(asyncssh.SSHClient):
        def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
            latest[:] = [conn]
            progress.connected()

    async def attempt() -> asyncssh.SSHClientConnection:
        latest.clear()
        return await asyncssh.connect(
            client_factory=Client, tunnel=tunnel, login_timeout=0, connect_timeout=None,
            **_proxy(settings, tunnel), **options(settings, trusted, keys, password),
        )  # fmt: skip

    for pause in pauses():
        try:
            return await attempt()
        except (asyncssh.ConnectionLost, asyncssh.ProtocolError, ConnectionError) as error:
            # Only where nobody has been asked to let us in yet: connected, and lost before keys were exchanged.
            if not latest or latest[0].get_extra_info("recv_cipher") is not None:
                raise
            progress.lost = reason(error)
        await asyncio.sleep(pause)
    return await attempt()


async def close_connection(connection: asyncssh.SSHClientConnection) -> None:
    """Close, and do not wait long for the other side."""
    connection.close()
    try:
        async with asyncio.timeout(_CLOSE_DEADLINE_S):
            await connection.wait_closed()
    except (TimeoutError, asyncssh.Error, OSError):
        connection.abort()


def _proxy(settings: Settings, tunnel: asyncssh.SSHClientConnection | None) -> dict[str, Any]:
    command = settings.get("proxycommand")
    if tunnel is not None or not command:
        return {}
    return {"proxy_command": ["sh", "-c", f"exec {settings.expand(command)}"]}
