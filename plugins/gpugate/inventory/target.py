"""One host of the inventory: how to reach it, and what it has to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..policy import Policy

TRANSPORTS = ("auto", "asyncssh", "openssh")


@dataclass(frozen=True)
class Target:
    """A host as the inventory describes it, after Ansible's own templating.

    `address` is None where neither ansible_host nor the ssh configuration renames it; `port`, `user` and
    `private_key` are None where the inventory leaves them to the ssh configuration. `ssh` names what carries the
    connection: asyncssh, openssh, or auto. `connect_s` is how long TCP may take. `state_file` is the controllers'
    state store, None for the project's own. `node_name` is what Slurm or Kubernetes calls it, None for `name`.
    `variables` are those of its gpugate_ variables that are no policy, as the inventory has them. Secrets stay out of
    reprs.
    """

    name: str
    policy: Policy
    connection: str = "ssh"
    address: str | None = None
    port: int | None = None
    user: str | None = None
    private_key: str | None = None
    password: str | None = field(default=None, repr=False)
    ssh_args: tuple[str, ...] = ()
    ssh: str = "auto"
    connect_s: float = 10.0
    become: bool = True
    become_user: str = "root"
    become_password: str | None = field(default=None, repr=False)
    python: str = "python3"
    node_root: PurePosixPath = field(default_factory=lambda: PurePosixPath("/"))
    driver_root: str | None = None
    state_file: Path | None = None
    node_name: str | None = None
    variables: Mapping[str, object] = field(default_factory=dict, repr=False, hash=False)

    @property
    def probe(self) -> PurePosixPath:
        """Where provisioning put the probe that is current on this node."""
        return self.node_root / "opt/gpugate/probe/current/gpugate-probe.pyz"

    @property
    def where(self) -> str:
        """Name and address, for a sentence about reaching it."""
        place = self.address or self.name
        return f"{self.name} ({place}{f':{self.port}' if self.port else ''})"
