"""The inventory's way to a node."""

from __future__ import annotations

from pathlib import Path

from ..errors import NotGathered
from ..inventory import Target
from .hops import Hops
from .local import LocalTransport
from .master import open_master
from .openssh import OpenSshTransport
from .ssh import SshTransport, login
from .ssh_config import Settings
from .ssh_options import lacking
from .transport import Transport, unreachable


async def open_transport(target: Target, hops: Hops) -> Transport:
    """Reach a node the way its inventory says; raises NotGathered, with a sentence of its own for each cause."""
    if target.connection == "local":
        return LocalTransport(target)
    if target.connection not in ("ssh", "smart", "ansible.builtin.ssh"):
        raise NotGathered(f"{target.name}: ansible_connection {target.connection!r} is not supported (ssh or local)")
    try:
        settings = await hops.configs.settings(_arguments(target), target.address or target.name)
        chain = await hops.chain(settings)
        by_openssh = _by_openssh(target, hops, [settings, *(of_jump for _, of_jump in chain)])
        connect_s = float(settings.get("connecttimeout", str(target.connect_s)))
        if by_openssh:
            through = await hops.master(chain, connect_s)
        else:
            tunnel = await hops.tunnel(chain, connect_s)
    except NotGathered as error:
        raise unreachable(target.where, str(error)) from error
    if by_openssh:
        master = await open_master(
            target.where, settings, hops.folder, connect_s, password=target.password, through=through
        )
        return OpenSshTransport(target, settings, master)
    connection = await login(
        target.where, settings, hops.credentials, connect_s, password=target.password, tunnel=tunnel
    )
    return SshTransport(target, connection)


def _by_openssh(target: Target, hops: Hops, settings: list[Settings]) -> bool:
    """Whether the OpenSSH client carries the connection; raises NotGathered where it has to and may not."""
    lacks = [lack for one in settings if (lack := lacking(one, hops.credentials.known_hosts(one)))]
    if lacks and target.ssh == "asyncssh":
        raise NotGathered(
            f"asyncssh lacks what the ssh configuration asks for ({lacks[0]}): set gpugate_ssh to auto or openssh"
        )
    return target.ssh == "openssh" or bool(lacks)


def _arguments(target: Target) -> list[str]:
    """What `ssh` would be given for a target: what the inventory says itself comes first, for the first one counts."""
    arguments: list[str] = []
    if target.port is not None:
        arguments += ["-p", str(target.port)]
    if target.user is not None:
        arguments += ["-l", target.user]
    if target.private_key is not None:
        key = Path(target.private_key).expanduser()
        if not key.is_file():
            raise NotGathered(f"the inventory's private key {key} does not exist")
        arguments += ["-i", str(key)]
    return [*arguments, *target.ssh_args]
