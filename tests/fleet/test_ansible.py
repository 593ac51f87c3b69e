"""Ansible and testinfra on simulated nodes, unchanged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import testinfra
import yaml
from fleets import Fleet


def ansible(fleet: Fleet, *args: str | Path, pipelining: bool = True, host: str = "gpu_fleet") -> str:
    """Run one ad-hoc task; what Ansible printed. Anything on stderr, any warning and any failure is an error."""
    env = fleet.env | {"ANSIBLE_PIPELINING": str(pipelining), "ANSIBLE_SSH_ARGS": "-o ControlMaster=no"}
    done = fleet.run("ansible", "-i", fleet.inventory, host, *args, env=env)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "WARNING" not in done.stdout
    return done.stdout


@pytest.mark.parametrize("pipelining", [True, False])
def test_ping(fleet: Fleet, pipelining: bool) -> None:
    """Ansible's ping answers from every node, with pipelining and without."""
    printed = ansible(fleet, "-m", "ping", pipelining=pipelining)
    assert [printed.count(text) for text in ("gpu0 | SUCCESS", "gpu1 | SUCCESS", '"ping": "pong"')] == [1, 1, 2]


def test_fifty_pings_in_a_row_lose_no_input(fleet: Fleet, tmp_path: Path) -> None:
    """Fifty pipelined modules over kept connections all arrive whole."""
    tasks = [{"ansible.builtin.ping": {"data": "{{ item }}"}, "loop": "{{ range(25) | list }}"}]
    play = tmp_path / "play.yml"
    play.write_text(yaml.safe_dump([{"hosts": "gpu_fleet", "gather_facts": False, "tasks": tasks}]))
    done = fleet.run("ansible-playbook", "-i", fleet.inventory, play, env=fleet.env | {"ANSIBLE_PIPELINING": "true"})
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    assert done.stdout.count("ok: [gpu") == 50


@pytest.mark.parametrize("pipelining", [True, False])
def test_become(fleet: Fleet, pipelining: bool) -> None:
    """With become, commands run as root, as far as they can see."""
    printed = ansible(fleet, "-b", "-m", "command", "-a", "id -u", pipelining=pipelining)
    assert printed.count("| CHANGED | rc=0 >>\n0\n") == 2


def test_copy_is_idempotent(fleet: Fleet, tmp_path: Path) -> None:
    """A file is copied into the node's root once, and the second copy changes nothing."""
    source = tmp_path / "file"
    source.write_bytes(os.urandom(300_000))
    task = ("-b", "-m", "copy", "-a", f"src={source} dest={{{{ gpugate_node_root }}}}/opt/file mode=0640")
    assert [ansible(fleet, *task).count('"changed": true') for _ in range(2)] == [2, 0]
    for name in ("gpu0", "gpu1"):
        copied = fleet.node(name).root / "opt/file"
        assert copied.read_bytes() == source.read_bytes()
        assert copied.stat().st_mode & 0o777 == 0o640


def test_facts_are_gathered(fleet: Fleet) -> None:
    """Ansible's setup runs on the node's python3."""
    printed = ansible(fleet, "-m", "setup", "-a", "gather_subset=!all", host="gpu0")
    facts = json.loads(printed.partition("=> ")[2])["ansible_facts"]
    assert facts["ansible_env"]["HOME"] == str(fleet.node("gpu0").home)
    assert facts["ansible_python"]["executable"] == str(fleet.node("gpu0").bin / "python3")


def test_testinfra_over_ssh(fleet: Fleet) -> None:
    """testinfra's ssh backend runs commands and looks at files, with sudo and without."""
    host = testinfra.get_host("ssh://gpu0", ssh_config=str(fleet.ssh_config), controlpersist=0)
    assert host.check_output("hostname") == "gpu0"
    assert host.file(str(fleet.node("gpu0").root / "etc/hostname")).content_string == "gpu0\n"
    with host.sudo():
        assert host.check_output("id -u") == "0"


def test_testinfra_over_ansibles_inventory(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """testinfra's ansible backend reads the inventory and reaches the node that it names."""
    for name, value in fleet.env.items():
        monkeypatch.setenv(name, value)
    host = testinfra.get_host("ansible://gpu1", ansible_inventory=str(fleet.inventory))
    assert host.check_output("hostname") == "gpu1"
    assert host.user().name


def test_python_of_a_node_is_not_that_of_a_virtual_environment(fleet: Fleet) -> None:
    """A node's python3 sees no package of the environment that the fleet runs in."""
    done = fleet.ssh("gpu0", "python3 -c 'import asyncssh'")
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr
