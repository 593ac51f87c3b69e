"""A copy of the project beside a simulated fleet, so that a test can see every file that a run makes."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from fleets import Fleet

PROJECT = Path(__file__).resolve().parents[2]
PARTS = (
    "ansible.cfg",
    "checks",
    "playbooks",
    "plugins/action",
    "plugins/gpugate",
    "plugins/module_utils",
    "plugins/modules",
    "pyproject.toml",
)
DEADLINE_S = 300  # a safety only


@dataclass(frozen=True)
class Site:
    """`project` is the copy; `fleet` the nodes that its default inventory names."""

    project: Path
    fleet: Fleet

    @property
    def policy(self) -> Path:
        """The variables of the group, for a test to edit."""
        return self.project / "inventory/simulated/group_vars/gpu_fleet.yml"

    def play(self, name: str, *options: str, folder: str = "", succeeds: bool = True) -> str:
        """Run a playbook from `folder` of the project; its output. Whatever is on stderr, or warns, is an error."""
        ours = ("ANSIBLE_CONFIG", "ANSIBLE_HOME", "ANSIBLE_LOCAL_TEMP")
        env = {key: value for key, value in self.fleet.env.items() if key not in ours}
        env["PYTHONPATH"] = str(self.project / "plugins")
        path = name if folder else f"playbooks/{name}"
        command: list[str | Path] = [Path(sys.executable).parent / "ansible-playbook", path, *options]
        done = subprocess.run(
            command, cwd=self.project / folder, env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
        said: str = done.stdout + done.stderr
        assert (done.returncode == 0) == succeeds, said
        assert "WARNING" not in said, said
        assert "DEPRECAT" not in said, said
        assert done.stderr == "" or not succeeds, said
        return said

    def gpus(self, node: str, key: str) -> list[str]:
        """One value of every GPU of a node, as the simulated driver has it."""
        return [line.partition(": ")[2] for line in self.fleet.cli("show", node, f"gpu.*.{key}").stdout.splitlines()]

    def settings(self) -> list[list[str]]:
        """Persistence and power limit of every GPU of every node."""
        return [self.gpus(node, key) for node in ("gpu0", "gpu1") for key in ("persistence", "power_limit_w")]

    def files(self) -> dict[str, str]:
        """Every file and folder below the test's folder, with a digest of its content, but for what runs by itself."""
        top = self.fleet.dir.parent
        found = {}
        for path in sorted(top.rglob("*")):
            name = str(path.relative_to(top))
            if path.name in ("gpusim.state", "log") or "__pycache__" in name or "/proc/" in f"/{name}/":
                continue
            if path.is_symlink():
                found[name] = f"-> {path.readlink()}"
            else:
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        return found


def changed(said: str) -> dict[str, int]:
    """From the recap: how many tasks changed something, for each host that was reached."""
    return {host: int(count) for host, count in re.findall(r"^(\w+) +: ok=\d+ +changed=(\d+)", said, re.M)}


def make(folder: Path, fleet: Fleet) -> Site:
    """Copy the Ansible side below `folder`, with the fleet as its default inventory and the shipped policy."""
    project = folder / "a checkout in a folder that is deeper than a socket's path may be long" / ("x" * 60)
    for part in PARTS:
        source = PROJECT / part
        if source.is_dir():
            shutil.copytree(source, project / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            project.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, project / part)
    site = Site(project, fleet)
    site.policy.parent.mkdir(parents=True)
    shutil.copy(PROJECT / "inventory/simulated/group_vars/gpu_fleet.yml", site.policy)
    shutil.copy(fleet.inventory, project / "inventory/simulated/hosts.yml")
    return site
