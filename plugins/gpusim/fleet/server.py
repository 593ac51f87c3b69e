"""The server process: an SSH listener for each node, and a control socket for `gpusim`.

Started by `gpusim up` with the locked pid file and a pipe on which it says `ready`. Everything it needs to know is
in the fleet's folder. A node's mode is one of `control.MODES`; it lives here alone, so a new server serves every node.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import asyncssh

from gpusim import noderoot
from gpusim.fleet import processes
from gpusim.fleet.commands import Children, Session
from gpusim.paths import USER, FleetLayout, NodeLayout


class Login(asyncssh.SSHServer):
    """Who may log in: the fleet's user, by key, and nobody else."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conn = conn
        self._node.connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        self._node.connections.discard(self._conn)

    def public_key_auth_supported(self) -> bool:
        return True  # for every user, so that a wrong one is told what everybody is told

    def begin_auth(self, username: str) -> bool:
        if username == USER:
            self._conn.set_authorized_keys(self._node.authorized_keys)
        return True

    def session_requested(self) -> Session:
        node = self._node
        return Session(node.layout, node.children, lambda: node.mode != "hang")


class Node:
    """One node's listener and its mode."""

    def __init__(
        self, layout: NodeLayout, address: str, port: int, keys: asyncssh.SSHAuthorizedKeys, children: Children
    ) -> None:
        self.layout = layout
        self.children = children
        self.authorized_keys = keys
        self.connections: set[asyncssh.SSHServerConnection] = set()
        self.mode = "refuse"
        self._where = (address, port)
        self._host_key = asyncssh.read_private_key(layout.host_key)
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self._hole: list[socket.socket] = []

    async def set_mode(self, mode: str) -> None:
        """Change what a client meets at this address; leaving `serve` drops every connection."""
        listening = {"serve", "hang"}
        if mode not in listening or self.mode not in listening:
            await self._close()
            if mode in listening:
                await self._listen()
            elif mode == "blackhole":
                self._dig()
        elif mode == "hang":
            self._drop()  # a command that already runs would still answer
        self.mode = mode

    async def _listen(self) -> None:
        self._acceptor = await asyncssh.listen(
            *self._where,
            server_factory=lambda: Login(self),
            server_host_keys=[self._host_key],
            password_auth=False, kbdint_auth=False, host_based_auth=False, gss_host=None,
            allow_pty=False, agent_forwarding=False, x11_forwarding=False,
            line_editor=False, encoding=None,
        )  # fmt: skip

    def _drop(self) -> None:
        for connection in list(self.connections):
            connection.abort()

    async def _close(self) -> None:
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None
        self._drop()
        for hole in self._hole:
            hole.close()
        self._hole = []

    def _dig(self) -> None:
        """Listen without ever accepting, the queue already full: the kernel then ignores who knocks."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(self._where)
        listener.listen(0)
        self._hole = [listener]
        for _ in range(2):
            filler = socket.socket()
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(self._where)
            self._hole.append(filler)


class Fleet:
    """All nodes, and the requests of the control socket: one JSON object a line, answered by one."""

    def __init__(self, layout: FleetLayout) -> None:
        description = json.loads(layout.description.read_text())
        keys = asyncssh.read_authorized_keys(str(layout.authorized_keys))
        self.children = Children()
        self.started = time.time()
        self.nodes = {
            node["name"]: Node(layout.node(node["name"]), node["address"], description["port"], keys, self.children)
            for node in description["nodes"]
        }
        self.down = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = json.loads(await reader.readline())
            try:
                reply = await self._do(request)
            except OSError as error:
                reply = {"error": str(error)}
            writer.write(json.dumps(reply).encode() + b"\n")
            await writer.drain()
        except (ValueError, ConnectionError):
            pass  # whoever asked is gone, or is not gpusim
        finally:
            writer.close()

    async def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["op"] == "mode":
            node = self.nodes[request["node"]]
            await node.set_mode(request["mode"])
            if request["mode"] in ("refuse", "blackhole"):
                processes.end_all([node.layout.dir])  # the node has no power: nothing runs on it
        elif request["op"] == "down":
            self.down.set()
        return {
            "pid": os.getpid(),
            "started": self.started,
            "nodes": {
                name: {"mode": node.mode, "connections": len(node.connections)} for name, node in self.nodes.items()
            },
        }


async def keep_time(fleet: Fleet) -> None:
    """Let every node's uptime go on."""
    while True:
        for node in fleet.nodes.values():
            with contextlib.suppress(OSError):  # the node is just being written anew
                noderoot.tick(node.layout.root)
        await asyncio.sleep(1)


async def serve(layout: FleetLayout, ready: int) -> None:
    """Serve until told to go down, then end everything that runs on any node."""
    fleet = Fleet(layout)
    fleet.children.attach()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, fleet.down.set)
    layout.socket.unlink(missing_ok=True)
    os.chdir(layout.dir)  # the socket's path is then short enough for any folder
    control = await asyncio.start_unix_server(fleet.answer, layout.socket.name)
    for node in fleet.nodes.values():
        await node.set_mode("serve")
    ticking = asyncio.ensure_future(keep_time(fleet))
    os.write(ready, b"ready\n")
    os.close(ready)
    await fleet.down.wait()
    ticking.cancel()
    control.close()
    for node in fleet.nodes.values():
        await node.set_mode("refuse")
    processes.end_all([node.layout.dir for node in fleet.nodes.values()])
    while processes.kill(processes.descendants()):
        await asyncio.sleep(0.02)
    layout.socket.unlink(missing_ok=True)


def main() -> int:
    """Run the server; errors before `ready` go to the pipe, later ones to the log."""
    parser = argparse.ArgumentParser(description="The server of a simulated fleet; started by `gpusim up`.")
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--ready-fd", type=int, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    processes.adopt_orphans()
    try:
        asyncio.run(serve(FleetLayout(args.dir), args.ready_fd))
    except OSError as error:
        with contextlib.suppress(OSError):
            os.write(args.ready_fd, f"{error}\n".encode())
        logging.exception("the server ends")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
