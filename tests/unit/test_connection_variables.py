"""Connection variables and ansible.cfg reach the target, and what cannot be done is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gpugate.errors import InventoryError
from gpugate.inventory import Target, resolve
from healthy import VARIABLES


def target(folder: Path, **variables: Any) -> Target:
    """The one host of an inventory with these variables."""
    path = folder / "hosts.json"
    path.write_text(json.dumps({"all": {"vars": VARIABLES | variables, "hosts": {"gpu0": {}}}}))
    (found,) = resolve("gpu0", str(path))
    return found


def test_arguments_of_every_kind_are_heard(tmp_path: Path) -> None:
    """ansible_ssh_args, common and extra arguments all count, in the order in which Ansible gives them to ssh."""
    found = target(
        tmp_path,
        ansible_ssh_args="-J jump",
        ansible_ssh_common_args="-o 'ProxyCommand=nc %h %p'",
        ansible_ssh_extra_args="-4",
    )
    assert found.ssh_args == ("-J", "jump", "-o", "ProxyCommand=nc %h %p", "-4")


@pytest.mark.parametrize(
    ("given", "most"), [({}, 10), ({"ansible_timeout": 3}, 10), ({"ansible_ssh_timeout": "45"}, 45)]
)
def test_time_to_connect_is_ansibles(tmp_path: Path, given: dict[str, Any], most: float) -> None:
    """The time to connect is Ansible's timeout, and never so short that a busy node would be lost."""
    assert target(tmp_path, **given).connect_s == most


def test_transport_is_chosen_by_a_variable(tmp_path: Path) -> None:
    """gpugate_ssh chooses what carries the connection, by itself unless told; a name that is none is an error."""
    assert (target(tmp_path).ssh, target(tmp_path, gpugate_ssh="openssh").ssh) == ("auto", "openssh")
    with pytest.raises(InventoryError, match=r"gpugate_ssh: 'paramiko' is none of auto, asyncssh, openssh"):
        target(tmp_path, gpugate_ssh="paramiko")


@pytest.mark.parametrize(("method", "known"), [("sudo", True), ("ansible.builtin.sudo", True), ("su", False)])
def test_other_ways_to_become_root_are_refused(tmp_path: Path, method: str, known: bool) -> None:
    """Only sudo is used, so that a fleet with another become method hears of it, and not of a failed login."""
    if known:
        assert target(tmp_path, ansible_become_method=method).become
    else:
        with pytest.raises(InventoryError, match="ansible_become_method 'su' is not supported"):
            target(tmp_path, ansible_become_method=method)
        assert not target(tmp_path, ansible_become_method=method, ansible_become=False).become


def test_ansible_cfg_counts_where_variables_are_silent(tmp_path: Path) -> None:
    """User, port, key, arguments, timeout and password files of ansible.cfg are the hosts' own where they name none."""
    (tmp_path / "password").write_text("s3cret\n")
    (tmp_path / "ansible.cfg").write_text(
        "[defaults]\nremote_user=deploy\nremote_port=2222\nprivate_key_file=/keys/fleet\ntimeout=30\n"
        f"become_password_file={tmp_path / 'password'}\n"
        "[ssh_connection]\nssh_args=-J jump\nssh_common_args=-4\n"
    )
    path = tmp_path / "hosts.json"
    hosts = {"gpu0": {}, "gpu1": {"ansible_user": "root", "ansible_ssh_common_args": "-6"}}
    path.write_text(json.dumps({"all": {"vars": VARIABLES, "hosts": hosts}}))
    code = (
        "import sys; from gpugate.inventory import resolve; ("
        "[print(t.name, t.user, t.port, t.private_key, t.ssh_args, t.connect_s, t.become_password) "
        "for t in resolve('all', sys.argv[1])])"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(
        [sys.executable, "-c", code, path],
        env=env | {"ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "gpu0 deploy 2222 /keys/fleet ('-J', 'jump', '-4') 30.0 s3cret",
        "gpu1 root 2222 /keys/fleet ('-J', 'jump', '-6') 30.0 s3cret",
    ]
