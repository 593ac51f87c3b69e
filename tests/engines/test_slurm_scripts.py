"""deploy/slurm: what slurmd itself calls on its nodes, called by a real slurmd."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from judged_site import POLICY, ROOT, Site
from slurm_cluster import Cluster, cluster

CHECKS = {**POLICY["gpugate_checks"], "settings.power_limit": "evict"}  # type: ignore[dict-item]
OFF = "exit 0\n"  # as the scripts' environment: they do nothing


@pytest.fixture
def scripts(site: Site, tmp_path: Path) -> Path:
    """What deploy/slurm puts on gpu2 and gpu3, with an inventory in which they are local."""
    inventory = tmp_path / "inventory"
    shutil.copytree(site.fleet.inventory.parent, inventory, symlinks=True, ignore=lambda *_: ["host_vars"])
    (inventory / "host_vars").mkdir()
    local = {"ansible_connection": "local", "ansible_become": False, "gpugate_checks": CHECKS}
    for host in ("gpu2", "gpu3"):
        (inventory / "host_vars" / f"{host}.yml").write_text(yaml.safe_dump(local))
    project = tmp_path / "project"
    (project / ".venv").mkdir(parents=True)
    (project / ".venv/bin").symlink_to(Path(sys.executable).parent)
    for name in ("ansible.cfg", "checks", "playbooks", "plugins", "pyproject.toml"):
        (project / name).symlink_to(ROOT / name)
    folder = tmp_path / "scripts"
    shutil.copytree(ROOT / "deploy/slurm", folder)
    return folder


def reason(slurm: Cluster, node: str) -> str:
    """The reason of a node, as scontrol prints it."""
    lines = slurm.run("scontrol", "show", "node", node).splitlines()
    return "".join(line.strip() for line in lines if line.startswith("   Reason="))


def configure(scripts: Path, slurm_conf: str, **changes: str) -> None:
    """Write gpugate.env for these scripts."""
    folder = scripts.parent
    known = {"GPUGATE_PROJECT": str(folder / "project"), "GPUGATE_INVENTORY": str(folder / "inventory"),
             "GPUGATE_STATE": f"{folder}/state-$SLURMD_NODENAME", "GPUGATE_HOST": "$SLURMD_NODENAME",
             "GPUGATE_SECONDS": "50", "GPUGATE_MAY_DRAIN": "no", "HOME": str(folder)} | changes  # fmt: skip
    lines = [f'{name}="{value}"' for name, value in known.items()]
    (scripts / "gpugate.env").write_text("\n".join([*lines, f"export SLURM_CONF={slurm_conf} HOME", ""]))


def test_what_slurmd_calls(site: Site, scripts: Path, tmp_path: Path) -> None:
    """slurmd's HealthCheckProgram judges its node: without leave to drain it only tells; with it, the faulty node is
    drained with the check as its reason, and the green one is not."""
    settings = f"HealthCheckProgram={scripts}/health_check.sh\nHealthCheckInterval=5\nHealthCheckNodeState=ANY\n"
    site.fleet.cli("inject", "gpu2", "power_limit_lost", "--gpu", "1")
    (scripts / "gpugate.env").write_text(OFF)
    try:
        with cluster(["gpu2", "gpu3"], settings=settings) as slurm:
            configure(scripts, slurm.environment["SLURM_CONF"])
            reports = tmp_path / "state-gpu2/reports/runs"
            slurm.until(lambda: reports.is_dir() and any(reports.iterdir()))
            slurm.idle("gpu2", "gpu3")
            configure(scripts, slurm.environment["SLURM_CONF"], GPUGATE_MAY_DRAIN="yes")
            slurm.until(lambda: slurm.state("gpu2") == "drained")
            assert reason(slurm, "gpu2").startswith("Reason=gpugate: settings.power_limit FAIL (run ")
            green = tmp_path / "state-gpu3/reports/latest"
            slurm.until(green.exists)
            assert slurm.state("gpu3") == "idle"
            (scripts / "gpugate.env").write_text(OFF)
    finally:
        site.fleet.cli("clear", "gpu2")


@pytest.fixture(scope="module")
def faked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Path]]:
    """A node whose slurmd calls prolog and epilog, over a project whose pytest and ansible-playbook are of the test's
    making; and where these are to lie."""
    folder = tmp_path_factory.mktemp("faked")
    scripts, commands = folder / "scripts", folder / "project/.venv/bin"
    shutil.copytree(ROOT / "deploy/slurm", scripts)
    commands.mkdir(parents=True)
    settings = f"Prolog={scripts}/prolog.sh\nEpilog={scripts}/epilog.sh\n"
    with cluster(["gpu0"], settings=settings) as slurm:
        configure(scripts, slurm.environment["SLURM_CONF"], GPUGATE_MAY_DRAIN="yes", GPUGATE_SECONDS="2")
        yield slurm, commands


def command(commands: Path, name: str, script: str) -> None:
    """Put a program there."""
    (commands / name).write_text(f"#!/bin/sh\n{script}\n")
    (commands / name).chmod(0o755)


@pytest.mark.parametrize(
    ("judging", "gate"),
    [
        ("exit 0", "touch $0.called"),
        ("exit 2", "touch $0.called"),
        ("exit 4", "touch $0.called"),
        ("kill -9 $$", "touch $0.called"),
        ("sleep 60", "touch $0.called"),
        ("exit 1", "exit 0"),
        ("exit 1", "exit 2"),
        ("exit 1", "sleep 60"),
    ],
)
def test_no_error_drains(faked: tuple[Cluster, Path], judging: str, gate: str) -> None:
    """Whatever becomes of judging and of the gate, short of a removal, the job runs and the node stays in service; the
    gate is asked only where something is red."""
    slurm, commands = faked
    command(commands, "pytest", judging)
    command(commands, "ansible-playbook", gate)
    assert "ran" in slurm.run("srun", "echo", "ran")
    slurm.idle("gpu0")
    assert reason(slurm, "gpu0") == ""
    assert not (commands / "ansible-playbook.called").exists()


def test_project_that_is_not_there(faked: tuple[Cluster, Path]) -> None:
    """On a node without the project, jobs run."""
    slurm, commands = faked
    shutil.rmtree(commands)
    assert "ran" in slurm.run("srun", "echo", "ran")
    slurm.idle("gpu0")
    commands.mkdir()


def test_no_job_begins_where_the_gate_drained(faked: tuple[Cluster, Path], tmp_path: Path) -> None:
    """Where the gate drains the node in the prolog, the job does not run there, and the reason stays the gate's."""
    slurm, commands = faked
    told = "gpugate: settings.power_limit FAIL (run x)"
    command(commands, "pytest", "exit 1")
    command(commands, "ansible-playbook", f'scontrol update NodeName=gpu0 State=DRAIN Reason="{told}"')
    job = slurm.run("sbatch", "--parsable", f"--output={tmp_path}/out", f"--wrap=touch {tmp_path}/ran").strip()
    slurm.until(lambda: slurm.state("gpu0") == "drained")
    slurm.until(lambda: slurm.run("squeue", "--noheader", "--format=%T", f"--jobs={job}").strip() == "PENDING")
    assert reason(slurm, "gpu0").startswith(f"Reason={told} [")
    assert not (tmp_path / "ran").exists()
    slurm.run("scancel", job)
