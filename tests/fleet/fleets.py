"""A simulated fleet for tests: brought up in a folder of its own, on addresses of its own, and ended again.

    with simulated_fleet(tmp_path, nodes=2, time_scale=50) as fleet:
        fleet.cli("inject", "gpu1", "fouled_heatsink", "--gpu", "5")
        subprocess.run(["ansible", "-i", fleet.inventory, "gpu_fleet", "-m", "ping"], env=fleet.env)
        (fleet.node("gpu0").root / "proc/meminfo").read_text()

`nodes` is a number (gpu0, gpu1, ... with the defaults below) or a list of mappings that override the defaults: any
key of a node in `fleet.yml`. The inventory (`fleet.inventory`, group `gpu_fleet`) has absolute paths and no template
beside `inventory_hostname`. It lies in a folder of its own, so that `group_vars/` can be written next to it.
`fleet.env` is an environment in which Ansible and SSH write nowhere but into the test's folder.
Bringing up one node takes about a second: prefer a fleet a module (`tmp_path_factory`) to a fleet a test.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from gpusim.fleet import access, description
from gpusim.node import allowed
from gpusim.paths import FleetLayout, NodeLayout

DEFAULTS = {"board": "H100-SXM5-80GB", "gpus": 8, "driver": "580"}
DEADLINE_S = 120  # a safety only


@dataclass(frozen=True)
class Fleet:
    """A fleet that is up. `description` is its fleet.yml, `dir` its folder (what `gpusim --dir` names)."""

    dir: Path
    description: Path
    inventory: Path
    env: dict[str, str]

    @property
    def layout(self) -> FleetLayout:
        return FleetLayout(self.dir)

    @property
    def ssh_config(self) -> Path:
        return self.layout.ssh_config

    def node(self, name: str) -> NodeLayout:
        """Where a node's root, home and libraries lie."""
        return self.layout.node(name)

    def cli(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `gpusim` on this fleet; with `check`, a failure is an AssertionError that shows what it said."""
        done = gpusim(*args, "--dir", str(self.dir), cwd=self.dir.parent)
        assert not check or done.returncode == 0, done.stderr
        return done

    def ssh(self, node: str, command: str, **options: Any) -> subprocess.CompletedProcess[Any]:
        """Run a command on a node with the OpenSSH client; text unless `text=False`."""
        options = {"capture_output": True, "text": True, "timeout": DEADLINE_S} | options
        return subprocess.run(["ssh", "-F", self.ssh_config, node, command], check=False, **options)

    def run(self, *command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program of this Python environment (ansible, pytest, ...) in the fleet's environment."""
        program = Path(sys.executable).parent / command[0]
        defaults: dict[str, Any] = {
            "timeout": DEADLINE_S,
            "cwd": self.inventory.parent,
            "env": self.env,
            "capture_output": True,
            "text": True,
        }
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [program, *command[1:]], check=False, **(defaults | options)
        )
        return done


def gpusim(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line as a person does."""
    return subprocess.run(
        [sys.executable, "-m", "gpusim", *args],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        cwd=cwd,
        check=False,
    )


def describe(nodes: int | Sequence[dict[str, Any]], time_scale: float = 20, port: int | None = None) -> dict[str, Any]:
    """A fleet description as data, on a free port and a network of addresses chosen by chance."""
    given = [{}] * nodes if isinstance(nodes, int) else list(nodes)
    network = f"127.{random.randint(72, 250)}.{random.randint(1, 250)}"  # noqa: S311 - no secret
    described = [{"name": f"gpu{i}", "address": f"{network}.{i + 1}"} | DEFAULTS | node for i, node in enumerate(given)]
    return {"port": port or free_port(f"{network}.1"), "time_scale": time_scale, "nodes": described}


def free_port(address: str) -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


@contextmanager
def simulated_fleet(
    folder: Path, nodes: int | Sequence[dict[str, Any]] = 1, *, time_scale: float = 20, port: int | None = None
) -> Iterator[Fleet]:
    """Bring a fleet up below `folder`, and end it with everything that runs on it."""
    data = describe(nodes, time_scale, port)
    described = folder / "fleet.yml"
    described.write_text(yaml.safe_dump(data))
    state, inventory = folder / "fleet", folder / "inventory" / "hosts.yml"
    inventory.parent.mkdir()
    parsed = description.load(described, allowed())
    inventory.write_text(yaml.safe_dump(access.inventory(parsed, str(state))))
    fleet = Fleet(state, described, inventory, environment(folder))
    try:
        shared = folder.parent / "drivers"  # of all tests of a session: building takes seconds
        up = gpusim("up", str(described), "--dir", str(state), "--drivers", str(shared), cwd=folder)
        assert up.returncode == 0, up.stderr
        yield fleet
    finally:
        down = gpusim("down", "--dir", str(state), cwd=folder)
        assert down.returncode == 0, down.stderr


def environment(folder: Path) -> dict[str, str]:
    """An environment whose home is inside the test's folder."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    config = home / "ansible.cfg"
    config.touch()
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PYTEST_", "SSH_"))}
    return ours | {
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_CONFIG": str(config),
        "ANSIBLE_HOME": str(home / ".ansible"),
        "ANSIBLE_LOCAL_TEMP": str(home / "tmp"),
        # Else a pytest that a test runs tidies up after the runs before: a minute, where those were whole suites.
        "PYTEST_DEBUG_TEMPROOT": str(home),
        # The path of a control socket would have to fit into 108 bytes below pytest's own folder.
        "ANSIBLE_SSH_ARGS": "-o ControlMaster=no -o ControlPath=none",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


def until(true: Callable[[], bool]) -> None:
    """Wait for something to become true; an AssertionError when it never does."""
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """The process exists and is no zombie."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
