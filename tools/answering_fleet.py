"""Any number of hosts that answer at once: one asyncssh server on loopback addresses of its own for each.

    with answering_fleet(folder, hosts=1000) as inventory: ...

Each logs in with a key over real SSH and answers the collect command with the document of a healthy eight-GPU node, for
the nonce and the profile that it was asked for. So what is measured is the controller, and not a thousand probes.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncssh
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "unit"))

from gpugate.evidence.codec import serialise  # noqa: E402  # the path above comes first
from gpugate.evidence.facts import Gap  # noqa: E402
from gpugate.evidence.frame import pack  # noqa: E402
from healthy import VARIABLES, healthy, with_fact  # noqa: E402

USER = "bench"
HOSTS_A_NET = 250
OPTIONS = "-F /dev/null -o IdentitiesOnly=yes -o IdentityAgent=none -o GlobalKnownHostsFile=none"


@contextmanager
def answering_fleet(folder: Path, hosts: int) -> Iterator[Path]:
    """Start the server in a process of its own; the inventory of its hosts (group gpu_fleet). Raises SystemExit."""
    command = [sys.executable, __file__, str(folder), str(hosts)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            if not server.stdout or server.stdout.readline() != "ready\n":
                raise SystemExit("the answering hosts did not come up")
            yield folder / "hosts.yml"
        finally:
            if server.stdin:
                server.stdin.close()  # it ends with its input


async def _serve(folder: Path, count: int) -> None:
    key, user_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    identity, known_hosts, allowed = folder / "id_ed25519", folder / "known_hosts", folder / "authorized_keys"
    identity.touch(0o600)
    identity.write_bytes(user_key.export_private_key())
    allowed.write_bytes(user_key.export_public_key())
    net = f"127.{64 + os.getpid() % 128}"
    addresses = [f"{net}.{1 + n // HOSTS_A_NET}.{1 + n % HOSTS_A_NET}" for n in range(count)]
    first = await _listen(addresses[0], 0, key, allowed)
    port = first.get_port()
    servers = [first, *[await _listen(address, port, key, allowed) for address in addresses[1:]]]
    known_hosts.write_text(f"[{net}.*]:{port} {key.export_public_key().decode()}")
    shared: dict[str, Any] = VARIABLES | {
        "ansible_port": port, "ansible_user": USER, "ansible_ssh_private_key_file": str(identity),
        "ansible_ssh_common_args": f"{OPTIONS} -o UserKnownHostsFile={known_hosts}",
        "ansible_become": False, "ansible_python_interpreter": "/usr/bin/python3",
    }  # fmt: skip
    hosts = {f"gpu{n:05d}": {"ansible_host": address} for n, address in enumerate(addresses)}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"gpu_fleet": {"hosts": hosts, "vars": shared}}))
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for server in servers:
        server.close()


async def _listen(address: str, port: int, key: asyncssh.SSHKey, allowed: Path) -> asyncssh.SSHAcceptor:
    return await asyncssh.listen(
        address, port, server_host_keys=[key], authorized_client_keys=str(allowed), process_factory=_answer,
        encoding=None, reuse_address=True,
    )  # fmt: skip


async def _answer(process: asyncssh.SSHServerProcess[bytes]) -> None:
    if " collect " not in (process.command or ""):
        process.exit(0)
        return
    request = json.loads(await process.stdin.read())
    document = healthy(process.get_extra_info("sockname")[0])
    document = replace(document, nonce=request["nonce"], profile=request["profile"])
    if request["burn"] is None:
        document = with_fact(document, "burn", Gap("no burn was asked for"))
    process.stdout.write(pack(serialise(document)))
    process.exit(0)


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
