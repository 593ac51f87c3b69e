"""Nodes behind jump hosts: one login at the jump host for all of them, and one sentence when it is down."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from fleets import DEADLINE_S
from gpugate.errors import NotGathered
from gpugate.gather import patience
from gpugate.gather.hops import Hops
from gpugate.gather.jump import Jump, jump_of
from gpugate.gather.open import open_transport
from gpugate.gather.ssh_config import Settings
from gpugate.inventory import Target
from sshds import Sshd, clients, ssh_config, sshd, target

BOTH = pytest.mark.parametrize("ssh", ["asyncssh", "openssh"])


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server behind the jump hosts, which takes as many logins as come."""
    with sshd(tmp_path_factory.mktemp("node") / "sshd", "MaxStartups 1000") as up:
        yield up


@pytest.fixture
def jump(tmp_path: Path) -> Iterator[Sshd]:
    """A jump host as Debian ships it: from ten logins under way on it drops some."""
    with sshd(tmp_path / "jump", "MaxStartups 10:30:100") as up:
        yield up


def behind(node: Sshd, config: Path, ssh: str, count: int = 1, **changes: object) -> list[Target]:
    """Hosts gpu0, gpu1, ... that a configuration file says how to reach."""
    given = {"ssh_args": ("-F", str(config)), "port": None, "user": None} | changes
    return [target(node, ssh=ssh, name=f"gpu{i}", **{"address": f"gpu{i}"} | given) for i in range(count)]


async def ask(way: Target, hops: Hops) -> str:
    """What a node answers, or why it does not."""
    try:
        transport = await open_transport(way, hops)
    except NotGathered as error:
        return str(error).removeprefix(way.where).strip()
    try:
        return (await transport.run("echo hello", b"", DEADLINE_S)).stdout.decode().strip()
    finally:
        await transport.close()


def ask_all(ways: list[Target]) -> list[str]:
    """What nodes answer that are asked at once, with nothing left behind."""

    async def safely() -> list[str]:
        hops = Hops()
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await asyncio.gather(*(ask(way, hops) for way in ways))
        finally:
            await hops.close()

    said = asyncio.run(safely())
    assert clients() == []
    return said


@pytest.mark.parametrize(("ssh", "count"), [("asyncssh", 40), ("openssh", 16)])
def test_many_nodes_share_one_login(tmp_path: Path, node: Sshd, jump: Sshd, ssh: str, count: int) -> None:
    """All nodes answer at once from behind an sshd that would take ten logins at once, and it sees one."""
    config = ssh_config(tmp_path / "config", {"jump": jump, "gpu*": node}, {"gpu*": ["ProxyJump jump"]})
    assert ask_all(behind(node, config, ssh, count)) == ["hello"] * count
    assert jump.logins() == 1


@BOTH
@pytest.mark.parametrize("place", ["file", "arguments"])
def test_ssh_w_as_proxy_command_is_a_jump_host(tmp_path: Path, node: Sshd, jump: Sshd, ssh: str, place: str) -> None:
    """`ProxyCommand ssh -W %h:%p HOST`, as inventories have it, shares one login as ProxyJump does."""
    command = f"ssh -F {tmp_path / 'config'} -q -W %h:%p jump"
    lines = {"gpu*": [f"ProxyCommand {command}"]} if place == "file" else {}
    config = ssh_config(tmp_path / "config", {"jump": jump, "gpu*": node}, lines)
    arguments = ("-F", str(config), *(("-o", f"ProxyCommand={command}") if place == "arguments" else ()))
    assert ask_all(behind(node, config, ssh, 4, ssh_args=arguments)) == ["hello"] * 4
    assert jump.logins() == 1


@BOTH
@pytest.mark.parametrize("named", ["by the node", "by the jump host"])
def test_chains_are_followed(tmp_path: Path, node: Sshd, jump: Sshd, ssh: str, named: str) -> None:
    """Of two jump hosts in a row each sees one login, whether the node names both or the second names the first."""
    lines = (
        {"gpu*": ["ProxyJump outer,inner"]}
        if named == "by the node"
        else {"gpu*": ["ProxyJump inner"], "inner": ["ProxyJump outer"]}
    )
    with sshd(tmp_path / "outer") as outer:
        config = ssh_config(tmp_path / "config", {"outer": outer, "inner": jump, "gpu*": node}, lines)
        assert ask_all(behind(node, config, ssh, 3)) == ["hello"] * 3
        assert (outer.logins(), jump.logins()) == (1, 1)


@BOTH
def test_jump_host_that_is_down_says_the_same_for_all(tmp_path: Path, node: Sshd, jump: Sshd, ssh: str) -> None:
    """Every host behind a jump host that is down tells of it in the same words."""
    config = ssh_config(tmp_path / "config", {"jump": jump, "gpu*": node}, {"gpu*": ["ProxyJump jump"]})
    jump.process.kill()
    jump.process.wait()
    said = set(ask_all(behind(node, config, ssh, 5)))
    assert said == {"cannot be reached: the jump host jump cannot be reached: Connection refused"}


@BOTH
def test_each_trouble_at_a_jump_host_has_its_sentence(
    tmp_path: Path, node: Sshd, jump: Sshd, ssh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown key, a refused login and a freeze at the jump host are told as the jump host's."""
    hosts = {"jump": jump, "gpu*": node}
    jumps = {"gpu*": ["ProxyJump jump"]}
    config = ssh_config(tmp_path / "unknown", hosts, jumps | {"jump": ["UserKnownHostsFile /dev/null"]})
    (said,) = ask_all(behind(node, config, ssh))
    assert said.startswith("cannot be reached: the jump host jump shows a host key that known_hosts does not hold")
    config = ssh_config(tmp_path / "refused", hosts, jumps | {"jump": ["User nobody-of-this-name"]})
    (said,) = ask_all(behind(node, config, ssh))
    assert said.startswith("cannot be reached: the jump host jump refuses our login: ")
    config = ssh_config(tmp_path / "frozen", hosts, jumps)
    monkeypatch.setattr(patience, "LOGIN_DEADLINE_S", 1.0)
    jump.signal(signal.SIGSTOP)
    (said,) = ask_all(behind(node, config, ssh))
    assert said == "cannot be reached: the jump host jump did not let us in within 1 s (login)"


@BOTH
def test_trouble_behind_a_jump_host_is_the_nodes_own(tmp_path: Path, node: Sshd, jump: Sshd, ssh: str) -> None:
    """A node that is down, or has another key, says so itself, and its neighbour behind the same jump host answers."""
    hosts = {"jump": jump, "gpu0": node, "gpu1": node, "gpu2": node}
    lines = {"gpu0": ["Port 1"], "gpu1": ["UserKnownHostsFile /dev/null"]}
    config = ssh_config(tmp_path / "config", hosts, lines | {"gpu*": ["ProxyJump jump"]})
    down, unknown, fine = ask_all(behind(node, config, ssh, 3))
    assert down == "cannot be reached: Connection refused"
    assert unknown.startswith("shows a host key that known_hosts does not hold: none is registered for it")
    assert fine == "hello"
    assert jump.logins() == 1


@BOTH
def test_lost_jump_connection_is_made_anew(
    tmp_path: Path, node: Sshd, jump: Sshd, ssh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a jump host dropped its connection the next host finds a new one; a second loss is told, for a while."""
    config = ssh_config(tmp_path / "config", {"jump": jump, "gpu*": node}, {"gpu*": ["ProxyJump jump"]})
    ways = behind(node, config, ssh, 3)

    async def drop(hops: Hops) -> None:
        chain = await hops.chain(await hops.configs.settings(("-F", str(config)), "gpu0"))
        tunnel = await hops.tunnel(chain, DEADLINE_S) if ssh == "asyncssh" else None
        master = await hops.master(chain, DEADLINE_S) if ssh == "openssh" else None
        for pid in jump.connections():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while not (tunnel.is_closed() if tunnel else master and master.closed):
            await asyncio.sleep(0.02)

    async def safely() -> list[str]:
        hops, said = Hops(), []
        try:
            async with asyncio.timeout(DEADLINE_S):
                for way in ways:
                    said.append(await ask(way, hops))
                    if way is not ways[-1]:
                        await drop(hops)
                monkeypatch.setattr("gpugate.gather.hops.MEMORY_S", -1)
                said.append(await ask(ways[0], hops))
        finally:
            await hops.close()
        return said

    said = asyncio.run(safely())
    lost = "cannot be reached: the jump host jump cannot be reached: it dropped its connection, and the next one too"
    assert said == ["hello", "hello", lost, "hello"]
    assert jump.logins() == 3
    assert clients() == []


@BOTH
def test_circle_is_told(tmp_path: Path, node: Sshd, jump: Sshd, ssh: str) -> None:
    """Jump hosts that lead to each other are told, and nobody waits for them."""
    lines = {"gpu*": ["ProxyJump one"], "one": ["ProxyJump two"], "two": ["ProxyJump one"]}
    config = ssh_config(tmp_path / "config", {"one": jump, "two": jump, "gpu*": node}, lines)
    said = "cannot be reached: the way there goes in a circle, through the jump host one"
    assert ask_all(behind(node, config, ssh, 2)) == [said] * 2


def settings(**options: str) -> Settings:
    """Settings of a configuration that says this alone."""
    return Settings(("-F", "file", "-p", "1"), "gpu0", {key: (value,) for key, value in options.items()}, {})


@pytest.mark.parametrize(
    ("command", "jump"),
    [
        ("ssh -W %h:%p bastion", Jump((), "bastion")),
        ("/usr/bin/ssh -q -l me -p 2222 bastion -W [%h]:%p", Jump(("-q", "-l", "me", "-p", "2222"), "bastion")),
        ("ssh -o StrictHostKeyChecking=yes -i '/a key' -W%h:%p me@b", Jump(
            ("-o", "StrictHostKeyChecking=yes", "-i", "/a key"), "me@b")),
        ("ssh -W %h:22 bastion", None),
        ("ssh -W %h:%p bastion 2>/dev/null", None),
        ("ssh bastion nc %h %p", None),
        ("ssh -l %r -W %h:%p bastion", None),
        ("nc -X connect -x proxy:3128 %h %p", None),
        ("", None),
    ],
)  # fmt: skip
def test_proxy_command_is_a_jump_host_only_where_it_is_nothing_else(command: str, jump: Jump | None) -> None:
    """A ProxyCommand counts as a jump host where it does what ProxyJump does, and no more."""
    assert jump_of(settings(proxycommand=command)) == jump


def test_jump_hosts_get_the_configuration_file_and_nothing_else() -> None:
    """As with ssh itself, of the node's own arguments only the name of the file counts for its jump hosts."""
    assert jump_of(settings(proxyjump="a,me@b:2222")) == Jump(("-F", "file", "-J", "a"), "ssh://me@b:2222")
    assert jump_of(settings(proxyjump="none")) is None
