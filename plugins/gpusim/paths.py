"""Where everything of a simulated fleet lies: one folder, so that removing it removes the fleet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

USER = "deploy"
LIBRARIES = "usr/lib/x86_64-linux-gnu"


@dataclass(frozen=True)
class NodeLayout:
    """The folder of one node. `root` stands for `/` of that node."""

    dir: Path

    @property
    def name(self) -> str:
        return self.dir.name

    @property
    def root(self) -> Path:
        return self.dir / "root"

    @property
    def home(self) -> Path:
        return self.dir / "home"

    @property
    def tmp(self) -> Path:
        return self.dir / "tmp"

    @property
    def bin(self) -> Path:
        return self.dir / "bin"

    @property
    def libdir(self) -> Path:
        return self.root / LIBRARIES

    @property
    def state(self) -> Path:
        return self.libdir / "gpusim.state"

    @property
    def journal(self) -> Path:
        """Which faults are on the node."""
        return self.dir / "faults.json"

    @property
    def drivers(self) -> Path:
        """Where the fleet keeps the driver libraries that it built."""
        return self.dir.parent.parent / "drivers"

    @property
    def host_key(self) -> Path:
        return self.dir.parent.parent / "host_keys" / self.name


@dataclass(frozen=True)
class FleetLayout:
    """The folder of a fleet (absolute)."""

    dir: Path

    @property
    def description(self) -> Path:
        """What is up, as JSON: the server reads it, and it marks the folder as ours."""
        return self.dir / "fleet.json"

    @property
    def identity(self) -> Path:
        return self.dir / "id_ed25519"

    @property
    def authorized_keys(self) -> Path:
        return self.dir / "id_ed25519.pub"

    @property
    def known_hosts(self) -> Path:
        return self.dir / "known_hosts"

    @property
    def ssh_config(self) -> Path:
        return self.dir / "ssh_config"

    @property
    def host_keys(self) -> Path:
        return self.dir / "host_keys"

    @property
    def nodes(self) -> Path:
        return self.dir / "nodes"

    @property
    def drivers(self) -> Path:
        return self.dir / "drivers"

    @property
    def log(self) -> Path:
        return self.dir / "log"

    @property
    def pid_file(self) -> Path:
        """Locked for as long as the server lives: the lock, not the number, says whether a fleet is up."""
        return self.dir / "pid"

    @property
    def socket(self) -> Path:
        return self.dir / "control"

    def node(self, name: str) -> NodeLayout:
        return NodeLayout(self.nodes / name)
