"""What every way of reaching a node offers, and the sentences for the ways in which it fails."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..inventory import Target

_MARK = "gpugate-input-begins"


@dataclass(frozen=True)
class Answer:
    """What a command said: exit status, output and error output, both bounded.

    A negative status is the signal that killed the command; where the OpenSSH client carries it, that is 255.
    """

    status: int
    stdout: bytes
    stderr: bytes


class Transport(Protocol):
    """One open way to one node. `run` may be called again while it is open."""

    async def run(
        self, command: str, stdin: bytes, deadline_s: float, on_line: Callable[[str], None] | None = None
    ) -> Answer:
        """Run a shell command line; raises NotGathered when the node does not answer in `deadline_s`.

        `on_line` hears each line of error output as it comes (progress).
        """

    @property
    def closed(self) -> bool:
        """Whether the connection is known to be gone: another `run` could only fail."""

    async def close(self) -> None:
        """Give the connection back; never raises, and never waits long for the other side."""


def privileged(target: Target, argv: list[str], stdin: bytes) -> tuple[str, bytes]:
    """The command line and input that run `argv` on the node with the privilege that the inventory asks for."""
    command = shlex.join(argv)
    if not target.become:
        return command, stdin
    user = shlex.quote(target.become_user)
    if target.become_password is None:
        return f"sudo -H -n -u {user} -- {command}", stdin
    # sudo reads the password's line from the same input, but only where it needs one: the command's begins at a mark.
    command = shlex.join(
        ["sh", "-c", f'until IFS= read -r line && [ "$line" = {_MARK} ]; do :; done; exec "$@"', "sh", *argv]
    )
    given = f"{target.become_password}\n{_MARK}\n".encode()
    return f"sudo -H -S -p '' -u {user} -- {command}", given + stdin
