"""Talking to the server of a fleet: is it up, what do its nodes do, change that, end it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gpusim.errors import GpusimError
from gpusim.fleet.description import FleetDescription
from gpusim.paths import FleetLayout

MODES = {
    "serve": "answers",
    "refuse": "down: connections are refused",
    "blackhole": "down: packets vanish, connecting times out",
    "hang": "accepts the login and then never answers",
}

DEADLINE_S = 20.0


def current(layout: FleetLayout) -> FleetDescription:
    """The description of the fleet that was last brought up here.

    :raises GpusimError: none ever was.
    """
    try:
        return FleetDescription.from_json(json.loads(layout.description.read_text()))
    except OSError as error:
        raise GpusimError(f"no fleet was ever up in {layout.dir}: start one with `gpusim up`") from error


def ask(layout: FleetLayout, **request: Any) -> dict[str, Any]:
    """Send one request and return the answer.

    :raises GpusimError: no fleet is up, or the server refused.
    """
    folder = os.open(layout.dir, os.O_RDONLY | os.O_DIRECTORY) if layout.dir.is_dir() else -1
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(DEADLINE_S)
            # through the open folder: the path of a Unix socket may not be longer than 107 bytes
            client.connect(f"/proc/self/fd/{folder}/{layout.socket.name}")
            client.sendall(json.dumps(request).encode() + b"\n")
            with client.makefile("rb") as stream:
                answer = json.loads(stream.readline() or b'{"error": "the server went away"}')
    except OSError as error:
        raise GpusimError(
            f"no fleet is up in {layout.dir} ({error.strerror or error}): start one with `gpusim up`"
        ) from error
    finally:
        if folder >= 0:
            os.close(folder)
    if "error" in answer:
        raise GpusimError(f"the fleet in {layout.dir} answers: {answer['error']}")
    return dict(answer)


@contextmanager
def locked(layout: FleetLayout) -> Iterator[int | None]:
    """The pid file's descriptor, locked; None where a living server (or another `gpusim up`) holds the lock."""
    fd = os.open(layout.pid_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield fd
    finally:
        os.close(fd)


def is_up(layout: FleetLayout) -> bool:
    """A server lives. A pid file that a dead one left behind does not count: its lock died with it."""
    if not layout.pid_file.exists():
        return False
    with locked(layout) as fd:
        return fd is None


def end_server(layout: FleetLayout) -> None:
    """Ask the server to end; kill it when it does not."""
    with contextlib.suppress(GpusimError):
        ask(layout, op="down")
    if _gone(layout):
        return
    with contextlib.suppress(ValueError, ProcessLookupError):
        os.kill(int(layout.pid_file.read_text()), signal.SIGKILL)
    if not _gone(layout):
        raise GpusimError(f"the server in {layout.dir} does not end: see {layout.log}")


def _gone(layout: FleetLayout) -> bool:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if not is_up(layout):
            return True
        time.sleep(0.02)
    return False
