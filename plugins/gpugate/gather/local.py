"""This machine as a node (`ansible_connection: local`)."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress

from ..errors import NotGathered
from ..inventory import Target
from .ssh import read_bounded, read_lines
from .transport import MAX_STDERR_BYTES, MAX_STDOUT_BYTES, Answer


class LocalTransport:
    """A Transport that starts the command here, in a process group of its own."""

    def __init__(self, target: Target) -> None:
        self._target = target

    async def run(
        self, command: str, stdin: bytes, deadline_s: float, on_line: Callable[[str], None] | None = None
    ) -> Answer:
        """See Transport.run."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_shell(
            command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
        try:
            async with asyncio.timeout(deadline_s):
                return await self._talk(process, stdin, on_line)
        except TimeoutError as error:
            raise NotGathered(f"{self._target.where} gave no answer within {deadline_s:g} s") from error
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            # wait() alone waits for the pipes too: full ones that nobody reads, or ones that a daemon inherited.
            process._transport.close()  # type: ignore[attr-defined]  # asyncio has no public way
            await process.wait()

    async def _talk(
        self, process: asyncio.subprocess.Process, stdin: bytes, on_line: Callable[[str], None] | None
    ) -> Answer:
        if process.stdin is None:
            raise NotGathered(f"{self._target.where}: the command has no input")
        with suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(stdin)
            await process.stdin.drain()
        process.stdin.close()
        stdout, stderr = await asyncio.gather(
            read_bounded(process.stdout, MAX_STDOUT_BYTES, self._target),
            read_lines(process.stderr, MAX_STDERR_BYTES, self._target, on_line),
        )
        return Answer(await process.wait(), stdout, stderr)

    async def close(self) -> None:
        """Nothing is held open."""
