"""One connection held by the OpenSSH client: a process `ssh -M -N`, and the control socket through which it is used."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..errors import NotGathered
from .jump import without_jump
from .patience import Progress, patience, pauses
from .process import dies_with_us, end_group
from .ssh_config import Settings, home
from .ssh_options import KEEPALIVE_S, KEEPALIVE_TIMES
from .streams import printable
from .transport import refused, unknown_key, unreachable

_CLOSE_DEADLINE_S = 5.0
_LOST_DEADLINE_S = 1.0
_CONNECTED = ("debug1: Connection established", "debug1: Remote protocol version")
_UNANSWERED = "the connection was lost"
# ssh asks this for the password; whatever else it may ask for (a key's passphrase) has no answer.
_ASKPASS = """#!/bin/sh
case "$1" in *assword*) printf '%s\\n' "$GPUGATE_PASSWORD" ;; *) exit 1 ;; esac
"""


class Master:
    """An open connection: ours, or (without a process) one that the user opened and configured as ControlPath."""

    def __init__(self, socket: Path, process: asyncio.subprocess.Process | None = None) -> None:
        self._socket, self._process = socket, process

    @property
    def closed(self) -> bool:
        """Whether the connection is known to be gone."""
        return self._process is not None and self._process.returncode is not None

    def client(self, *arguments: str) -> list[str]:
        """`ssh` through this connection; where that is gone, it does not fall back on one of its own."""
        only = ["-F", "none", "-o", "ControlMaster=no", "-o", f"ControlPath={self._socket}", "-o", "ProxyCommand=false"]
        return ["ssh", *only, *arguments]

    @property
    def proxy_command(self) -> str:
        """The ProxyCommand that leads through this connection."""
        return shlex.join(self.client("-W", "[%h]:%p", "--", "hop"))

    def refusal(self, place: str) -> str:
        """Why the jump host's own end could not connect to `place` (HOST:PORT); "" where it could."""
        asked, places, said = "", {}, ""
        for line in _read(self._log).splitlines():
            if found := re.search(r"channel_connect_stdio_fwd: (\S+)", line):
                asked = found[1]
            elif found := re.search(r"channel (\d+): new .*stdio-forward", line):
                places[found[1]] = asked
            elif (found := re.search(r"channel (\d+): open failed: (.*)", line)) and places.get(found[1]) == place:
                said = found[2].removeprefix("connect failed: ")
        return printable(said.encode(errors="surrogateescape"))

    async def lost(self) -> str:
        """Why the connection is gone; "" where it stands."""
        if self._process is None:
            return "" if await _is_open(self._socket) else _UNANSWERED
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOST_DEADLINE_S):
                await self._process.wait()
        return (_said(self._log) or _UNANSWERED) if self.closed else ""

    async def close(self) -> None:
        """End our connection, and leave the user's own as it is; never raises."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            self._process.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_DEADLINE_S):
                await self._process.wait()
        await end_group(self._process)

    @property
    def _log(self) -> Path:
        return self._socket.with_suffix(".log")


async def open_master(
    where: str, settings: Settings, folder: Path, connect_s: float, *,
    password: str | None = None, through: Master | None = None,
) -> Master:  # fmt: skip
    """Connect and log in, with the same deadlines, retries and sentences as `ssh.login`; raises NotGathered.

    `folder` is private, and its path short. `through` is the jump host's connection.
    """
    null = asyncio.subprocess.DEVNULL
    theirs = home(settings.get("controlpath"))
    if theirs.is_socket() and await _is_open(theirs):
        return Master(theirs)
    async with patience(where, connect_s) as progress:
        for pause in [*pauses(), None]:
            socket = folder / secrets.token_hex(4)
            log = socket.with_suffix(".log")
            argv = _argv(settings, socket, log, connect_s, password, through)
            process = await asyncio.create_subprocess_exec(
                *dies_with_us(),
                *argv,
                stdin=null,
                stdout=null,
                stderr=null,
                start_new_session=True,
                env=_environment(folder, password),
            )
            try:
                if await _is_up(process, socket, log, progress):
                    return Master(socket, process)
            except BaseException:
                await end_group(process)
                raise
            await end_group(process)
            error = _cause(where, log, through.refusal(f"{settings.host}:{settings.port}") if through else "")
            if pause is None or not _may_retry(log, error):
                raise error
            progress.lost = _said(log)
            await asyncio.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


async def _is_up(process: asyncio.subprocess.Process, socket: Path, log: Path, progress: Progress) -> bool:
    """Wait for the control socket, which ssh makes after the login; False when ssh ends instead."""
    pause = 0.02
    while process.returncode is None:
        if socket.is_socket():
            return True
        if not progress.is_connected and any(mark in _read(log) for mark in _CONNECTED):
            progress.connected()
        await asyncio.sleep(pause)
        pause = min(1.3 * pause, 0.25)
    return False


def _argv(
    settings: Settings, socket: Path, log: Path, connect_s: float, password: str | None, through: Master | None
) -> list[str]:
    first = {
        "ControlMaster": "yes",
        "ControlPath": socket,
        "ControlPersist": "no",
        "LogLevel": "DEBUG1",  # tells how far the login came; goes to a file, with nothing of the node's own in it
        "StrictHostKeyChecking": "yes",
        "NoHostAuthenticationForLocalhost": "no",
        "UpdateHostKeys": "no",
        "BatchMode": "no" if password is not None else "yes",
        "NumberOfPasswordPrompts": 1,
        "ConnectionAttempts": 1,
        "ConnectTimeout": round(connect_s) + 60,  # ours come first, and tell connecting and the login apart
        "ServerAliveInterval": KEEPALIVE_S,
        "ServerAliveCountMax": KEEPALIVE_TIMES,
        "PermitLocalCommand": "no",
        "RemoteCommand": "none",
        "ClearAllForwardings": "yes",
        "RequestTTY": "no",
    }
    if through is not None:
        first["ProxyCommand"] = through.proxy_command
    options = [word for name, value in first.items() for word in ("-o", f"{name}={value}")]
    return ["ssh", "-E", str(log), *options, *without_jump(settings.arguments), "-N", "-T", "--", settings.destination]


def _environment(folder: Path, password: str | None) -> Mapping[str, str] | None:
    if password is None:
        return None
    script = folder / "askpass"
    if not script.exists():
        script.touch(0o700)
        script.write_text(_ASKPASS)
    asks = {"SSH_ASKPASS": str(script), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": os.environ.get("DISPLAY", ":0")}
    return {**os.environ, **asks, "GPUGATE_PASSWORD": password}


async def _is_open(socket: Path) -> bool:
    arguments = ["-F", "none", "-o", f"ControlPath={socket}", "-O", "check", "--", "node"]
    null = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec("ssh", *arguments, stdin=null, stdout=null, stderr=null)
    try:
        async with asyncio.timeout(_CLOSE_DEADLINE_S):
            return await process.wait() == 0
    except TimeoutError:
        process.kill()
        return False


def _cause(where: str, log: Path, beyond: str) -> NotGathered:
    """The sentence for what ssh wrote before it ended; `beyond` is what the jump host found."""
    text, said = _read(log), _said(log)
    if "Host key verification failed" in text:
        changed = "IDENTIFICATION HAS CHANGED" in text or "marked as revoked" in text
        lines = [line for line in _lines(log) if "host key" in line.lower() and "verification failed" not in line]
        return unknown_key(where, changed, lines[-1] if lines else said)
    if "Permission denied (" in text or "Too many authentication failures" in text:
        return refused(where, said)
    return unreachable(where, beyond or said or "ssh ended without a word")


def _may_retry(log: Path, error: NotGathered) -> bool:
    """Connected, and lost before keys were exchanged: nobody has been asked to let us in yet."""
    text = _read(log)
    lost = any(word in str(error) for word in ("closed by", "reset by", "kex_exchange", "ssh_exchange", "banner"))
    return lost and any(mark in text for mark in _CONNECTED) and "SSH2_MSG_NEWKEYS received" not in text


def _said(log: Path) -> str:
    """ssh's last words."""
    for line in reversed(_lines(log)):
        if not line.startswith(("Transferred: ", "Bytes per second: ", "Authenticated to ")):
            return re.sub(r"^ssh: connect to host \S+ port \d+: ", "", line)
    return ""


def _lines(path: Path) -> list[str]:
    lines = [printable(line) for line in _read(path).encode(errors="surrogateescape").splitlines()]
    return [line for line in lines if line and not line.startswith(("debug1: ", "@"))]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape")
    except OSError:
        return ""
