"""Ways to a node: none can hang the run, flood the controller, or confuse a password with a request."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from gpugate.errors import NotGathered
from gpugate.gather import transport as sentences
from gpugate.gather.hops import Hops
from gpugate.gather.local import LocalTransport
from gpugate.gather.open import open_transport
from gpugate.gather.streams import MAX_STDERR_BYTES, MAX_STDOUT_BYTES
from gpugate.gather.transport import Answer, privileged
from gpugate.inventory import Target
from healthy import policy

HERE = Target(name="gpu0", policy=policy(), connection="local", become=False)
SAFETY_S = 60  # deadlines that must not come


def run(command: str, stdin: bytes = b"", deadline_s: float = SAFETY_S) -> Answer:
    """The answer of a command on this machine."""

    async def ask() -> Answer:
        async with asyncio.timeout(SAFETY_S):
            return await LocalTransport(HERE).run(command, stdin, deadline_s)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("yes", f"more than {MAX_STDOUT_BYTES} bytes"),
        ("yes >&2", f"more than {MAX_STDERR_BYTES} bytes of messages"),
    ],
)
def test_flood_is_cut_off(command: str, sentence: str) -> None:
    """A command that writes without end is ended, and says so."""
    with pytest.raises(NotGathered, match=sentence):
        run(command)


@pytest.mark.parametrize("command", ["sleep 600", "exec >&- 2>&-; sleep 600", "setsid sleep 2 & echo answer"])
def test_silence_ends_with_the_deadline(command: str) -> None:
    """A command that hangs, also one that left a daemon behind with its pipes, is given up."""
    with pytest.raises(NotGathered, match=r"gave no answer within 0\.5 s"):
        run(command, deadline_s=0.5)


@pytest.mark.parametrize("asks", [True, False], ids=["sudo asks", "sudo asks for nothing"])
def test_password_never_reaches_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asks: bool) -> None:
    """The command reads what it was sent whether sudo took the password or, as with NOPASSWD, left it unread."""
    sudo = tmp_path / "sudo"
    sudo.write_text(
        '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift\n'
        + ("IFS= read -r given; [ \"$given\" = 's3cret \\' ] || exit 1\n" if asks else "")
        + 'exec "$@"\n'
    )
    sudo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    target = Target(name="gpu0", policy=policy(), connection="local", become=True, become_password="s3cret \\")  # noqa: S106
    answer = run(*privileged(target, ["sh", "-c", 'cat; echo "$1"', "sh", "an argument"], b'{"a": 1}\n{"b": 2}\n'))
    assert (answer.status, answer.stdout) == (0, b'{"a": 1}\n{"b": 2}\nan argument\n')


@pytest.mark.parametrize(
    "told",
    [
        sentences.no_connection("", 1),
        sentences.no_login("", 1, ""),
        sentences.unknown_key("", False, ""),
        sentences.unknown_key("", True, ""),
        sentences.refused("", ""),
        sentences.unreachable("", "Connection refused"),
        sentences.stopped("", ""),
        sentences.silent("", 1),
    ],
)
def test_page_says_what_each_sentence_asks_for(told: NotGathered) -> None:
    """docs/connections.md has an entry for every way in which a host cannot be asked."""
    page = (Path(__file__).parents[2] / "docs" / "connections.md").read_text()
    told_of = [row.split(" | ")[0].strip("| ") for row in page.splitlines() if row.startswith("| ")]
    said = str(told).strip().replace("1 s", "N s")
    assert any(said.startswith(entry) for entry in told_of if len(entry) > 12), said


SERVER = """
import asyncio, asyncssh

class Anybody(asyncssh.SSHServer):
    def begin_auth(self, username):
        return False

async def handle(process):
    process.stderr.write(b"begun\\n")
    await asyncio.sleep(600)

async def main():
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.create_server(
        Anybody, "127.0.0.1", 0, server_host_keys=[key], process_factory=handle, encoding=None)
    print(server.sockets[0].getsockname()[1], key.export_public_key().decode().strip(), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@dataclass(frozen=True)
class Server:
    """A node whose commands never end."""

    target: Target
    process: subprocess.Popen[str]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port, key = process.stdout.readline().strip().split(" ", 1)
        known = tmp_path / "known_hosts"
        known.write_text(f"[127.0.0.1]:{port} {key}\n")
        arguments = ("-F", "none", "-o", f"UserKnownHostsFile={known}", "-o", "IdentityAgent=none")
        yield Server(
            Target(
                name="gpu0", policy=policy(), address="127.0.0.1", port=int(port), user="u", ssh_args=arguments,
                become=False,
            ),
            process,
        )  # fmt: skip
    finally:
        process.kill()
        process.communicate()


def test_node_that_freezes_is_given_up(server: Server) -> None:
    """A node that stops answering in the middle, as in a kernel panic, ends with its deadline and closes at once."""

    async def ask() -> None:
        transport = await open_transport(server.target, Hops())

        def freeze(line: str) -> None:
            server.process.send_signal(signal.SIGSTOP)

        with pytest.raises(NotGathered, match="gave no answer within 1 s after login"):
            await transport.run("anything", b"", 1, on_line=freeze)
        await transport.close()

    async def safely() -> None:
        async with asyncio.timeout(SAFETY_S):
            await ask()

    asyncio.run(safely())
