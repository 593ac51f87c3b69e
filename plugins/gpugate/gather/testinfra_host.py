"""testinfra's `host` over the session's own connections: a site's testinfra checks are fast and cannot hang the run."""

from __future__ import annotations

from typing import Any

from testinfra.backend.base import BaseBackend
from testinfra.host import Host

from ..errors import NotGathered
from ..inventory import Target
from .loop import Loop
from .pool import Pool
from .transport import Answer, privileged

COMMAND_DEADLINE_S = 30.0


class _Backend(BaseBackend):  # type: ignore[misc]  # testinfra ships no types
    """Runs testinfra's commands on the connection that the gather opened; a node that once fails is left alone."""

    NAME = "gpugate"

    def __init__(self, target: Target, loop: Loop, pool: Pool) -> None:
        super().__init__(target.name)
        self._target, self._loop, self._pool = target, loop, pool
        self._dead: NotGathered | None = None

    def run(self, command: str, *args: str, **kwargs: Any) -> Any:
        line = self.get_command(command, *args)
        if self._dead is not None:
            raise self._dead
        try:
            answer = self._loop.call(self._answer(line))
        except NotGathered as error:
            self._dead = error
            raise
        return self.result(answer.status, line.encode(), answer.stdout, answer.stderr)

    async def _answer(self, line: str) -> Answer:
        command, stdin = privileged(self._target, ["sh", "-c", line], b"") if self._target.become else (line, b"")
        async with self._pool.of(self._target) as transport:
            return await transport.run(command, stdin, COMMAND_DEADLINE_S)


class Hosts:
    """testinfra hosts by name."""

    def __init__(self, loop: Loop, pool: Pool) -> None:
        self._loop, self._pool = loop, pool
        self._backends: dict[str, _Backend] = {}

    def get(self, target: Target) -> Any:
        """testinfra's `host` for a target."""
        backend = self._backends.setdefault(target.name, _Backend(target, self._loop, self._pool))
        return Host(backend)
