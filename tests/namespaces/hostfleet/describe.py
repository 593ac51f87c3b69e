"""What a host of the fleet is, as data: the tests' side makes it, the side inside the namespaces reads it as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

USER = "deploy"
ASKER = "asker"  # may log in as the other does, and has no sudo but what provisioning gives
USERS = {USER: 4242, ASKER: 4243}
PASSWORD = "correct horse"  # noqa: S105 - of a user that exists for the length of a test
# What `openssl passwd -6 -salt gpugate` makes of it.
PASSWORD_HASH = "$6$gpugate$tF8pnOovBPiqjTjL4cKPZMUv9OnE5mGgtAViZImOZwPTrAH.Ri3zXeOcbB6yzy91CbVv2dfeaRAghi9yWPNpN0"  # noqa: S105
FREE_SUDO = f"{USER} ALL=(ALL:ALL) NOPASSWD: ALL\n"
ASKS_PASSWORD = f"{USER} ALL=(ALL:ALL) ALL\n"

# The controller's side of the network, and the one behind the jump host, where the controller has no address.
OUTER, INNER = "outer", "inner"
NETWORKS = {OUTER: "10.77", INNER: "10.78"}
PREFIX = 16


def address(network: str, index: int) -> str:
    """The address of the host of that index, from 0, on a network; the controller's is x.y.0.1."""
    return f"{NETWORKS[network]}.{1 + index // 250}.{1 + index % 250}"


@dataclass(frozen=True)
class HostSpec:
    """What a host is made of.

    :param sudoers: what /etc/sudoers.d/deploy holds
    :param behind_jump: it has no link to the controller, only to the fleet's jump host
    :param delay_s: how long each packet takes, either way
    :param disk_mib: how much can be written below / before the disk is full
    :param state: what the simulated driver begins with, by its keys (`gpu.0.persistence`)
    :param vars: variables of this host in the inventory
    """

    name: str
    board: str = "H100-SXM5-80GB"
    gpus: int = 1
    driver: str = "580"
    sudoers: str = FREE_SUDO
    behind_jump: bool = False
    delay_s: float = 0.0
    disk_mib: int = 64
    state: dict[str, Any] = field(default_factory=dict)
    vars: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Link:
    """A network card of a host: `device` is the other end, which lies in the fleet's own namespace."""

    network: str
    address: str
    device: str
    delay_s: float = 0.0

    @property
    def mac(self) -> str:
        """The card's own address: it stays over a reboot, as that of a real card."""
        return "02:00:" + ":".join(f"{int(part):02x}" for part in self.address.split("."))

    def card(self, number: int) -> str:
        return f"eth{number}"


@dataclass(frozen=True)
class Machine:
    """A host as the server boots it. `node` is the folder of the simulated node that its hardware comes from."""

    name: str
    node: str
    host_key: str
    sudoers: str
    systemd: bool
    disk_mib: int
    links: list[Link]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Machine:
        return cls(**{**data, "links": [Link(**link) for link in data["links"]]})
