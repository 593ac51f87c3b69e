"""A controller that dies in mid-burn leaves no burn without an end, and loses no result."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fleets import until
from judged_site import ROOT, Site

LONG = {"gpugate_burn_min_s": 200, "gpugate_burn_max_s": 200, "gpugate_burn_deadline_s": 90}


@pytest.fixture
def slow(own_reports: Site) -> Iterator[Site]:
    """The fleet, of which gpu0 burns long enough to be left alone."""
    variables = own_reports.fleet.inventory.parent / "host_vars"
    variables.mkdir()
    (variables / "gpu0.yml").write_text(yaml.safe_dump(LONG))
    yield own_reports
    (variables / "gpu0.yml").unlink()
    variables.rmdir()


def _on_node(site: Site, command: str) -> subprocess.CompletedProcess[str]:
    root = site.fleet.node("gpu0").root
    probe = root / "opt/gpugate/probe/current/gpugate-probe.pyz"
    return site.fleet.ssh("gpu0", f"python3 {probe} --rootfs {root} burn {command}")


def _burns(site: Site) -> bool:
    burns = json.loads(_on_node(site, "status --json").stdout)["burns"]
    return bool(burns) and burns[0]["state"] == "burning"


def test_killed_controller(slow: Site) -> None:
    """pytest is killed in mid-burn: the burn goes on to its own end, a second run says that it does, and its result is
    on the node."""
    command = ["pytest", "--hosts=gpu0", f"--ansible-inventory={slow.fleet.inventory}", f"--reports={slow.reports}"]
    with subprocess.Popen(
        command, cwd=ROOT, env=slow.fleet.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as controller:
        until(lambda: _burns(slow))
        controller.kill()
        controller.wait()
    second = slow.pytest(hosts="gpu0")
    assert second.returncode == pytest.ExitCode.TESTS_FAILED
    assert "the burn did not start: another one is under way on this node" in second.stdout
    until(lambda: not _burns(slow))
    fetched = _on_node(slow, "fetch")
    assert fetched.returncode == 0, fetched.stderr
    burn = json.loads(fetched.stdout)
    assert burn["seconds"] >= LONG["gpugate_burn_max_s"]
    assert {gpu["ended"] for gpu in burn["gpus"]} <= {"settled", "maximum"}
    assert Path(burn["samples"]["path"]).is_file()
