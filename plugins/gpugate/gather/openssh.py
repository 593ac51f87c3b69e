"""The OpenSSH client as a transport: for what only it can do of what an ssh configuration asks for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from ..inventory import Target
from .master import Master
from .process import answer_of
from .ssh_config import Settings
from .streams import printable
from .transport import Answer, silent, stopped

_CANNOT_TELL = 255  # the command's own, a signal that killed it, or ssh's word for any trouble of its own


class OpenSshTransport:
    """A Transport over a Master: a process `ssh` for each command."""

    def __init__(self, target: Target, settings: Settings, master: Master) -> None:
        self._target, self._master = target, master
        sent = [f"SendEnv={names}" for names in settings.options.get("sendenv", ())]
        sent += [f'SetEnv="{pair}"' for pair in settings.options.get("setenv", ())]
        self._environment = [word for option in sent for word in ("-o", option)]
        self._forwarding = ["-A"] if settings.get("forwardagent") == "yes" else []

    async def run(
        self, command: str, stdin: bytes, deadline_s: float, on_line: Callable[[str], None] | None = None
    ) -> Answer:
        """See Transport.run."""
        where = self._target.where
        with tempfile.NamedTemporaryFile(prefix="gpugate-ssh-") as log:  # ssh's own words apart from the command's
            said = ["-E", log.name, "-o", "LogLevel=ERROR", "-T"]
            argv = self._master.client(*said, *self._environment, *self._forwarding, "--", "node", command)
            try:
                answer = await answer_of(argv, stdin, where, deadline_s, on_line)
            except TimeoutError as error:
                await self._master.close()
                raise silent(where, deadline_s) from error
            if answer.status == _CANNOT_TELL:
                trouble = await self._master.lost() or printable(Path(log.name).read_bytes())
                if trouble:
                    raise stopped(where, trouble)
        return answer

    @property
    def closed(self) -> bool:
        """See Transport.closed."""
        return self._master.closed

    async def close(self) -> None:
        """See Transport.close."""
        await self._master.close()
