"""Bringing a fleet up and down, and running controllers in its network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpugate.provision import probe_file
from gpusim.fleet.description import NodeDescription
from gpusim.node import Node
from gpusim.paths import NodeLayout

from . import needs
from .access import Access, new_key
from .describe import INNER, OUTER, USER, HostSpec, Link, Machine, address
from .host import Host
from .needs import FleetError

DEADLINE_S = 300  # a safety only
JUMP = "jump"
_HERE = Path(__file__).resolve().parents[1]
# What a healthy host of this fleet is.
POLICY: dict[str, Any] = {
    "gpugate_board": "H100-SXM5-80GB",
    "gpugate_gpu_count": 1,
    "gpugate_driver_allowed": ">=550.54.14",
    "gpugate_cuda_versions": ["12.4"],
    "gpugate_persistence": True,
    "gpugate_power_limit_w": 650,
    "gpugate_level": "admit",
    "gpugate_burn_min_s": 60,
    "gpugate_burn_max_s": 180,
    "gpugate_rates": {"fma": 57, "f16": 620, "bf16": 620, "s8": 1240, "stream": 3080},
    "gpugate_host_memory_ratio": 0.001,  # this machine's memory is shown, not one that goes with the cards
}
# The hosts have pid namespaces, in which the driver hides processes: these checks say so and stay red.
_PLACEMENT = ("expected_workloads", "no_cpu_fallback", "no_orphans", "no_strangers")
NOT_SHOWN = {f"placement.{name}": "absent" for name in _PLACEMENT}
NOT_WITH_TINI = {"settings.survive_reboot": "absent"}
SETTINGS = {"gpu.*.persistence": True, "gpu.*.power_limit_w": 650}


class NamespaceFleet:
    """A fleet that is up. `hosts` by name; the jump host, where there is one, is not among them."""

    def __init__(self, access: Access, hosts: dict[str, Host], jump: Host | None, server: int, env: dict[str, str]):
        self.access = access
        self.hosts = hosts
        self.jump = jump
        self.server = server
        self.env = env

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def __iter__(self) -> Iterator[Host]:
        return iter(self.hosts.values())

    def __len__(self) -> int:
        return len(self.hosts)

    @property
    def folder(self) -> Path:
        return self.access.folder

    @property
    def inventory(self) -> Path:
        """Ansible's inventory: group gpu_fleet, with the policy in group_vars beside it."""
        return self.access.inventory

    @property
    def ssh_config(self) -> Path:
        """For `ssh -F`: hosts by their names and by their addresses."""
        return self.access.ssh_config

    @property
    def enter(self) -> list[str]:
        """The words in front of a command that has to run in the fleet's network."""
        return ["nsenter", f"--net=/proc/{self.server}/ns/net", "--"]

    def command(self, command: Sequence[str | Path]) -> list[str]:
        """A program of this Python environment (ansible, pytest, ...) or of the machine, in the fleet's network."""
        program, *arguments = command
        own = Path(sys.executable).parent / program
        return [*self.enter, str(own if own.exists() else program), *map(str, arguments)]

    def run(self, command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a controller's program to its end, in the fleet's network and environment."""
        defaults: dict[str, Any] = {
            "timeout": DEADLINE_S,
            "cwd": self.folder,
            "env": self.env,
            "capture_output": True,
            "text": True,
        }
        done: subprocess.CompletedProcess[str] = subprocess.run(
            self.command(command), check=False, **(defaults | options)
        )
        return done

    def ssh(self, name: str, command: str, user: str = USER) -> subprocess.CompletedProcess[str]:
        """Run a command on a host as one of its users, with the OpenSSH client."""
        return self.run(["ssh", "-F", self.ssh_config, "-l", user, name, command])


@contextmanager
def namespace_fleet(
    folder: Path,
    hosts: int | Sequence[HostSpec] = 8,
    *,
    systemd: bool = False,
    time_scale: float = 20,
    provisioned: bool = False,
    policy: Mapping[str, Any] | None = None,
    drivers: Path | None = None,
) -> Iterator[NamespaceFleet]:
    """Bring hosts up (a number: gpu001, gpu002, ... as `HostSpec` has them), with files below `folder`; end them.

    :param systemd: their init is systemd; else tini, and sshd is all that runs
    :param time_scale: device seconds per second of the simulated cards
    :param provisioned: they have the probe and the settings that provision.yml makes, but no unit of its
    :param policy: variables of the group gpu_fleet over the ones above
    :param drivers: keeps built driver libraries, by default beside `folder`
    :raises FleetError: this is not root, packages are missing, or a host does not come up
    """
    needs.check(systemd=systemd)
    specs = [HostSpec(f"gpu{number:03d}") for number in range(1, hosts + 1)] if isinstance(hosts, int) else list(hosts)
    access = Access(folder)
    place = folder / "place"
    place.mkdir()
    public = access.make_identity()
    with _server(place, systemd) as order:
        jump = _jump(specs)
        tree = probe_tree(folder) if provisioned else None
        specs = [replace(spec, state=SETTINGS | spec.state) for spec in specs] if provisioned else specs
        made = [
            _make(folder, spec, index, drivers or folder.parent / "drivers", time_scale, systemd, order)
            for index, spec in enumerate([*specs, *jump])
        ]
        up = {host.name: host for host, _ in made}
        first = str(made[0][0].node.paths.dir)
        server = order({"prepare": {"public_key": public, "node": first, "systemd": systemd, "tree": tree}})[""]
        pids = order({"boot": [_as_json(host.machine) for host in up.values()]})
        wires = ["nsenter", f"--net=/proc/{server}/ns/net", "--"]
        for host in up.values():
            host.pid, host.wires = pids[host.name], wires
        addresses = {host.name: host.address for host in up.values()}
        jumping = up.pop(JUMP, None) if jump else None
        access.write(
            addresses,
            {host.name: key for host, key in made},
            jumping.address if jumping else None,
            {spec.name: spec.vars for spec in specs},
        )
        checks = NOT_SHOWN if systemd else NOT_SHOWN | NOT_WITH_TINI
        access.write_policy(POLICY | {"gpugate_checks": checks} | dict(policy or {}))
        for host, _ in made:
            host.wait_until(host.listens, "its sshd listens")
        yield NamespaceFleet(access, up, jumping, server, _environment(folder))


def _jump(specs: Sequence[HostSpec]) -> list[HostSpec]:
    return [HostSpec(JUMP)] if any(spec.behind_jump for spec in specs) else []


def _make(
    folder: Path, spec: HostSpec, index: int, drivers: Path, time_scale: float, systemd: bool, order: Any
) -> tuple[Host, str]:
    """A host that is about to boot, and its public key."""
    network = INNER if spec.behind_jump else OUTER
    links = [Link(network, address(network, index), f"v{index}", spec.delay_s)]
    if spec.name == JUMP:
        links.append(Link(INNER, address(INNER, index), f"w{index}"))
    paths = NodeLayout(folder / "nodes" / spec.name)
    paths.root.mkdir(parents=True)
    described = NodeDescription(
        spec.name, links[0].address, spec.board, spec.gpus, spec.driver, state=spec.state | {"real_users": True}
    )
    node = Node.make(paths, described, time_scale, drivers)
    paths.state.chmod(0o666)  # as /dev/nvidia* are: everybody may ask the driver
    private, public = new_key(spec.name)
    machine = Machine(spec.name, str(paths.dir), private, spec.sudoers, systemd, spec.disk_mib, links)
    return Host(spec, machine, node, lambda machines: order({"boot": [_as_json(one) for one in machines]})), public


def _as_json(machine: Machine) -> dict[str, Any]:
    return {**vars(machine), "links": [vars(link) for link in machine.links]}


def probe_tree(folder: Path) -> str:
    """What provision.yml puts on a node: the probe, below a folder that stands for /."""
    built, digest = probe_file(folder / "built")
    kept = folder / "tree/opt/gpugate/probe"
    (kept / digest).mkdir(parents=True)
    built.rename(kept / digest / built.name)
    (kept / "current").symlink_to(digest)
    command = [sys.executable, "-I", str(kept / digest / built.name), "precompile"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return str(folder / "tree")


@contextmanager
def _server(place: Path, systemd: bool) -> Iterator[Any]:
    """The fleet's namespaces: what takes orders there. At the end nothing of them is left."""
    alive, tests = os.pipe()
    keeper = subprocess.Popen(
        [sys.executable, "-m", "hostfleet.keeper", str(place), "systemd" if systemd else "tini", str(alive)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=(alive,), start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(_HERE)}, cwd="/",
    )  # fmt: skip
    os.close(alive)
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    orders, answers = keeper.stdin, keeper.stdout

    def order(what: dict[str, Any]) -> dict[str, int]:
        print(json.dumps(what), file=orders, flush=True)
        answer = json.loads(answers.readline() or '{"error": "the fleet ended"}')
        if "error" in answer:
            raise FleetError(f"the fleet of hosts does not come up: {answer['error']}")
        return dict(answer["pids"])

    try:
        yield order
    finally:
        os.close(tests)
        orders.close()
        status = keeper.wait(DEADLINE_S)
        answers.close()
        if status:
            raise FleetError(f"the keeper of the fleet of hosts ended with {status}: something may be left behind")


def _environment(folder: Path) -> dict[str, str]:
    """An environment whose home is inside the test's folder."""
    home = folder / "home"
    home.mkdir()
    config = home / "ansible.cfg"
    config.touch()
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PYTEST_", "SSH_"))}
    return ours | {
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_CONFIG": str(config),
        "ANSIBLE_HOME": str(home / ".ansible"),
        "ANSIBLE_LOCAL_TEMP": str(home / "tmp"),
        # The path of a control socket would have to fit into 108 bytes below pytest's own folder.
        "ANSIBLE_SSH_ARGS": "-o ControlMaster=no -o ControlPath=none",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin",
    }
