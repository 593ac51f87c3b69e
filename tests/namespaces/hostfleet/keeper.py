"""Starts the fleet's namespaces and outlives them: whatever ends, the tests or the fleet, it leaves nothing behind.

It stays outside, in a session of its own, so that what ends the tests does not end it. The tests hold the other ends
of two pipes: when the orders end so does the namespaces' first process, and with it the kernel kills all others; the
second pipe tells the keeper, which gives back what the fleet had of the machine.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from . import limits

_NAMESPACES = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child"]
_PATIENCE_S = 10


def main(place: str, systemd: bool, tests: int) -> None:
    """:param tests: a descriptor that ends when the tests do."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    with ExitStack() as stack:
        cgroups: Path | str = ""
        if systemd:
            stack.enter_context(limits.many_inotify_instances())
            cgroups = stack.enter_context(limits.own_cgroup())
        # should the keeper be killed outright, this takes the namespaces along
        command = ["setpriv", "--pdeathsig", "KILL", *_NAMESPACES]
        server = subprocess.Popen([*command, sys.executable, "-m", "hostfleet.server", place, str(cgroups)])
        stack.callback(_end, server)
        ended = os.pidfd_open(server.pid)
        select.select([tests, ended], [], [])


def _end(server: subprocess.Popen[bytes]) -> None:
    """The server ends when its orders do, and is reaped then; killed only where it does not."""
    try:
        server.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "systemd", int(sys.argv[3]))
