"""testinfra's `host` over one of our own connections: a site's testinfra checks cannot hang the run."""

from __future__ import annotations

import shlex
from typing import Any

from testinfra.backend.base import BaseBackend
from testinfra.host import Host

from ..errors import NotGathered
from ..inventory import Target
from .fleet import open_transport
from .loop import Loop
from .transport import Transport

COMMAND_DEADLINE_S = 30.0


class _Backend(BaseBackend):  # type: ignore[misc]  # testinfra ships no types
    """Runs testinfra's commands; after one missed deadline the node is left alone."""

    NAME = "gpugate"

    def __init__(self, target: Target, loop: Loop) -> None:
        super().__init__(target.name)
        self._target, self._loop = target, loop
        self._transport: Transport | None = None
        self._dead: NotGathered | None = None

    def run(self, command: str, *args: str, **kwargs: Any) -> Any:
        line = self.get_command(command, *args)
        if self._target.become:
            user = shlex.quote(self._target.become_user)
            line = f"sudo -H -n -u {user} -- sh -c {shlex.quote(line)}"
        if self._dead is not None:
            raise self._dead
        try:
            if self._transport is None:
                self._transport = self._loop.call(open_transport(self._target))
            answer = self._loop.call(self._transport.run(line, b"", COMMAND_DEADLINE_S))
        except NotGathered as error:
            self._dead = error
            raise
        return self.result(answer.status, line.encode(), answer.stdout, answer.stderr)

    def close(self) -> None:
        if self._transport is not None:
            self._loop.call(self._transport.close())


class Hosts:
    """testinfra hosts by name, each connected at its first command, closed together."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._backends: dict[str, _Backend] = {}

    def get(self, target: Target) -> Any:
        """testinfra's `host` for a target."""
        backend = self._backends.setdefault(target.name, _Backend(target, self._loop))
        return Host(backend)

    def close(self) -> None:
        """Close every connection."""
        for backend in self._backends.values():
            backend.close()
