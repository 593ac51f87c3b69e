"""This machine as a node (`ansible_connection: local`)."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import NotGathered
from ..inventory import Target
from .process import answer_of
from .transport import Answer


class LocalTransport:
    """A Transport that starts the command here, in a process group of its own."""

    closed = False  # nothing is held open

    def __init__(self, target: Target) -> None:
        self._target = target

    async def run(
        self, command: str, stdin: bytes, deadline_s: float, on_line: Callable[[str], None] | None = None
    ) -> Answer:
        """See Transport.run."""
        try:
            return await answer_of(["/bin/sh", "-c", command], stdin, self._target.where, deadline_s, on_line)
        except TimeoutError as error:
            raise NotGathered(f"{self._target.where} gave no answer within {deadline_s:g} s") from error

    async def close(self) -> None:
        """Nothing is held open."""
