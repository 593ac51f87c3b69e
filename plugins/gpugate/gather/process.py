"""A process of this machine that speaks for a node: bounded in what it says, and ended with everything it started."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache

from ..errors import NotGathered
from .streams import MAX_STDERR_BYTES, MAX_STDOUT_BYTES, read_bounded, read_lines
from .transport import Answer


async def answer_of(
    argv: Sequence[str], stdin: bytes, where: str, deadline_s: float, on_line: Callable[[str], None] | None = None,
    env: Mapping[str, str] | None = None,
) -> Answer:  # fmt: skip
    """Run a command in a process group of its own, which does not outlive this call.

    Raises TimeoutError at the deadline, and NotGathered, beginning with `where`, when it says too much.
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, env=env
    )
    try:
        async with asyncio.timeout(deadline_s):
            return await _talk(process, stdin, where, on_line)
    finally:
        await end_group(process)


@cache
def dies_with_us() -> list[str]:
    """What to put in front of a command that would outlive a controller that is killed; empty where Linux lacks it."""
    command = ["setpriv", "--pdeathsig", "TERM"]
    try:
        works = subprocess.run([*command, "true"], check=False, capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        works = False
    return command if works else []


async def end_group(process: asyncio.subprocess.Process) -> None:
    """Kill a process and its group, and reap it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # wait() alone waits for the pipes too: full ones that nobody reads, or ones that a daemon inherited.
    process._transport.close()  # type: ignore[attr-defined]  # asyncio has no public way
    await process.wait()


async def _talk(
    process: asyncio.subprocess.Process, stdin: bytes, where: str, on_line: Callable[[str], None] | None
) -> Answer:
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise NotGathered(f"{where}: the command has no pipes")
    # What never reads its input still has an answer, so writing must not be waited for before reading.
    process.stdin.write(stdin)
    process.stdin.close()
    stdout, stderr = await asyncio.gather(
        read_bounded(process.stdout, MAX_STDOUT_BYTES, where),
        read_lines(process.stderr, MAX_STDERR_BYTES, where, on_line),
    )
    return Answer(await process.wait(), stdout, stderr)
