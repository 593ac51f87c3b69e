"""What every transport promises, over real sshds: asyncssh and the OpenSSH client answer, fail and end alike."""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from fleets import DEADLINE_S, alive, until
from gpugate.errors import NotGathered
from gpugate.gather import patience
from gpugate.gather.hops import Hops
from gpugate.gather.open import open_transport
from gpugate.gather.streams import MAX_STDERR_BYTES, MAX_STDOUT_BYTES
from gpugate.gather.transport import Transport, privileged
from gpugate.inventory import Target
from sshds import Sshd, clients, full_port, new_key, sshd, target

BOTH = pytest.mark.parametrize("ssh", ["asyncssh", "openssh"])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server for tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "banner").write_text("Authorized users only.\nPermission denied (to all others)\n")
    with sshd(folder / "sshd", f"Banner {folder / 'banner'}") as up:
        yield up


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Sshd]:
    """A server of a test's own."""
    with sshd(tmp_path / "sshd") as up:
        yield up


@asynccontextmanager
async def opened(way: Target) -> AsyncIterator[Transport]:
    """An open transport, closed again."""
    hops = Hops()
    try:
        transport = await open_transport(way, hops)
        try:
            yield transport
        finally:
            await transport.close()
    finally:
        await hops.close()


def use(way: Target, work: Callable[[Transport], Awaitable[None]]) -> None:
    """Run a test's work on an open transport, and find nothing of it left behind."""

    async def safely() -> None:
        async with asyncio.timeout(DEADLINE_S), opened(way) as transport:
            await work(transport)

    asyncio.run(safely())
    assert clients() == []


def refusal(way: Target) -> str:
    """The sentence with which a node cannot be reached."""

    async def fail() -> str:
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(NotGathered) as caught:
                async with opened(way):
                    pass
            return str(caught.value)

    said = asyncio.run(fail())
    assert clients() == []
    assert said.startswith(way.where)
    return said.removeprefix(way.where).strip()


@BOTH
def test_commands_answer_one_after_the_other_and_at_once(node: Sshd, ssh: str) -> None:
    """Input, both outputs and the exit status of each command arrive, and all of them use one login."""

    async def work(transport: Transport) -> None:
        data = os.urandom(200_000)
        answer = await transport.run("cat; echo done >&2; exit 3", data, DEADLINE_S)
        assert (answer.status, answer.stdout, answer.stderr) == (3, data, b"done\n")
        answers = await asyncio.gather(*(transport.run(f"exit {i}", b"", DEADLINE_S) for i in (0, 1, 255)))
        assert [answer.status for answer in answers] == [0, 1, 255]
        assert not transport.closed

    use(target(node, ssh=ssh), work)
    assert node.logins() == 1


@BOTH
def test_banner_is_no_answer_and_no_refusal(shared: Sshd, ssh: str) -> None:
    """What a server says before the login, whatever it says, is no part of a command's output."""

    async def work(transport: Transport) -> None:
        answer = await transport.run("echo hello", b"", DEADLINE_S)
        assert (answer.status, answer.stdout, answer.stderr) == (0, b"hello\n", b"")

    use(target(shared, ssh=ssh), work)


@BOTH
def test_lines_are_heard_while_the_command_runs(shared: Sshd, tmp_path: Path, ssh: str) -> None:
    """A line of error output is heard when it is written: the command goes on only because it was."""
    heard = []

    async def work(transport: Transport) -> None:
        def listen(line: str) -> None:
            heard.append(line)
            (tmp_path / "heard").touch()

        command = f"echo 'at \033[31mwork' >&2; until [ -e {tmp_path}/heard ]; do sleep 0.02; done; echo over >&2"
        answer = await transport.run(command, b"", DEADLINE_S, listen)
        assert answer.status == 0

    use(target(shared, ssh=ssh), work)
    assert heard == ["at \\x1b[31mwork", "over"]


@BOTH
@pytest.mark.parametrize(
    ("command", "sentence"),
    [("yes", f"sent more than {MAX_STDOUT_BYTES} bytes"), ("yes >&2", f"sent more than {MAX_STDERR_BYTES} bytes of")],
)
def test_flood_is_cut_off(shared: Sshd, ssh: str, command: str, sentence: str) -> None:
    """A command that writes without end is given up, and says so."""

    async def work(transport: Transport) -> None:
        with pytest.raises(NotGathered, match=sentence):
            await transport.run(command, b"", DEADLINE_S)

    use(target(shared, ssh=ssh), work)


@BOTH
def test_command_that_reads_nothing_still_answers(shared: Sshd, ssh: str) -> None:
    """Input that nobody reads holds nothing up."""

    async def work(transport: Transport) -> None:
        answer = await transport.run("exec <&-; sleep 0.1; exit 5", b"x" * 5_000_000, DEADLINE_S)
        assert answer.status == 5

    use(target(shared, ssh=ssh), work)


@BOTH
def test_signal_is_no_success(shared: Sshd, ssh: str) -> None:
    """A command that a signal killed has that signal as its status; the OpenSSH client can only say 255."""

    async def work(transport: Transport) -> None:
        answer = await transport.run("kill -9 $$", b"", DEADLINE_S)
        assert answer.status == (-9 if ssh == "asyncssh" else 255)

    use(target(shared, ssh=ssh), work)


@BOTH
def test_silence_ends_with_the_deadline(shared: Sshd, ssh: str) -> None:
    """A command that does not end is given up at its deadline, and the connection with it."""

    async def work(transport: Transport) -> None:
        with pytest.raises(NotGathered, match=r"gave no answer within 0\.5 s after login"):
            await transport.run("sleep 600", b"", 0.5)
        assert transport.closed

    use(target(shared, ssh=ssh), work)


@BOTH
def test_freeze_after_login_is_given_up(node: Sshd, ssh: str) -> None:
    """A node that freezes in the middle, as in a kernel panic, ends with the command's deadline."""

    async def work(transport: Transport) -> None:
        with pytest.raises(NotGathered, match="gave no answer within 2 s after login"):
            await transport.run(
                "echo begun >&2; sleep 600", b"", 2, on_line=lambda line: node.signal(signal.SIGSTOP)
            )  # fmt: skip

    use(target(node, ssh=ssh), work)


@BOTH
def test_freeze_during_long_work_is_noticed(node: Sshd, ssh: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that freezes long before the deadline of its command is given up by the keepalive."""
    for place in ("ssh_options", "master"):
        monkeypatch.setattr(f"gpugate.gather.{place}.KEEPALIVE_S", 1)

    async def work(transport: Transport) -> None:
        with pytest.raises(NotGathered, match="stopped answering after login: "):
            await transport.run(
                "echo begun >&2; sleep 600", b"", DEADLINE_S, on_line=lambda line: node.signal(signal.SIGSTOP)
            )
        assert transport.closed

    use(target(node, ssh=ssh), work)


@BOTH
def test_freeze_before_login_is_given_up(node: Sshd, ssh: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node whose kernel takes the connection and whose sshd says nothing is told from one that does not answer."""
    monkeypatch.setattr(patience, "LOGIN_DEADLINE_S", 1.0)
    node.signal(signal.SIGSTOP)
    assert refusal(target(node, ssh=ssh)) == "did not let us in within 1 s (login)"


@BOTH
def test_dead_node_is_given_up(shared: Sshd, ssh: str) -> None:
    """A node that takes no connection at all is given up after the time to connect."""
    with full_port() as (address, port):
        way = target(shared, ssh=ssh, address=address, port=port, connect_s=1.0)
        assert refusal(way) == "did not answer at all within 1 s (connect)"


@BOTH
def test_closed_port_is_told(shared: Sshd, ssh: str) -> None:
    """A node without sshd is refused at once, in the kernel's words."""
    with socket.socket() as nobody:
        nobody.bind((shared.address, 0))
        said = refusal(target(shared, ssh=ssh, port=nobody.getsockname()[1]))
    assert said == "cannot be reached: Connection refused"


@BOTH
def test_unknown_name_is_told(shared: Sshd, ssh: str) -> None:
    """A name that no resolver knows is told as such."""
    said = refusal(target(shared, ssh=ssh, address="no-such-node.invalid"))
    assert said.startswith("cannot be reached: ")
    assert "not known" in said or "resol" in said


@BOTH
def test_changed_host_key_is_told(shared: Sshd, tmp_path: Path, ssh: str) -> None:
    """A node that shows another key than the registered one is not talked to."""
    public = Path(f"{new_key(tmp_path / 'other')}.pub").read_text()
    (tmp_path / "known").write_text(f"[{shared.address}]:{shared.port} {public}")
    said = refusal(target(shared, "-o", f"UserKnownHostsFile={tmp_path / 'known'}", ssh=ssh))
    assert said.startswith("shows a host key that known_hosts does not hold: another key is registered for it")


@BOTH
@pytest.mark.parametrize(
    "arguments", [(), ("-o", "StrictHostKeyChecking=no"), ("-o", "StrictHostKeyChecking=accept-new")]
)
def test_unknown_host_is_told_whatever_the_configuration_says(
    shared: Sshd, ssh: str, arguments: tuple[str, ...]
) -> None:
    """A node that was never registered is not talked to, also where ssh itself would not mind."""
    said = refusal(target(shared, *arguments, "-o", "UserKnownHostsFile=/dev/null", ssh=ssh))
    assert said.startswith("shows a host key that known_hosts does not hold: none is registered for it")


@BOTH
def test_revoked_host_key_is_told(shared: Sshd, tmp_path: Path, ssh: str) -> None:
    """A key that known_hosts revokes is not accepted, though it is registered as well."""
    line = shared.known_hosts.read_text()
    (tmp_path / "known").write_text(f"{line}@revoked {line}")
    said = refusal(target(shared, "-o", f"UserKnownHostsFile={tmp_path / 'known'}", ssh=ssh))
    assert said.startswith("shows a host key that known_hosts does not hold: another key is registered for it")


@BOTH
def test_alias_is_what_known_hosts_hold(shared: Sshd, tmp_path: Path, ssh: str) -> None:
    """HostKeyAlias names the entry of known_hosts, without a port."""
    (tmp_path / "known").write_text("the-node " + shared.known_hosts.read_text().split(" ", 1)[1])

    async def work(transport: Transport) -> None:
        assert (await transport.run("exit 7", b"", DEADLINE_S)).status == 7

    options = ("-o", "HostKeyAlias=the-node", "-o", f"UserKnownHostsFile={tmp_path / 'known'}")
    use(target(shared, *options, ssh=ssh), work)


@BOTH
def test_refused_login_is_told_and_not_repeated(node: Sshd, tmp_path: Path, ssh: str) -> None:
    """A key that the node does not know, and a user that it does not have, are refused after one attempt each."""
    stranger = replace(node, folder=tmp_path)  # where lies a key that the node does not know
    new_key(stranger.key)
    shutil.copy(node.known_hosts, stranger.known_hosts)
    for way in (target(stranger, ssh=ssh), target(node, ssh=ssh, user="nobody-of-this-name")):
        assert refusal(way).startswith("refuses our login: ")
    until(lambda: node.log().count("[preauth]") >= 2)  # sshd writes a line when the client has gone
    assert node.log().count("[preauth]") == 2
    assert node.logins() == 0


@BOTH
def test_lost_connection_is_told_from_an_exit_status(node: Sshd, ssh: str) -> None:
    """A connection that is dropped in the middle of a command is no exit status of the command."""

    async def work(transport: Transport) -> None:
        def drop(line: str) -> None:
            for pid in node.connections():
                os.kill(pid, signal.SIGKILL)

        with pytest.raises(NotGathered, match="stopped answering after login: "):
            await transport.run("echo begun >&2; sleep 600", b"", DEADLINE_S, on_line=drop)
        assert transport.closed
        with pytest.raises(NotGathered, match="stopped answering after login: "):
            await transport.run("true", b"", DEADLINE_S)

    use(target(node, ssh=ssh), work)


@BOTH
@pytest.mark.parametrize("drops", [2, 99])
def test_overloaded_sshd_is_asked_again(
    shared: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ssh: str, drops: int
) -> None:
    """A connection that is dropped before any key is shown is tried again three times, at random moments."""
    monkeypatch.setattr("random.uniform", lambda least, most: 0.02)
    dropped = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal dropped
        if dropped < drops:
            dropped += 1
            writer.write(b"Exceeded MaxStartups\r\n" if dropped % 2 else b"")
            writer.close()
            return
        onward, back = await asyncio.open_connection(shared.address, shared.port)
        await asyncio.gather(pump(reader, back), pump(onward, writer))

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
        sink.close()

    async def main() -> str:
        door = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = door.sockets[0].getsockname()[1]
        public = shared.known_hosts.read_text().split(" ", 1)[1]
        (tmp_path / "known").write_text(f"[127.0.0.1]:{port} {public}")
        way = target(shared, "-o", f"UserKnownHostsFile={tmp_path / 'known'}", ssh=ssh, address="127.0.0.1", port=port)
        try:
            async with asyncio.timeout(DEADLINE_S), opened(way) as transport:
                return (await transport.run("echo hello", b"", DEADLINE_S)).stdout.decode()
        except NotGathered as error:
            return str(error)
        finally:
            door.close()

    said = asyncio.run(main())
    if drops == 2:
        assert (said, dropped) == ("hello\n", 2)
    else:
        assert "cannot be reached: " in said
        assert dropped == 4


SUDO = """#!/bin/sh
while [ "$1" != -- ]; do [ "$1" = -S ] && asks=1; shift; done; shift
if [ -n "$asks" ]; then
    IFS= read -r given
    [ "$given" = 's3cret \\' ] || { echo 'sudo: 1 incorrect password attempt' >&2; exit 1; }
fi
exec "$@"
"""


@BOTH
@pytest.mark.parametrize("password", [None, "s3cret \\", "wrong"])
def test_becoming_another_user(node: Sshd, ssh: str, password: str | None) -> None:
    """The command gets its own input, and never the password, whether sudo asks for one or not."""
    (node.bin / "sudo").write_text(SUDO)
    (node.bin / "sudo").chmod(0o755)
    way = target(node, ssh=ssh, become=True, become_password=password)

    async def work(transport: Transport) -> None:
        answer = await transport.run(*privileged(way, ["cat"], b'{"a": 1}\n'), DEADLINE_S)
        if password == "wrong":  # noqa: S105 - no secret
            assert (answer.status, answer.stdout) == (1, b"")
            assert answer.stderr == b"sudo: 1 incorrect password attempt\n"
        else:
            assert (answer.status, answer.stdout) == (0, b'{"a": 1}\n')

    use(way, work)


@BOTH
def test_input_reaches_nobody_but_the_command(shared: Sshd, tmp_path: Path, ssh: str) -> None:
    """Neither the command's input nor a password is seen in the arguments of a process on this machine."""
    seen: list[str] = []

    async def work(transport: Transport) -> None:
        def look(line: str) -> None:
            for pid in clients():
                seen.append(Path(f"/proc/{pid}/cmdline").read_text())

        await transport.run("cat >/dev/null; echo begun >&2; sleep 0.1", b"s3cret-input", DEADLINE_S, look)

    use(target(shared, ssh=ssh, password="s3cret-login"), work)  # noqa: S106 - no secret
    assert len(seen) >= (ssh == "openssh")
    assert "s3cret" not in "".join(seen)


KILLED = """
import asyncio, pickle, sys
from gpugate.gather.hops import Hops
from gpugate.gather.open import open_transport

async def main():
    way = pickle.loads(bytes.fromhex(sys.argv[1]))
    transport = await open_transport(way, Hops())
    await transport.run("echo begun >&2; sleep 600", b"", 600, on_line=lambda line: print(line, flush=True))

asyncio.run(main())
"""


@BOTH
def test_killed_controller_leaves_no_connection(node: Sshd, ssh: str) -> None:
    """The connections of a controller that is killed end with it."""
    given = pickle.dumps(target(node, ssh=ssh)).hex()
    command = [sys.executable, "-c", KILLED, given]
    with tempfile.TemporaryDirectory() as folder:  # for what a killed process cannot take away
        with subprocess.Popen(command, env=os.environ | {"TMPDIR": folder}, stdout=subprocess.PIPE) as controller:
            assert controller.stdout is not None
            assert controller.stdout.readline() == b"begun\n"
            started = clients()
            controller.kill()
        until(lambda: not any(alive(pid) for pid in started))
        until(lambda: node.connections() == [])
