"""Keys, and what SSH clients need to use them: all inside the fleet's folder."""

from __future__ import annotations

from typing import Any

import asyncssh

from gpusim.errors import GpusimError
from gpusim.fleet.description import FleetDescription
from gpusim.paths import USER, FleetLayout


def make_keys(layout: FleetLayout, description: FleetDescription) -> None:
    """Make the client's key and one host key a node, where there are none yet.

    :raises GpusimError: a private key that is there can be read by others; SSH clients would refuse it.
    """
    layout.host_keys.mkdir(exist_ok=True)
    wanted = {layout.identity: f"{USER}@gpusim"}
    wanted |= {layout.node(node.name).host_key: node.name for node in description.nodes}
    for path, comment in wanted.items():
        if path.exists():
            mode = path.stat().st_mode & 0o777
            if mode & 0o077:
                raise GpusimError(
                    f"{path} can be read by others (mode {mode:04o}): chmod 600 it, or remove it to get a new one"
                )
            continue
        key = asyncssh.generate_private_key("ssh-ed25519", comment=comment)
        path.touch(0o600)
        path.write_bytes(key.export_private_key())
        path.with_name(path.name + ".pub").write_bytes(key.export_public_key())


def write_client_files(layout: FleetLayout, description: FleetDescription) -> None:
    """Write `known_hosts` and `ssh_config` for these nodes."""
    lines = []
    for node in description.nodes:
        kind, key = layout.node(node.name).host_key.with_suffix(".pub").read_text().split()[:2]
        lines.append(f"{node.name},[{node.address}]:{description.port} {kind} {key}\n")
    layout.known_hosts.write_text("".join(lines))
    blocks = [f"Host {node.name}\n    HostName {node.address}\n" for node in description.nodes]
    blocks.append(
        f"Host {' '.join(node.name for node in description.nodes)}\n"
        f"    Port {description.port}\n"
        f"    User {USER}\n"
        f'    IdentityFile "{layout.identity}"\n'
        f'    UserKnownHostsFile "{layout.known_hosts}"\n'
    )
    blocks += [f"    {name} {value}\n" for name, value in OPTIONS.items()]
    layout.ssh_config.write_text("".join(blocks))


OPTIONS = {
    "GlobalKnownHostsFile": "none",  # nothing outside the folder is read or believed
    "StrictHostKeyChecking": "yes",
    "UpdateHostKeys": "no",
    "IdentitiesOnly": "yes",
    "IdentityAgent": "none",
    "RequestTTY": "no",
}


def inventory(description: FleetDescription, folder: str, group: str = "gpu_fleet") -> dict[str, Any]:
    """An Ansible inventory for this fleet, as data; `folder` is the fleet's, as text that may hold a template."""
    known_hosts = f'UserKnownHostsFile=\\"{folder}/known_hosts\\"'
    options = " ".join(f"-o {name}={value}" for name, value in OPTIONS.items())
    node = folder + "/nodes/{{ inventory_hostname }}"
    return {
        group: {
            "hosts": {node.name: {"ansible_host": node.address} for node in description.nodes},
            "vars": {
                "ansible_port": description.port,
                "ansible_user": USER,
                "ansible_ssh_private_key_file": f"{folder}/id_ed25519",
                "ansible_ssh_common_args": f'-F /dev/null -o "{known_hosts}" {options}',
                "ansible_ssh_use_tty": False,
                "ansible_python_interpreter": f"{node}/bin/python3",
                # absolute: Ansible would look for the home of `deploy` in the password file of the real machine
                "ansible_remote_tmp": f"{node}/home/.ansible/tmp",
                "gpugate_node_root": f"{node}/root",
            },
        }
    }
