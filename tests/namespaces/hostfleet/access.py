"""How a controller gets in: keys, known hosts, the client's configuration, Ansible's inventory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh
import yaml
from gpusim.fleet.access import OPTIONS

from .describe import INNER, NETWORKS, USER

GROUP = "gpu_fleet"


@dataclass(frozen=True)
class Access:
    """Files of the controller, all below `folder`."""

    folder: Path

    @property
    def identity(self) -> Path:
        return self.folder / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def ssh_config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def inventory(self) -> Path:
        return self.folder / "inventory" / "hosts.yml"

    @property
    def policy(self) -> Path:
        return self.folder / "inventory" / "group_vars" / f"{GROUP}.yml"

    def make_identity(self) -> str:
        """The user's key; its public half."""
        private, public = new_key(f"{USER}@controller")
        self.identity.touch(0o600)
        self.identity.write_text(private)
        return public

    def write(
        self, addresses: Mapping[str, str], keys: Mapping[str, str], jump: str | None, host_vars: Mapping[str, Any]
    ) -> None:
        """Write what a client needs; `keys` are the hosts' public ones, `jump` the address of the jump host."""
        self.known_hosts.write_text("".join(f"{name},{addresses[name]} {key}" for name, key in keys.items()))
        names = [f"Host {name}\n  HostName {address}\n" for name, address in addresses.items()]
        behind = [f"Host {NETWORKS[INNER]}.*\n  ProxyJump {jump}\n"] if jump else []
        for name, address in addresses.items():
            if jump and address.startswith(NETWORKS[INNER]):
                names.append(f"Host {name}\n  ProxyJump {jump}\n")
        options = {
            "ConnectTimeout": 10,
            "User": USER,
            "IdentityFile": self.identity,
            "UserKnownHostsFile": self.known_hosts,
        } | OPTIONS
        everybody = "".join(f"  {name} {value}\n" for name, value in options.items())
        self.ssh_config.write_text("".join([*names, *behind, f"Host *\n{everybody}"]))
        self._write_inventory([name for name in addresses if name in host_vars], addresses, host_vars)

    def _write_inventory(
        self, names: Sequence[str], addresses: Mapping[str, str], host_vars: Mapping[str, Any]
    ) -> None:
        plain = " ".join(f"-o {name}={value}" for name, value in OPTIONS.items())
        hosts = {}
        for name in names:
            hosts[name] = {"ansible_host": addresses[name]} | dict(host_vars[name])
            if addresses[name].startswith(NETWORKS[INNER]):
                hosts[name]["ansible_ssh_common_args"] = f"-F {self.ssh_config}"
        group = {
            "hosts": hosts,
            "vars": {
                "ansible_user": USER,
                "ansible_ssh_private_key_file": str(self.identity),
                "ansible_ssh_common_args": f"-F /dev/null -o UserKnownHostsFile={self.known_hosts} {plain}",
                "ansible_python_interpreter": "/usr/bin/python3",
            },
        }
        self.inventory.parent.mkdir(exist_ok=True)
        self.inventory.write_text(yaml.safe_dump({GROUP: group}, sort_keys=False))

    def write_policy(self, policy: Mapping[str, Any]) -> None:
        self.policy.parent.mkdir(parents=True, exist_ok=True)
        self.policy.write_text(yaml.safe_dump(dict(policy)))


def new_key(comment: str) -> tuple[str, str]:
    """A new key: the private half in OpenSSH's format, the public half as a line."""
    key = asyncssh.generate_private_key("ssh-ed25519", comment=comment)
    return key.export_private_key().decode(), key.export_public_key().decode()
