"""Real sshds on loopback addresses, each in a folder of its own, and targets that know how to reach them.

    with sshd(tmp_path / "node") as node:
        target(node, ssh="openssh")     # as an inventory would describe it
        node.logins()                   # how many have logged in so far

They run as whoever runs the tests, and let that user in with `node.key`.
"""

from __future__ import annotations

import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh
from fleets import DEADLINE_S, alive, free_port, until
from gpugate.inventory import Target
from gpugate.policy import policy_from_variables

SSHD = "/usr/sbin/sshd"
USER = getpass.getuser()
POLICY = policy_from_variables(
    "gpu0",
    {"gpugate_board": "H100-SXM5-80GB", "gpugate_gpu_count": 8, "gpugate_driver_allowed": ">=550",
     "gpugate_cuda_versions": ["12.4"]},
)  # fmt: skip


@dataclass(frozen=True)
class Sshd:
    """One server: where it listens, what it is known by, and what lets a user in."""

    address: str
    port: int
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def key(self) -> Path:
        """The private key that it lets in."""
        return self.folder / "id"

    @property
    def known_hosts(self) -> Path:
        """A file that holds this server's host key alone."""
        return self.folder / "known_hosts"

    @property
    def bin(self) -> Path:
        """A folder that comes first on the PATH of its commands."""
        return self.folder / "bin"

    def logins(self) -> int:
        """How many logins it has accepted."""
        return self.log().count("Accepted publickey")

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def connections(self) -> list[int]:
        """The processes that serve its connections."""
        return descendants(self.process.pid)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and to everything below it."""
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def descendants(pid: int) -> list[int]:
    """The processes below one, as far as they live."""
    found: list[int] = []
    with suppress(OSError):
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            found += [child, *descendants(child)]
    return found


def clients() -> list[int]:
    """The processes that the test itself started and that still live, servers and what they serve aside."""
    found = descendants(os.getpid())
    for pid in list(found):
        if _name(pid) == "sshd":
            found = [one for one in found if one not in (pid, *descendants(pid))]
    return [pid for pid in found if alive(pid)]


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def new_key(path: Path, kind: str = "ssh-ed25519") -> Path:
    """A new key pair at `path` and `path`.pub."""
    key = asyncssh.generate_private_key(kind)
    key.write_private_key(path)
    key.write_public_key(path.with_name(f"{path.name}.pub"))
    path.chmod(0o600)
    return path


@contextmanager
def sshd(folder: Path, *lines: str, port: int | None = None, address: str | None = None) -> Iterator[Sshd]:
    """Start a server whose configuration begins with `lines`, and end it with everything it started."""
    assert Path(SSHD).exists(), "needs OpenSSH's server: apt install openssh-server"
    (folder / "bin").mkdir(parents=True)
    address = address or f"127.{random.randint(72, 250)}.{random.randint(1, 250)}.1"  # noqa: S311 - no secret
    port = port or free_port(address)
    host_key, key = new_key(folder / "host_key"), new_key(folder / "id")
    shutil.copy(f"{key}.pub", folder / "authorized_keys")
    public = Path(f"{host_key}.pub").read_text()
    (folder / "known_hosts").write_text(f"[{address}]:{port} {public}" if port != 22 else f"{address} {public}")
    config = folder / "sshd_config"
    config.write_text(
        "\n".join(
            [
                *lines,
                "KexAlgorithms curve25519-sha256,ecdh-sha2-nistp384",  # sshd's first choice takes 30 ms of every login
                f"ListenAddress {address}:{port}",
                f"HostKey {host_key}",
                f"AuthorizedKeysFile {folder / 'authorized_keys'}",
                f"SetEnv HOME={folder} PATH={folder / 'bin'}:/usr/local/bin:/usr/bin:/bin",  # no start-up files
                "PermitRootLogin yes\nStrictModes no\nUsePAM no\nPidFile none\nPrintMotd no\nPasswordAuthentication no",
                "KbdInteractiveAuthentication no\n",
            ]
        )
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd gives up its privileges
    process = subprocess.Popen([SSHD, "-D", "-f", config, "-E", folder / "log"])
    server = Sshd(address, port, folder, process)
    try:
        until(lambda: "Server listening" in server.log() if (folder / "log").exists() else False)
        yield server
    finally:
        server.signal(signal.SIGKILL)
        process.wait(DEADLINE_S)


def target(node: Sshd, *arguments: str, ssh: str = "auto", **changes: Any) -> Target:
    """A node as an inventory would describe it: `arguments` come before those that name its key and known hosts."""
    given: dict[str, Any] = {
        "name": "gpu0",
        "policy": POLICY,
        "address": node.address,
        "port": node.port,
        "user": USER,
        "become": False,
        "ssh": ssh,
        "ssh_args": (*arguments, *plain(node)),
        "connect_s": float(DEADLINE_S),
    }
    return Target(**(given | changes))


def plain(node: Sshd) -> tuple[str, ...]:
    """Arguments of ssh that name this server's key and known hosts, and nothing of this machine's own."""
    options = {
        "IdentityFile": node.key,
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "UserKnownHostsFile": node.known_hosts,
        "GlobalKnownHostsFile": "none",
    }
    return ("-F", "none", *(word for name, value in options.items() for word in ("-o", f"{name}={value}")))


@contextmanager
def full_port() -> Iterator[tuple[str, int]]:
    """An address whose kernel takes no more connections, and so never answers: as a node without power looks."""
    with socket.socket() as door, socket.socket() as first, socket.socket() as second:
        door.bind((f"127.{random.randint(72, 250)}.{random.randint(1, 250)}.1", 0))  # noqa: S311 - no secret
        door.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(door.getsockname())
        time.sleep(0.1)
        yield door.getsockname()


def ssh_config(path: Path, hosts: dict[str, Sshd], lines: dict[str, list[str]] | None = None) -> Path:
    """An ssh configuration for servers by Host pattern; `lines` come first, under the same or other patterns."""
    text = [f"Host {pattern}\n" + "".join(f"  {line}\n" for line in more) for pattern, more in (lines or {}).items()]
    for pattern, server in hosts.items():
        text.append(
            f"Host {pattern}\n  HostName {server.address}\n  Port {server.port}\n  User {USER}\n"
            f"  IdentityFile {server.key}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
            f"  UserKnownHostsFile {server.known_hosts}\n  GlobalKnownHostsFile none\n"
        )
    path.write_text("".join(text))
    return path
