"""One asyncssh connection to one node."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import asyncssh

from ..errors import NotGathered
from ..inventory import Target
from .ssh_config import Settings
from .ssh_options import Credentials, Keys, options
from .streams import MAX_STDERR_BYTES, MAX_STDOUT_BYTES, read_bounded, read_lines, reason
from .transport import Answer

LOGIN_DEADLINE_S = 20.0
RETRIES = 3
_CLOSE_DEADLINE_S = 5.0


class SshTransport:
    """A Transport over asyncssh; `login` opens the connection."""

    def __init__(self, target: Target, connection: asyncssh.SSHClientConnection) -> None:
        self._target, self._connection = target, connection

    async def run(
        self, command: str, stdin: bytes, deadline_s: float, on_line: Callable[[str], None] | None = None
    ) -> Answer:
        """See Transport.run."""
        try:
            async with asyncio.timeout(deadline_s):
                return await self._run(command, stdin, on_line)
        except TimeoutError as error:
            self._connection.abort()  # a node that froze would never confirm that anything is closed
            raise NotGathered(f"{self._target.where} gave no answer within {deadline_s:g} s after login") from error
        except (asyncssh.Error, OSError) as error:
            raise NotGathered(f"{self._target.where} stopped answering after login: {reason(error)}") from error

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
                raise NotGathered(f"{where} stopped answering after login: the connection was lost")
            return Answer(status, stdout, stderr)
        finally:
            process.close()

    @property
    def closed(self) -> bool:
        """See Transport.closed."""
        return self._connection.is_closed()

    async def close(self) -> None:
        """See Transport.close."""
        await close_connection(self._connection)


async def login(
    where: str, settings: Settings, credentials: Credentials, connect_s: float, *,
    password: str | None = None, tunnel: asyncssh.SSHClientConnection | None = None,
) -> asyncssh.SSHClientConnection:  # fmt: skip
    """Connect and log in; raises NotGathered, with a sentence of its own for each cause.

    `where` begins those sentences. `tunnel` is the jump host's connection. `connect_s` is for TCP alone, and
    LOGIN_DEADLINE_S for everything that follows it. What an overloaded sshd drops before the key exchange is over
    (MaxStartups) is tried again, in the same time.
    """
    keys, trusted = credentials.keys(settings), credentials.known_hosts(settings).trusted(settings)
    progress = _Progress(connect_s)
    try:
        async with asyncio.timeout(connect_s) as progress.limit:
            for pause in (*(attempt + random.random() for attempt in range(RETRIES)), None):  # noqa: S311 - no secret
                try:
                    return await asyncssh.connect(
                        client_factory=progress.client, tunnel=tunnel, login_timeout=0, connect_timeout=None,
                        **_proxy(settings, tunnel), **options(settings, trusted, keys, password),
                    )  # fmt: skip
                except (asyncssh.ConnectionLost, asyncssh.ProtocolError, ConnectionError) as error:
                    if pause is None or not progress.may_retry:
                        raise
                    progress.lost = reason(error)
                await asyncio.sleep(pause)
            raise AssertionError("the last attempt returns or raises")
    except TimeoutError as error:
        raise NotGathered(progress.late(where)) from error
    except asyncssh.HostKeyNotVerifiable as error:
        raise NotGathered(unknown_key(where, bool(trusted[0] or trusted[1]), reason(error))) from error
    except asyncssh.PermissionDenied as error:
        raise NotGathered(f"{where} refuses our login: {reason(error)}{_unread(keys)}") from error
    except (asyncssh.Error, OSError, ValueError) as error:
        raise NotGathered(f"{where} cannot be reached: {reason(error)}") from error


def unknown_key(where: str, known: bool, said: str) -> str:
    """The sentence for a host key that was not accepted; `known`: another one is registered under this name."""
    why = (
        "another key is registered for it, so it was reinstalled, or is another machine"
        if known
        else "none is registered for it: compare its key on its console, then add it with ssh-keyscan"
    )
    return f"{where} shows a host key that known_hosts does not hold: {why} ({said})"


async def close_connection(connection: asyncssh.SSHClientConnection) -> None:
    """Close, and do not wait long for the other side."""
    connection.close()
    try:
        async with asyncio.timeout(_CLOSE_DEADLINE_S):
            await connection.wait_closed()
    except (TimeoutError, asyncssh.Error, OSError):
        connection.abort()


class _Progress:
    """How far a login has come, which decides what a missed deadline means and whether another attempt is safe."""

    limit: asyncio.Timeout

    def __init__(self, connect_s: float) -> None:
        self._connect_s = connect_s
        self._connection: asyncssh.SSHClientConnection | None = None
        self.lost = ""

    def client(self) -> asyncssh.SSHClient:
        """A client that reports here."""
        progress = self

        class Client(asyncssh.SSHClient):
            def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
                if progress._connection is None:
                    progress.limit.reschedule(asyncio.get_running_loop().time() + LOGIN_DEADLINE_S)
                progress._connection = conn

        return Client()

    @property
    def may_retry(self) -> bool:
        """The connection was made, and ended before keys were exchanged: nobody has been asked to let us in yet."""
        return self._connection is not None and self._connection.get_extra_info("recv_cipher") is None

    def late(self, where: str) -> str:
        """The sentence for a missed deadline."""
        if self._connection is None:
            return f"{where} did not answer at all within {self._connect_s:g} s (connect)"
        return f"{where} did not let us in within {LOGIN_DEADLINE_S:g} s (login){f': {self.lost}' if self.lost else ''}"


def _proxy(settings: Settings, tunnel: asyncssh.SSHClientConnection | None) -> dict[str, Any]:
    command = settings.get("proxycommand")
    if tunnel is not None or not command:
        return {}
    return {"proxy_command": ["sh", "-c", f"exec {settings.expand(command)}"]}


def _unread(keys: Keys) -> str:
    return f"; not tried: {', '.join(keys.unread)}" if keys.unread else ""
