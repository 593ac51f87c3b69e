"""One line of sudo's for one user: the command that gathering sends, to the letter, and nothing else."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import pytest
from fleets import DEADLINE_S, simulated_fleet
from gpugate.evidence.codec import parse
from gpugate.evidence.frame import unpack
from gpugate.evidence.request import ProbeRequest
from gpugate.gather.fleet import collect_command
from gpugate.gather.transport import privileged
from gpugate.inventory import Target, resolve
from gpugate.policy import policy_from_variables
from sites import PROJECT, Site, changed, make

VISUDO = shutil.which("visudo", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
needs_visudo = pytest.mark.skipif(VISUDO is None, reason="sudo is not installed")
SECURE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # as /etc/sudoers has it
LINE = "etc/sudoers.d/gpugate"
POLICY = {
    "gpugate_board": "T4",
    "gpugate_gpu_count": 1,
    "gpugate_driver_allowed": ">=550",
    "gpugate_cuda_versions": ["12.4"],
}
PLAY = """
- hosts: all
  gather_facts: false
  vars:
    node_root: "{{ gpugate_node_root | default('/') }}"
  tasks:
    - gpu_probe: {driver_root: "{{ gpugate_driver_root | default(omit) }}"}
      register: node_probe
      when: node_probe is not defined
    - ansible.builtin.include_tasks: tasks/sudoers.yml
"""
NODE = {"python3": "/usr/bin/python3", "visudo": "/usr/sbin/visudo", "folder": True, "line": False, "changeable": {}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A node that has sudo, and beside provision.yml a play of the line alone."""
    folder = tmp_path_factory.mktemp("site")
    with simulated_fleet(folder, nodes=[{"gpus": 2}]) as fleet:
        (fleet.node("gpu0").root / LINE).parent.mkdir()
        made = make(folder, fleet)
        made.policy.write_text(made.policy.read_text().replace("gpugate_gpu_count: 8", "gpugate_gpu_count: 2"))
        (made.project / "playbooks/line.yml").write_text(PLAY)
        yield made


def _line(site: Site) -> Path:
    return site.fleet.node("gpu0").root / LINE


def _sudoers(text: str) -> dict[str, str]:
    """The file's lines by their first word; the command without its alias."""
    return {line.split()[0]: line.partition(" ")[2].removeprefix("GPUGATE_PROBE = ") for line in text.splitlines()}


@needs_visudo
def test_the_line_is_the_command_that_gathering_sends(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told in check mode and then installed: 0440, right for visudo, the very command of the inventory's target; a
    second run changes nothing; without the variable it goes again."""
    user = ("-e", "gpugate_probe_user=deploy")
    told = site.play("provision.yml", "--check", "--diff", *user)
    assert "+deploy ALL=(root) NOPASSWD: NOSETENV: GPUGATE_PROBE" in told
    assert not _line(site).exists()
    site.play("provision.yml", *user)
    assert _line(site).stat().st_mode & 0o7777 == 0o440
    subprocess.run([VISUDO or "", "-cf", _line(site)], check=True, capture_output=True, timeout=DEADLINE_S)
    text = _line(site).read_text()
    monkeypatch.setenv("ANSIBLE_CONFIG", str(site.project / "ansible.cfg"))
    (target,) = resolve("gpu0", str(site.project / "inventory/simulated"))
    assert _sudoers(text)["Cmnd_Alias"] == " ".join(collect_command(target))
    assert not set("*?[]\\") & set(text)
    assert changed(site.play("provision.yml", *user)) == {"gpu0": 0}
    assert changed(site.play("provision.yml")) == {"gpu0": 1}
    assert not _line(site).exists()


@needs_visudo
def test_unprovision_takes_the_line_away(site: Site) -> None:
    """After unprovision.yml nobody may ask any more."""
    site.play("provision.yml", "-e", "gpugate_probe_user=deploy")
    site.play("unprovision.yml")
    assert not _line(site).exists()


def test_what_visudo_refuses_is_not_installed(site: Site) -> None:
    """A file that visudo does not like never takes its place, and what was there stays."""
    visudo = site.fleet.node("gpu0").bin / "visudo"
    visudo.write_text("#!/bin/sh\necho 'parse error' >&2; exit 1\n")
    visudo.chmod(0o755)
    said = site.play("provision.yml", "-e", "gpugate_probe_user=deploy", succeeds=False)
    visudo.unlink()
    assert "parse error" in said
    assert not _line(site).exists()


def _local(site: Site, *options: str, succeeds: bool = True, **variables: Any) -> str:
    """The play of the line alone, on this machine, in check mode."""
    given = {"ansible_connection": "local", "ansible_become": False, "gpugate_probe_user": "nobody", **variables}
    host = ["-i", "gpu9,", "-e", json.dumps(given), *options]
    return " ".join(site.play("line.yml", *host, succeeds=succeeds).split())


@pytest.mark.parametrize("user", ["ALL", "root", "%wheel", "a, ALL", "a\nb ALL=(ALL) ALL", ""])
def test_a_user_that_sudo_would_read_otherwise_is_refused(site: Site, user: str) -> None:
    """Everybody, root, groups, aliases, lists and further lines are no user."""
    said = _local(site, "--check", gpugate_probe_user=user, node_probe={"sudo": NODE}, succeeds=False)
    assert "cannot stand in a line for sudo: name one user" in said


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"ansible_python_interpreter": "/usr/bin/python*"}, 'ansible_python_interpreter "/usr/bin/python*" cannot'),
        ({"gpugate_node_root": "/host/../*"}, 'gpugate_node_root "/host/../*" cannot stand'),
        ({"gpugate_node_root": "/host/"}, 'gpugate_node_root "/host/" cannot stand'),
        ({"gpugate_driver_root": "/run/a b"}, 'gpugate_driver_root "/run/a b" cannot stand'),
        ({"node_probe": {"sudo": {**NODE, "python3": None}}}, 'ansible_python_interpreter "" cannot stand'),
        ({"node_probe": {"sudo": {**NODE, "visudo": None}}}, "gpu9 has no visudo, and a file for sudo that was not"),
        ({"node_probe": {"sudo": {**NODE, "folder": False}}}, "gpu9 has no /etc/sudoers.d, and a file for sudo"),
        (
            {"node_probe": {"sudo": {**NODE, "changeable": {"/usr/bin/python3": ["/usr belongs to user 7"]}}}},
            "whoever may run the probe as root could run anything: on gpu9 /usr belongs to user 7.",
        ),
    ],
)
def test_what_would_let_the_user_do_more_is_refused(site: Site, variables: dict[str, Any], words: str) -> None:
    """Wildcards, spaces, a node without visudo, a Python or probe that others may change: each has its sentence."""
    known: dict[str, list[str]] = {"/opt/gpugate/probe/current/gpugate-probe.pyz": []}
    sudo = {**NODE, **variables.get("node_probe", {"sudo": NODE})["sudo"]}
    node = {"sudo": {**sudo, "changeable": {**known, **sudo["changeable"]}}}
    said = _local(site, "--check", succeeds=False, **{**variables, "node_probe": node})
    assert words in said


@pytest.fixture
def node_code() -> ModuleType:
    """What the modules share on a node."""
    place = PROJECT / "plugins/module_utils/gpugate_node.py"
    spec = importlib.util.spec_from_file_location("gpugate_node_of_sudoers", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_whatever_others_may_change_on_the_way_is_named(node_code: ModuleType, tmp_path: Path) -> None:
    """Folders, links and the file itself count; sticky folders and what is not there yet do not."""
    file = tmp_path / "real/bin/python3"
    file.parent.mkdir(parents=True)
    file.write_text("")
    (tmp_path / "link").symlink_to("real/../real")
    place = str(tmp_path / "link/bin/python3")
    assert node_code.changeable(place) == node_code.changeable(str(tmp_path / "none/at/all")) == []
    file.parent.chmod(0o777)
    assert node_code.changeable(place) == [f"{file.parent} can be written by everybody"]
    file.parent.chmod(0o1777)
    assert node_code.changeable(place) == []
    os.chown(file, 7, 0)
    os.chown(tmp_path / "link", 8, 0, follow_symlinks=False)
    assert node_code.changeable(place) == [f"{tmp_path}/link belongs to user 8", f"{file} belongs to user 7"]
    os.chown(file, 0, 50)
    file.chmod(0o775)
    assert node_code.changeable(str(file)) == [f"{file} can be written by group 50"]
    (tmp_path / "loop").symlink_to("loop")
    assert node_code.changeable(str(tmp_path / "loop")) == [f"{tmp_path}/loop has too many symbolic links"]


def _target(**other: Any) -> Target:
    return Target(name="gpu9", policy=policy_from_variables("gpu9", POLICY), node_root=PurePosixPath("/"), **other)


def _can(program: str) -> bool:
    command = ["unshare", "-m", "--propagation", "private", "sh", "-c", program]
    return subprocess.run(command, capture_output=True, timeout=DEADLINE_S, check=False).returncode == 0


@pytest.mark.skipif(
    os.geteuid() != 0 or VISUDO is None or not _can("mount -t tmpfs none /opt && test -x /usr/bin/python3"),
    reason="needs root, sudo, and mounts of its own",
)
def test_with_the_real_sudo(site: Site, tmp_path: Path) -> None:
    """In mounts of its own: provisioned, user `nobody` gets a frame for the very words of gathering; one word more,
    less or other, another Python, a variable or another user is refused by sudo."""
    asked, _ = privileged(_target(), collect_command(_target()), b"")
    request = json.dumps(dataclasses.asdict(ProbeRequest("n-1", "nightly", launch=False)))
    (tmp_path / "request").write_text(request)
    play = json.dumps({"ansible_connection": "local", "ansible_become": False, "gpugate_probe_user": "nobody"})
    refused = [
        asked + " --state-dir /tmp",
        asked.replace("--request -", "--request /etc/shadow"),
        asked.replace("--rootfs /", "--rootfs /tmp"),
        asked.replace("--rootfs /", "--rootfs  '/ x'"),
        asked.replace(" -I ", " "),
        asked.replace("-- python3", "-- PYTHONPATH=/tmp python3"),
        asked.replace("-- python3", "-- /usr/bin/env python3"),
        asked.replace("-- python3", "-- /tmp/python3"),
        asked.replace("-u root", "-u daemon"),
        asked.replace("collect", "settings"),
        "sudo -n -s",
        "sudo -n python3",
    ]
    script = tmp_path / "script"
    script.write_text(
        "set -e\n"
        "mount -t tmpfs -o mode=755 none /opt; mount -t tmpfs -o mode=755 none /etc/sudoers.d\n"
        'ansible-playbook playbooks/line.yml -i gpu9, -e "$PLAY" >said 2>&1\n'
        'ansible-playbook playbooks/line.yml -i gpu9, -e "$PLAY" >again 2>&1\n'
        "cd /; set +e\n"
        f'setpriv --reuid=nobody --clear-groups sh -c "{asked}" <"$HERE/request" >"$HERE/frame" 2>"$HERE/err"\n'
        f'setpriv --reuid=daemon --clear-groups sh -c "{asked}" </dev/null >"$HERE/daemon" 2>&1\n'
        "while read -r line; do\n"
        '  setpriv --reuid=nobody --clear-groups sh -c "$line" </dev/null >/dev/null 2>>"$HERE/no"\n'
        '  echo $? >>"$HERE/codes"\n'
        'done <"$HERE/refused"\n'
    )
    (tmp_path / "refused").write_text("".join(f"{line}\n" for line in refused))
    environment = {
        **site.fleet.env,
        "PATH": f"{SECURE_PATH}:{Path(sys.executable).parent}",
        "PLAY": play,
        "HERE": str(tmp_path),
        "PYTHONPATH": str(site.project / "plugins"),
        "ANSIBLE_CONFIG": str(site.project / "ansible.cfg"),
    }
    command = ["unshare", "-m", "--propagation", "private", "sh", str(script)]
    done = subprocess.run(
        command, cwd=site.project, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode in (0, 1), done.stderr + (site.project / "said").read_text()
    assert "changed=2" in (site.project / "said").read_text()
    assert "changed=0" in (site.project / "again").read_text()
    found = parse(unpack((tmp_path / "frame").read_bytes()))
    assert found.nonce == "n-1"
    assert "a password is required" in (tmp_path / "daemon").read_text()
    codes = (tmp_path / "codes").read_text().split()
    words = (tmp_path / "no").read_text()
    assert codes == ["1"] * len(refused), words
    assert [line.partition(": ")[0] for line in words.splitlines()] == ["sudo"] * len(refused), words
    assert not (Path("/") / LINE).exists()
