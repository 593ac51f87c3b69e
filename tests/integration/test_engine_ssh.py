"""`gpugate gather` over SSH: the same evidence folder as through any other engine, judged apart from the gathering."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from judged_site import ROOT, Site


def gather(site: Site, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a person does."""
    inventory = f"--ansible-inventory={site.fleet.inventory}"
    return site.fleet.run("gpugate", "gather", inventory, "--profile=quick", f"--evidence={folder}", *options, cwd=ROOT)


def test_gathered_apart_and_judged_together(own_reports: Site, tmp_path: Path) -> None:
    """Two gathers of parts of the fleet are judged as one run that touches no host; a folder that holds evidence is
    never gathered into again."""
    first = gather(own_reports, tmp_path / "a", "--hosts=gpu0")
    second = gather(own_reports, tmp_path / "b", "--hosts=gpu1,gpu2", "--through=ssh")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert f"evidence of 2 of 2 hosts, profile quick, in {tmp_path}/b" in second.stdout
    judged = own_reports.pytest("--profile=quick", f"--evidence={tmp_path}/a", f"--evidence={tmp_path}/b")
    assert judged.returncode == 0, judged.stdout
    assert set(own_reports.outcomes()) == {"gpu0", "gpu1", "gpu2"}
    again = gather(own_reports, tmp_path / "a", "--hosts=gpu0")
    assert (again.returncode, again.stdout) == (2, "")
    assert f"{tmp_path}/a is not empty or holds evidence already: name another folder" in again.stderr


def test_interrupted_gather_is_gone_on_with(own_reports: Site, tmp_path: Path) -> None:
    """A gather that was killed before its end goes on in its folder: who has answered is not asked again."""
    assert gather(own_reports, tmp_path / "a", "--hosts=gpu0").returncode == 0
    (tmp_path / "a/gathered.json").unlink()
    before = (tmp_path / "a/gpu0.json").read_bytes()
    done = gather(own_reports, tmp_path / "a", "--hosts=gpu0,gpu1")
    assert done.returncode == 0, done.stderr
    assert "gpu0: evidence gathered before" in done.stderr
    assert (tmp_path / "a/gpu0.json").read_bytes() == before


def test_host_that_cannot_be_reached_is_told(own_reports: Site, tmp_path: Path) -> None:
    """A host that is down is told with its cause, and the exit status says that something is missing."""
    own_reports.fleet.cli("stop", "gpu2")
    try:
        done = gather(own_reports, tmp_path / "evidence", "--hosts=gpu1,gpu2")
    finally:
        own_reports.fleet.cli("start", "gpu2")
    assert done.returncode == 1, done.stdout
    assert "evidence of 1 of 2 hosts" in done.stdout
    receipts = json.loads((tmp_path / "evidence/gathered.json").read_text())["hosts"]
    assert receipts["gpu1"]["missing"] == ""
    assert receipts["gpu2"]["missing"].startswith("gpu2 (")


def test_wrong_host_asks_nobody(own_reports: Site, tmp_path: Path) -> None:
    """A misspelt pattern is an error before anything is made."""
    done = gather(own_reports, tmp_path / "evidence", "--hosts=gpu_flet")
    assert done.returncode == 2
    assert "did you mean gpu_fleet?" in done.stderr
    assert not (tmp_path / "evidence").exists()
