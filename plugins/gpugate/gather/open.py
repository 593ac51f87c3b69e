"""The inventory's way to a node."""

from __future__ import annotations

from pathlib import Path

from ..errors import NotGathered
from ..inventory import Target
from .hops import Hops, jump_of
from .local import LocalTransport
from .ssh import SshTransport, login
from .ssh_options import require_nothing_more
from .transport import Transport


async def open_transport(target: Target, hops: Hops) -> Transport:
    """Reach a node the way its inventory says; raises NotGathered, with a sentence of its own for each cause."""
    if target.connection == "local":
        return LocalTransport(target)
    if target.connection not in ("ssh", "smart", "ansible.builtin.ssh"):
        raise NotGathered(f"{target.name}: ansible_connection {target.connection!r} is not supported (ssh or local)")
    try:
        settings = await hops.configs.settings(_arguments(target), target.address or target.name)
        require_nothing_more(settings)
        jump = jump_of(settings)
        tunnel = None if jump is None else await hops.tunnel(jump, target.connect_s)
    except NotGathered as error:
        raise NotGathered(f"{target.where} cannot be reached: {error}") from error
    connection = await login(
        target.where, settings, hops.credentials, target.connect_s, password=target.password, tunnel=tunnel
    )
    return SshTransport(target, connection)


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
