"""onboard.yml on simulated nodes over SSH, from a copy of the project: batch after batch, each by its own report."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fleets import simulated_fleet
from gpugate.report.reader import read_report
from judged_site import POLICY
from sites import DEADLINE_S, PROJECT, Site, make


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Five new nodes of one GPU; gpu1 has a row that could not be remapped, gpu3 is down."""
    folder = tmp_path_factory.mktemp("site")
    with simulated_fleet(folder, nodes=[{"gpus": 1}] * 5, time_scale=40) as fleet:
        site = make(folder, fleet)
        site.policy.write_text(yaml.safe_dump(POLICY | {"gpugate_gpu_count": 1}))
        fleet.cli("inject", "gpu1", "remap_failed", "--gpu", "0")
        fleet.cli("stop", "gpu3")
        yield site


def in_service(site: Site) -> dict[str, Any]:
    """The entries of the state file, by host."""
    state = site.project / "state/admission.json"
    entries: dict[str, Any] = json.loads(state.read_text())["hosts"] if state.exists() else {}
    return {host: entry for host, entry in entries.items() if entry["in_service"]}


def reports(site: Site) -> dict[str, set[str]]:
    """The run ids of all that onboarding reported, with their hosts."""
    read = [read_report(path) for path in (site.project / "reports").glob("onboard/*/runs/*/junit.xml")]
    return {report.run_id: set(report.hosts) for report in read}


def flat(said: str) -> str:
    """What was said, without the breaks that Ansible puts into long sentences."""
    return " ".join(said.split())


def touched(site: Site, node: str) -> bool:
    """Whether anything of ours is on the node."""
    return bool(list(site.fleet.node(node).root.rglob("*gpugate*")))


def night(site: Site, job: str, hosts: str = "gpu0:gpu2") -> subprocess.CompletedProcess[str]:
    """Run the script that the pipelines in deploy/ci run."""
    script = site.project / "deploy/ci/nightly"
    script.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(PROJECT / "deploy/ci/nightly", script)
    env = {key: value for key, value in site.fleet.env.items() if not key.startswith("ANSIBLE_")}
    env["PYTHONPATH"] = str(site.project / "plugins")
    return subprocess.run(
        [script, job, hosts], cwd="/", env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def test_check_mode_says_what_would_be_done_batch_by_batch(site: Site) -> None:
    """--check tells each batch's provisioning and whom it would check and admit, exits 0, and changes nothing."""
    said = site.play("onboard.yml", "--check", "--diff", "--limit", "gpu0:gpu2", "-e", "gpugate_serial=1")
    for node in ("gpu0", "gpu2"):
        assert f"would run the checks of the profile admission on {node}, which" in flat(said)
        assert not touched(site, node)
    assert said.count("-> persistence on, power limit 650 W") == 2
    assert not (site.project / "state").exists()
    assert not (site.project / "reports").exists()


def test_a_bad_node_stays_out_and_stops_nobody_else(site: Site) -> None:
    """Each batch is admitted by the report that it made itself; the red node is not, and the exit status says so."""
    batches = ("-e", "gpugate_serial=2", "-e", "gpugate_max_fail_percentage=50")
    said = site.play("onboard.yml", "--limit", "gpu0:gpu1:gpu2", *batches, succeeds=False)
    assert "gpu1 was not admitted: errors.row_remap FAIL" in flat(said)
    assert "batch of 2: admitted gpu0; not admitted gpu1; report /" in flat(said)
    entries, runs = in_service(site), reports(site)
    assert {host: runs[entry["run_id"]] for host, entry in entries.items()} == {
        "gpu0": {"gpu0", "gpu1"},
        "gpu2": {"gpu2"},
    }
    assert sorted(map(sorted, runs.values())) == [["gpu0", "gpu1"], ["gpu2"]]
    assert not (site.project / "reports/latest").exists()
    assert said.index("gpu0  admitted") < said.index("gpu2  admitted")
    assert re.search(r"^gpu1 .* failed=1 ", said, re.MULTILINE)


def test_a_batch_that_fails_stops_the_rest(site: Site) -> None:
    """Nodes that cannot be reached count: above the percentage the next batch does not begin, and is not touched."""
    before, runs = in_service(site), reports(site)
    said = site.play("onboard.yml", "--limit", "gpu0:gpu3:gpu4", "-e", "gpugate_serial=2", succeeds=False)
    assert "fatal: [gpu3]: UNREACHABLE!" in said
    assert "not begun, nor any batch after it: 1 of 2 nodes of the batch before were not admitted (gpu3)" in flat(said)
    assert not touched(site, "gpu4")
    assert (in_service(site), reports(site)) == (before, runs)


def test_run_again_it_leaves_alone_who_is_in_service(site: Site) -> None:
    """A mended node is onboarded; one that works already is neither burnt nor decided on, and the exit status is 0."""
    site.fleet.cli("clear", "gpu1")
    before, runs = in_service(site), reports(site)
    site.fleet.cli("set", "gpu0", "gpu.0.power_limit_w", "600")  # what provisioning would undo
    said = site.play("onboard.yml", "--limit", "gpu0:gpu1")
    assert site.gpus("gpu0", "power_limit_w") == ["600.0"]
    site.fleet.cli("set", "gpu0", "gpu.0.power_limit_w", "650")
    after = in_service(site)
    assert after == before | {"gpu1": after["gpu1"]}
    assert [hosts for run, hosts in reports(site).items() if run not in runs] == [{"gpu1"}]
    assert "gpu0  " not in said


def test_a_node_whose_policy_only_observes_is_not_admitted(site: Site, tmp_path: Path) -> None:
    """Nothing is admitted by accident: at the level observe the node is left out, and the sentence says why."""
    site.fleet.cli("start", "gpu3")
    levels = tmp_path / "levels.yml"
    levels.write_text(yaml.safe_dump({"gpugate_level": "observe"}))
    host = site.policy.parents[1] / "host_vars/gpu3.yml"
    host.parent.mkdir()
    host.write_text(levels.read_text())
    said = site.play("onboard.yml", "--limit", "gpu3", succeeds=False)
    assert "gpu3 was not admitted: policy only observes this node" in flat(said)
    assert "gpu3" not in in_service(site)


def test_a_night_as_a_ci_runs_it(site: Site) -> None:
    """The gate goes by the job's own report: 0 and kept, 1 and held where a node is red, each job once."""
    done = night(site, "job-1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^gpu\d +stays in", done.stdout, re.MULTILINE) == ["gpu0  stays in", "gpu2  stays in"]
    [report] = (site.project / "reports/ci/job-1").glob("runs/*/junit.xml")
    assert read_report(report).profile == "nightly"
    assert f"report: {site.project}/reports/ci/job-1/latest/junit.xml" in done.stdout
    site.fleet.cli("inject", "gpu2", "remap_failed", "--gpu", "0")
    red = night(site, "job-2")
    assert red.returncode == 1, red.stdout + red.stderr
    assert re.search(r"^gpu2 +held: errors.row_remap FAIL", red.stdout, re.MULTILINE)
    assert {"gpu0", "gpu2"} <= set(in_service(site))


def test_a_night_that_could_not_judge_asks_no_gate(site: Site) -> None:
    """A name that was used, or is no name, and hosts that there are not: status 4, and nothing is decided."""
    (site.project / "reports/ci/used").mkdir(parents=True)
    for job, hosts, sentence in (
        ("used", "gpu0", "reports/ci/used is there already"),
        ("../latest", "gpu0", "the job's name may have letters, digits"),
        ("job-3", "gpu9", "matches 'gpu9'"),
    ):
        done = night(site, job, hosts)
        assert done.returncode == 4, done.stdout + done.stderr
        assert sentence in done.stdout + done.stderr
        assert "PLAY [" not in done.stdout
