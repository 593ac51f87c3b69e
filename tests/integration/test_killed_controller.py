"""A controller that dies in mid-burn leaves no burn without an end, loses no result, and is gone on with."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

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


def _burns(site: Site) -> list[dict[str, str]]:
    """What gpu0 says of its burns, the newest first."""
    root = site.fleet.node("gpu0").root
    probe = root / "opt/gpugate/probe/current/gpugate-probe.pyz"
    told = site.fleet.ssh("gpu0", f"python3 {probe} --rootfs {root} burn status --json")
    burns: list[dict[str, str]] = json.loads(told.stdout)["burns"]
    return burns


def _killed_in_mid_burn(site: Site, *arguments: str) -> None:
    """Start pytest on gpu0 and gpu1 and kill it when gpu0 burns and gpu1 has answered."""
    command = [
        "pytest", "--hosts=gpu0,gpu1", f"--ansible-inventory={site.fleet.inventory}", f"--reports={site.reports}",
        *arguments,
    ]  # fmt: skip
    before = len(_burns(site))
    with subprocess.Popen(
        command, cwd=ROOT, env=site.fleet.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as controller:
        until(lambda: len(_burns(site)) > before and _burns(site)[0]["state"] == "burning")
        until(lambda: any((site.reports / "unfinished").glob("*/gpu1.json")))
        controller.kill()
        controller.wait()


def test_killed_run_is_gone_on_with(slow: Site) -> None:
    """pytest is killed in mid-burn: --resume adopts the burn that goes on and asks nobody twice."""
    _killed_in_mid_burn(slow)
    (folder,) = (slow.reports / "unfinished").iterdir()
    answered, burn = (folder / "gpu1.json").read_bytes(), _burns(slow)[0]["id"]
    done = slow.pytest("--resume", hosts="gpu0,gpu1")
    assert done.returncode == pytest.ExitCode.OK, done.stdout
    assert _burns(slow)[0]["id"] == burn
    evidence = slow.latest() / "evidence"
    assert (evidence / "gpu1.json").read_bytes() == answered
    adopted = json.loads((evidence / "gpu0.json").read_text())["burn"]
    assert adopted["id"] == burn
    assert adopted["seconds"] >= LONG["gpugate_burn_max_s"]
    assert not folder.exists()
    again = slow.pytest("--resume", hosts="gpu0,gpu1")
    assert again.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--resume: no interrupted gather is there below" in again.stderr


def test_new_run_beside_a_burn_that_goes_on(slow: Site) -> None:
    """Without --resume, a second run says that another burn is under way, and the first one comes to its own end."""
    _killed_in_mid_burn(slow)
    first = _burns(slow)[0]["id"]
    second = slow.pytest(hosts="gpu0")
    assert second.returncode == pytest.ExitCode.TESTS_FAILED
    assert "the burn did not start: another one is under way on this node" in second.stdout
    until(lambda: {burn["id"]: burn["state"] for burn in _burns(slow)}[first] == "done")


def test_fleet_larger_than_its_connections(slow: Site) -> None:
    """With fewer connections than nodes, burns are begun everywhere, left alone, and their results collected."""
    done = slow.pytest("-o", "gpugate_connections=1", hosts="gpu0,gpu1,gpu2")
    assert done.returncode == pytest.ExitCode.OK, done.stdout
    evidence = slow.latest() / "evidence"
    receipts = json.loads((evidence / "gathered.json").read_text())["hosts"]
    begun = [json.loads((evidence / f"{host}.json").read_text())["burn"]["started_unix_s"] for host in receipts]
    assert max(begun) < min(receipt["received_unix_s"] for receipt in receipts.values())
