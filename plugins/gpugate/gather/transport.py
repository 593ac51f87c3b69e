"""What every way of reaching a node offers, and the sentences for the ways in which it fails."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..errors import NotGathered
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


def no_connection(where: str, seconds: float) -> NotGathered:
    """TCP did not connect."""
    return NotGathered(f"{where} did not answer at all within {seconds:g} s (connect)")


def no_login(where: str, seconds: float, said: str) -> NotGathered:
    """TCP connected, and the login did not end; `said` is why an earlier attempt failed."""
    return NotGathered(f"{where} did not let us in within {seconds:g} s (login){f': {said}' if said else ''}")


def unknown_key(where: str, known: bool, said: str) -> NotGathered:
    """The host key was not accepted; `known`: another one is registered under this name."""
    why = (
        "another key is registered for it, so it was reinstalled, or is another machine"
        if known
        else "none is registered for it: compare its key on its console, then add it (ssh-keyscan)"
    )
    return NotGathered(f"{where} shows a host key that known_hosts does not hold: {why} ({said})")


def refused(where: str, said: str) -> NotGathered:
    """The host knows neither our keys nor our password."""
    return NotGathered(f"{where} refuses our login: {said}")


def unreachable(where: str, said: str) -> NotGathered:
    """Anything else that went wrong before the login was over."""
    return NotGathered(f"{where} cannot be reached: {said}")


def stopped(where: str, said: str) -> NotGathered:
    """The connection was lost after the login."""
    return NotGathered(f"{where} stopped answering after login: {said}")


def silent(where: str, seconds: float) -> NotGathered:
    """The connection stands, and the command did not end."""
    return NotGathered(f"{where} gave no answer within {seconds:g} s after login")
