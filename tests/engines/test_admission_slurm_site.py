"""The life of a node: playbooks on a real Slurm whose nodes are simulated machines."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from gpugate.admission.slurm_nodes import NEW_NODE
from judged_site import POLICY, ROOT, Site
from slurm_cluster import Cluster

CHECKS = {**POLICY["gpugate_checks"], "settings.power_limit": "evict"}  # type: ignore[dict-item]


@pytest.fixture
def evicting(site: Site) -> Iterator[None]:
    """A lost power limit may evict gpu2 and gpu3."""
    variables = site.fleet.inventory.parent / "host_vars"
    variables.mkdir()
    for host in ("gpu2", "gpu3"):
        (variables / f"{host}.yml").write_text(
            yaml.safe_dump({"gpugate_checks": CHECKS, "gpugate_greens_to_return": 1})
        )
    yield
    shutil.rmtree(variables)


def admit(site: Site, slurm: Cluster, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`ansible-playbook playbooks/admit.yml` as a person runs it, with the Slurm back end."""
    variables = {"gpugate_admission_backend": "slurm", "gpugate_hosts": "gpu2,gpu3",
                 "gpugate_report": str(site.latest() / "junit.xml"),
                 "gpugate_admission_state": str(folder / "state/admission.json")}  # fmt: skip
    return site.fleet.run(
        "ansible-playbook", ROOT / "playbooks/admit.yml", "-i", site.fleet.inventory, "-e", json.dumps(variables),
        *arguments, cwd=ROOT, env=site.fleet.env | slurm.environment | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
    )  # fmt: skip


def reason(slurm: Cluster, node: str) -> str:
    """The reason of a node, as scontrol prints it."""
    lines = slurm.run("scontrol", "show", "node", node).splitlines()
    return "".join(line.strip() for line in lines if line.startswith("   Reason="))


@pytest.mark.usefixtures("evicting")
def test_life_of_a_node(own_reports: Site, slurm: Cluster, tmp_path: Path) -> None:
    """New nodes are validated and let in; a fault that the nightly run finds drains its node with the reason; a node
    that a person drained stays drained though it is green; repaired, the faulty one comes back."""
    slurm.run("scontrol", "update", "NodeName=gpu[2-3]", "State=DRAIN", f"Reason={NEW_NODE}")
    judged = own_reports.pytest(hosts="gpu2,gpu3")
    assert judged.returncode == 0, judged.stdout
    would = admit(own_reports, slurm, tmp_path, "--check")
    assert would.stdout.count("would be admitted: all") == 2, would.stdout + would.stderr
    assert reason(slurm, "gpu2").startswith(f"Reason={NEW_NODE} [")
    done = admit(own_reports, slurm, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    slurm.idle("gpu2", "gpu3")

    own_reports.fleet.cli("inject", "gpu2", "power_limit_lost", "--gpu", "1")
    try:
        slurm.run("scontrol", "update", "NodeName=gpu3", "State=DRAIN", "Reason=fan rattles")
        assert own_reports.pytest("--profile=nightly", hosts="gpu2,gpu3").returncode == 1
        run = own_reports.latest().name
        done = admit(own_reports, slurm, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "removed: settings.power_limit FAIL" in done.stdout
        assert "not gpugate's to let in: root since" in done.stdout
        assert reason(slurm, "gpu2").startswith(f"Reason=gpugate: settings.power_limit FAIL (run {run}) [")
        assert reason(slurm, "gpu3").startswith("Reason=fan rattles [")
    finally:
        own_reports.fleet.cli("clear", "gpu2")
    assert own_reports.pytest(hosts="gpu2,gpu3").returncode == 0
    done = admit(own_reports, slurm, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    slurm.idle("gpu2")
    assert reason(slurm, "gpu3").startswith("Reason=fan rattles [")
    slurm.run("scontrol", "update", "NodeName=gpu3", "State=RESUME")
    slurm.idle("gpu3")
