"""What people use now to run one command on many hosts, as command lines for the bench of gathering.

Each engine runs a shell command on every host of a namespace fleet. `answers(output)` counts the hosts that answered:
engines lose hosts under load, and a lost host is not a fast one.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MARK = "gpugate-answered"  # what the command says on a host, so that answers can be counted
PARALLEL_SSH, FANOUT, FORKS = 32, 64, 50
PERSIST_S = 15
MASTER = f"-o ControlMaster=auto -o ControlPersist={PERSIST_S}s"

# What a shell can read of the facts that the probe collects. nvidia-smi, which a site would call for the rest, is
# slower than any of these.
CHECKS = [
    "hostname", "cat /etc/machine-id", "cat /proc/sys/kernel/random/boot_id", "uname -r", "cat /proc/uptime",
    "date +%s", "grep Mem /proc/meminfo", "stat -f /dev/shm", "cat /proc/driver/nvidia/version",
    "cat /sys/module/nvidia/version", "/sbin/modinfo -F version nvidia", "/sbin/ldconfig -p", "ls -l /dev/nvidiactl",
    "ls /sys/bus/pci/devices", "cat /proc/driver/nvidia/gpus/*/information", "ls /usr/lib/x86_64-linux-gnu/nvidia",
    "ps -eo pid,args", "cat /etc/os-release", "cat /proc/cmdline", "ls /opt/gpugate/probe/current",
]  # fmt: skip
TESTINFRA = """import pytest

@pytest.mark.parametrize("command", {commands!r})
def test_fact(host, command):
    assert host.run(command).rc == 0
"""
PLAYBOOK = """- hosts: gpu_fleet
  gather_facts: false
  tasks:
    - ansible.builtin.shell: {command}
"""


@dataclass(frozen=True)
class Engine:
    """A command line that runs in the fleet's network, and how its output tells how many hosts answered."""

    name: str
    command: Sequence[str | Path]
    answers: Callable[[str], int]
    environment: Mapping[str, str] = field(default_factory=dict)


def engines(folder: Path, hosts: list[str], ssh_config: Path, inventory: Path, command: str) -> list[Engine]:
    """Every engine with this command, which is one line of shell. `folder` is new, and its path short."""
    marked = f"{command} && echo {MARK}"
    listed, script, playbook = folder / "hosts", folder / "each", folder / "one-task.yml"
    listed.write_text("\n".join(hosts) + "\n")
    script.write_text(f'#!/bin/sh\nexec ssh -F {ssh_config} "$1" {shlex.quote(marked)} </dev/null\n')
    script.chmod(0o755)
    playbook.write_text(PLAYBOOK.format(command=json.dumps(marked)))
    forks = min(FORKS, len(hosts))
    ansible = {"ANSIBLE_PIPELINING": "1", "ANSIBLE_SSH_ARGS": MASTER, "ANSIBLE_SSH_CONTROL_PATH_DIR": str(folder)}
    return [
        Engine(
            f"`xargs -P{PARALLEL_SSH} ssh`",
            ["sh", "-c", f"xargs -P{PARALLEL_SSH} -n1 {script} < {listed}"],
            lambda output: output.count(MARK),
        ),
        Engine(
            f"ClusterShell, `clush -f {FANOUT}`",
            ["clush", "-q", "-f", str(FANOUT), "-w", ",".join(hosts), "-o", f"-F {ssh_config}", marked],
            lambda output: output.count(MARK),
        ),
        Engine(
            f"`ansible -m shell`, pipelining, `-f {forks}`",
            ["ansible", "-i", inventory, "gpu_fleet", "-f", str(forks), "-m", "ansible.builtin.shell", "-a", marked],
            lambda output: output.count(MARK),
            ansible,
        ),
        Engine(
            f"playbook of one task, pipelining, `-f {forks}`",
            ["ansible-playbook", "-i", inventory, "-f", str(forks), playbook],
            lambda output: len(re.findall(r" ok=1 .* unreachable=0 +failed=0 ", output)),
            ansible,
        ),
    ]


def testinfra(folder: Path, hosts: list[str], ssh_config: Path, *, control_path: bool) -> Engine:
    """Twenty one-command checks on each of these hosts, as testinfra comes or with a ControlPath below `folder`.

    testinfra asks for a ControlMaster by itself, but names no ControlPath, so that nothing is shared.
    """
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_facts.py").write_text(TESTINFRA.format(commands=CHECKS))
    config = folder / "ssh_config"
    config.write_text((f"ControlPath {folder}/%h\n" if control_path else "") + ssh_config.read_text())
    named = ",".join(f"ssh://{host}?controlpersist={PERSIST_S}" for host in hosts)
    command: list[str | Path] = [
        "pytest", "-q", "--tb=line", "-p", "no:gpugate", "-p", "no:cacheprovider", f"--rootdir={folder}",
        f"--hosts={named}", f"--ssh-config={config}", folder,
    ]  # fmt: skip
    name = f"testinfra, {len(CHECKS)} commands a host, {'with a ControlPath' if control_path else 'as it comes'}"
    return Engine(name, command, lambda output: _passed(output) // len(CHECKS))


def _passed(output: str) -> int:
    found = re.search(r"(\d+) passed", output)
    return int(found[1]) if found else 0
