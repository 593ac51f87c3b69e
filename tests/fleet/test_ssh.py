"""The simulated nodes as SSH clients meet them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from pathlib import Path

import asyncssh
import pytest
from fleets import DEADLINE_S, Fleet, alive, until


def test_plain_ssh_reaches_each_node_without_a_warning(fleet: Fleet) -> None:
    """`ssh -F ssh_config NODE hostname` answers with the node's name and writes nothing to stderr."""
    for name in ("gpu0", "gpu1"):
        done = fleet.ssh(name, "hostname")
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{name}\n", "")


def test_exit_codes_arrive(fleet: Fleet) -> None:
    """A command's exit code is ssh's exit code, and a command killed by a signal gives 255."""
    assert [fleet.ssh("gpu0", f"exit {code}").returncode for code in (0, 1, 77)] == [0, 1, 77]
    assert fleet.ssh("gpu0", "kill -9 $$").returncode == 255


def test_streams_carry_binary_data_both_ways(fleet: Fleet) -> None:
    """A megabyte of random bytes comes back through stdin and stdout unchanged."""
    data = os.urandom(1_000_000)
    done = fleet.ssh("gpu0", "cat; echo done >&2", input=data, text=False)
    assert done.stdout == data
    assert done.stderr == b"done\n"


def test_a_command_that_ignores_its_input_does_not_block_the_client(fleet: Fleet) -> None:
    """Megabytes sent to a command that never reads them are swallowed, and its exit code arrives."""
    done = fleet.ssh("gpu0", "exit 3", input=os.urandom(8_000_000), text=False)
    assert done.returncode == 3


def test_a_slow_reader_does_not_make_the_server_grow(fleet: Fleet) -> None:
    """Output that the client does not read stays in the command: the server holds back."""
    server = int(fleet.layout.pid_file.read_text())

    def resident_kib() -> int:
        rows = dict(line.split(":", 1) for line in Path(f"/proc/{server}/status").read_text().splitlines())
        return int(rows["VmRSS"].split()[0])

    command = "(dd if=/dev/zero bs=1M count=400 2>/dev/null; touch finished)"
    with subprocess.Popen(["ssh", "-F", fleet.ssh_config, "gpu0", command], stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        client.stdout.read(1)
        before = resident_kib()
        time.sleep(0.5)
        assert resident_kib() < before + 64 * 1024
        assert not (fleet.node("gpu0").home / "finished").exists()
        client.kill()


def test_input_that_arrives_with_the_request_is_not_lost(fleet: Fleet) -> None:
    """Hundreds of commands on one connection, their input sent at once, each get all of it."""

    async def run() -> list[str]:
        connection = await asyncssh.connect("gpu0", config=[str(fleet.ssh_config)])
        done = await asyncio.gather(*(connection.run("cat", input=f"input {i}") for i in range(200)))
        connection.close()
        return [str(one.stdout) for one in done]

    assert asyncio.run(run()) == [f"input {i}" for i in range(200)]


def test_signals_reach_the_command(fleet: Fleet) -> None:
    """A signal that the client sends is delivered to the command's process group."""

    async def run() -> str:
        connection = await asyncssh.connect("gpu0", config=[str(fleet.ssh_config)])
        process = await connection.create_process(
            "trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 0.05; done"
        )
        await process.stdout.readline()
        process.send_signal("USR1")
        done = await process.wait()
        connection.close()
        return str(done.stdout)

    assert asyncio.run(run()) == "caught\n"


def test_a_terminal_is_refused(fleet: Fleet) -> None:
    """`ssh -tt` is told that there is no terminal, at once."""
    done = subprocess.run(
        ["ssh", "-tt", "-F", fleet.ssh_config, "gpu0", "hostname"],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.returncode == 255
    assert "PTY allocation request failed" in done.stderr


def test_only_the_fleets_key_and_user_may_log_in(fleet: Fleet, tmp_path: Path) -> None:
    """Another key, and the right key for another user, are refused."""
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(tmp_path / "other")
    (tmp_path / "other").chmod(0o600)
    config = tmp_path / "config"
    config.write_text(fleet.ssh_config.read_text().replace(str(fleet.layout.identity), str(tmp_path / "other")))
    for options in (["-F", str(config)], ["-F", str(fleet.ssh_config), "-l", "root"]):
        done = subprocess.run(
            ["ssh", "-o", "BatchMode=yes", *options, "gpu0", "true"],
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
        assert done.returncode == 255
        assert "Permission denied (publickey)" in done.stderr


def test_host_keys_are_the_nodes_own(fleet: Fleet) -> None:
    """Two nodes have two host keys, and a client that knows the one refuses the other under its name."""
    keys = {line.split()[2] for line in fleet.layout.known_hosts.read_text().splitlines()}
    assert len(keys) == 2
    port = fleet.ssh_config.read_text().split("Port ")[1].split()[0]
    address = fleet.ssh_config.read_text().split("HostName ")[1].split()[0]
    done = subprocess.run(
        ["ssh", "-F", fleet.ssh_config, "-o", "HostKeyAlias=gpu1", "-o", f"HostName={address}", "-p", port, "gpu1"],
        capture_output=True, text=True, check=False, timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.returncode == 255
    assert "Host key verification failed" in done.stderr


@pytest.mark.parametrize("legacy", [[], ["-O"]], ids=["sftp", "legacy"])
def test_scp_copies_there_and_back(fleet: Fleet, tmp_path: Path, legacy: list[str]) -> None:
    """scp in both protocols: relative paths begin in the node's home, absolute ones are as the shell sees them."""
    data = os.urandom(200_000)
    (tmp_path / "there").write_bytes(data)
    target = fleet.node("gpu0").tmp / "absolute"
    for source, destination in (
        (tmp_path / "there", "gpu0:relative"),
        ("gpu0:relative", tmp_path / "back"),
        (tmp_path / "back", f"gpu0:{target}"),
    ):
        done = subprocess.run(
            ["scp", *legacy, "-F", fleet.ssh_config, source, destination],
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert (fleet.node("gpu0").home / "relative").read_bytes() == data
    assert target.read_bytes() == data


def test_commands_see_the_node_and_nothing_of_the_server(fleet: Fleet) -> None:
    """Home, libraries, temporary folder and user are the node's; the environment holds nothing else."""
    node = fleet.node("gpu1")
    env = dict(line.split("=", 1) for line in fleet.ssh("gpu1", "env").stdout.splitlines())
    assert env["HOME"] == env["PWD"] == str(node.home)
    assert env["LD_LIBRARY_PATH"] == str(node.libdir)
    assert env["TMPDIR"] == str(node.tmp)
    assert env["USER"] == "deploy"
    assert env["PATH"].startswith(f"{node.bin}:")
    assert not {name for name in env if name.startswith(("PYTEST", "PYTHON", "VIRTUAL", "SSH"))}


def test_sudo_answers_as_root(fleet: Fleet) -> None:
    """Under sudo, id and whoami say root; without it, deploy; other users are an error."""
    done = fleet.ssh("gpu0", "id -u; sudo -n id -u; sudo -H -S -n -u root -p prompt sh -c 'whoami; id -un'; whoami")
    assert done.stdout.split() == ["1000", "0", "root", "root", "deploy"]
    assert fleet.ssh("gpu0", "sudo -n true").returncode == 0
    other = fleet.ssh("gpu0", "sudo -u nobody true")
    assert (other.returncode, other.stderr) == (1, "sudo: unknown user nobody\n")


@pytest.mark.parametrize("command", ["reboot", "systemctl restart ssh", "modprobe nvidia", "journalctl -k"])
def test_commands_that_would_reach_the_real_machine_are_refused(fleet: Fleet, command: str) -> None:
    """What a node cannot simulate must not be done to the machine underneath."""
    done = fleet.ssh("gpu0", f"sudo {command}")
    assert done.returncode == 1
    assert done.stderr


def test_a_command_ends_with_its_connection_and_a_detached_one_does_not(fleet: Fleet) -> None:
    """Killing the client ends the command's process group; what detached itself goes on until the node goes down."""
    home = fleet.node("gpu0").home
    command = (
        "setsid sh -c 'echo $$ > detached; exec sleep 3600' >/dev/null 2>&1 </dev/null & "
        "sleep 3600 & echo $! > attached; while [ ! -s detached ]; do sleep 0.01; done; echo go; wait"
    )
    with subprocess.Popen(["ssh", "-F", fleet.ssh_config, "gpu0", command], stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        client.stdout.readline()
        client.kill()
    attached, detached = int((home / "attached").read_text()), int((home / "detached").read_text())
    until(lambda: not alive(attached))
    assert alive(detached)
    fleet.cli("stop", "gpu0")
    assert not alive(detached)
    fleet.cli("start", "gpu0")
    assert fleet.ssh("gpu0", "hostname").stdout == "gpu0\n"


def test_root_by_sudo_hears_that_it_is_root(fleet: Fleet) -> None:
    """A program that asks the kernel itself gets root's number under sudo, whoever runs the simulation."""
    done = fleet.ssh("gpu0", "sudo -n python3 -c 'import os; print(os.geteuid(), os.getuid())'")
    assert (done.stdout, done.stderr) == ("0 0\n", "")
