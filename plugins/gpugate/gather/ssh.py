"""One asyncssh connection to one node."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncssh

from ..errors import NotGathered
from ..inventory import Target
from .ssh_options import config_text
from .transport import MAX_STDERR_BYTES, MAX_STDOUT_BYTES, Answer

_CLOSE_DEADLINE_S = 5.0


class SshTransport:
    """A Transport over asyncssh; see `connect`."""

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
            raise NotGathered(f"{self._target.where} dropped the connection: {_reason(error)}") from error

    async def _run(self, command: str, stdin: bytes, on_line: Callable[[str], None] | None) -> Answer:
        process = await self._connection.create_process(command, encoding=None)
        try:
            # A node that has no probe closes its end before it has read the request: its own answer says why.
            try:
                process.stdin.write(stdin)
                process.stdin.write_eof()
            except (BrokenPipeError, asyncssh.Error, OSError):
                pass
            stdout, stderr = await asyncio.gather(
                read_bounded(process.stdout, MAX_STDOUT_BYTES, self._target),
                read_lines(process.stderr, MAX_STDERR_BYTES, self._target, on_line),
            )
            await process.wait_closed()
            status = process.returncode
            if status is None:
                raise NotGathered(f"{self._target.where} dropped the connection while the command ran")
            return Answer(status, stdout, stderr)
        finally:
            process.close()

    async def close(self) -> None:
        """See Transport.close."""
        self._connection.close()
        try:
            async with asyncio.timeout(_CLOSE_DEADLINE_S):
                await self._connection.wait_closed()
        except (TimeoutError, asyncssh.Error, OSError):
            self._connection.abort()


async def connect(target: Target, deadline_s: float) -> SshTransport:
    """Log in with the inventory's settings; raises NotGathered naming what went wrong."""
    text, files, agent = config_text(target)
    with tempfile.NamedTemporaryFile("w", prefix="gpugate-ssh-", suffix=".conf") as own:
        own.write(text)
        own.flush()
        configs = [own.name, *map(str, files)]
        options: dict[str, Any] = {"config": configs, "login_timeout": deadline_s, "connect_timeout": deadline_s}
        if target.port is not None:
            options["port"] = target.port
        if target.user is not None:
            options["username"] = target.user
        if target.private_key is not None:
            options["client_keys"] = [str(Path(target.private_key).expanduser())]
        if target.password is not None:
            options["password"] = target.password
        if not agent:
            options["agent_path"] = None
        try:
            async with asyncio.timeout(deadline_s):
                connection = await asyncssh.connect(target.address or target.name, **options)
        except TimeoutError as error:
            raise NotGathered(f"{target.where} did not let us in within {deadline_s:g} s") from error
        except asyncssh.HostKeyNotVerifiable as error:
            raise NotGathered(
                f"{target.where} shows a host key that known_hosts does not hold: it is another machine, was "
                f"reinstalled, or was never registered ({_reason(error)})"
            ) from error
        except asyncssh.PermissionDenied as error:
            raise NotGathered(f"{target.where} refuses our login: {_reason(error)}") from error
        except (asyncssh.Error, OSError, ValueError) as error:
            raise NotGathered(f"{target.where} cannot be reached: {_reason(error)}") from error
    return SshTransport(target, connection)


async def read_bounded(stream: Any, most: int, target: Target) -> bytes:
    """All bytes of a stream, up to `most`; more is refused."""
    parts, total = [], 0
    while chunk := await stream.read(65536):
        total += len(chunk)
        if total > most:
            raise NotGathered(f"{target.where} sent more than {most} bytes")
        parts.append(chunk)
    return b"".join(parts)


async def read_lines(stream: Any, most: int, target: Target, on_line: Callable[[str], None] | None) -> bytes:
    """As `read_bounded`, and hands every whole line to `on_line` when it arrives."""
    parts, total, rest = [], 0, b""
    while chunk := await stream.read(65536):
        total += len(chunk)
        if total > most:
            raise NotGathered(f"{target.where} sent more than {most} bytes of messages")
        parts.append(chunk)
        if on_line is not None:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                on_line(printable(line))
    return b"".join(parts)


def printable(text: bytes) -> str:
    """A node's bytes for a terminal: what is not printable is escaped."""
    decoded = text.decode("utf-8", "backslashreplace").strip()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in decoded)


def _reason(error: BaseException) -> str:
    text = getattr(error, "reason", "") or getattr(error, "strerror", "") or str(error) or type(error).__name__
    return printable(str(text).encode())
