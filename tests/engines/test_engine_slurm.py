"""Evidence through a real Slurm: several nodes by one srun, judged like any other, every loss told with its node."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from judged_site import ROOT, Site
from slurm_cluster import Cluster


def gather(site: Site, slurm: Cluster, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`gpugate gather --through=srun` as a person runs it."""
    return site.fleet.run(
        "gpugate", "gather", "--hosts=gpu_fleet", f"--ansible-inventory={site.fleet.inventory}", "--through=srun",
        f"--evidence={folder}", *options, cwd=ROOT, env=site.fleet.env | slurm.environment,
    )  # fmt: skip


def test_one_srun_brings_the_evidence_of_all(own_reports: Site, slurm: Cluster, tmp_path: Path) -> None:
    """Admission's evidence of four nodes, burnt in and gathered by one srun, gives the verdicts that SSH gives, host by
    host and check by check; each node spoke of its own GPUs."""
    done = gather(own_reports, slurm, tmp_path / "evidence", "--srun-args=-p gpu")
    assert done.returncode == 0, done.stderr
    judged = own_reports.pytest(f"--evidence={tmp_path / 'evidence'}")
    through_slurm = own_reports.outcomes()
    assert set(own_reports.red()) == {"gpu1"}, judged.stdout
    assert "thermal.headroom" in own_reports.red()["gpu1"]
    over_ssh = own_reports.pytest()
    assert own_reports.outcomes() == through_slurm, over_ssh.stdout
    documents = [json.loads((tmp_path / "evidence" / f"gpu{i}.json").read_text()) for i in range(4)]
    assert [document["host"]["hostname"] for document in documents] == ["gpu0", "gpu1", "gpu2", "gpu3"]
    uuids = {gpu["uuid"] for document in documents for gpu in document["gpus"]}
    assert len(uuids) == 8
