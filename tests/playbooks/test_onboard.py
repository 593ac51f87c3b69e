"""onboard.yml on simulated nodes over SSH, from a copy of the project: batch after batch, each by its own report."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from fleets import simulated_fleet
from gpugate.report.reader import read_report
from judged_site import POLICY
from sites import DEADLINE_S, PROJECT, Site, make


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Five new nodes of one GPU: gpu1 has a row that could not be remapped, gpu3 is down, gpu4 is only observed."""
    folder = tmp_path_factory.mktemp("site")
    with simulated_fleet(folder, nodes=[{"gpus": 1}] * 5, time_scale=16) as fleet:
        site = make(folder, fleet)
        site.policy.write_text(yaml.safe_dump(POLICY | {"gpugate_gpu_count": 1}))
        observed = site.policy.parents[1] / "host_vars/gpu4.yml"
        observed.parent.mkdir()
        observed.write_text("gpugate_level: observe\n")
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


def night(site: Site, job: str, hosts: str = "gpu2") -> subprocess.CompletedProcess[str]:
    """Run the script that the pipelines in deploy/ci run."""
    script = site.project / "deploy/ci/nightly"
    script.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(PROJECT / "deploy/ci/nightly", script)
    env = {key: value for key, value in site.fleet.env.items() if not key.startswith("ANSIBLE_")}
    env["PYTHONPATH"] = str(site.project / "plugins")
    return subprocess.run(
        [script, job, hosts], cwd="/", env=env, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def test_check_mode_says_what_would_be_done(site: Site) -> None:
    """--check tells what would be set, and whom it would check and admit, exits 0, and changes nothing."""
    said = site.play("onboard.yml", "--check", "--diff", "--limit", "gpu0")
    assert "would run the checks of the profile admission on gpu0, which" in flat(said)
    assert said.count("-> persistence on, power limit 650 W") == 1
    assert not list(site.fleet.node("gpu0").root.rglob("*gpugate*"))
    assert not (site.project / "state").exists()
    assert not (site.project / "reports").exists()


def test_each_batch_is_admitted_by_its_own_report_and_a_bad_node_stops_nobody(site: Site) -> None:
    """The good node of each batch comes in by the report of its batch; the red one and the observed one do not, and the
    exit status says so."""
    batches = ("-e", "gpugate_serial=2", "-e", "gpugate_max_fail_percentage=50")
    said = site.play("onboard.yml", "--limit", "!gpu3", *batches, succeeds=False)
    assert "gpu1 was not admitted: errors.row_remap FAIL" in flat(said)
    assert "gpu4 was not admitted: policy only observes this node" in flat(said)
    assert "admitted: gpu0 not admitted: gpu1 in service already: nobody report: /" in flat(said)
    runs = reports(site)
    assert {host: runs[entry["run_id"]] for host, entry in in_service(site).items()} == {
        "gpu0": {"gpu0", "gpu1"},
        "gpu2": {"gpu2", "gpu4"},
    }
    assert len(runs) == 2
    assert not (site.project / "reports/latest").exists()
    assert said.index("gpu0  admitted") < said.index("gpu2  admitted")
    assert re.search(r"^gpu1 .* failed=1 ", said, re.MULTILINE)


def test_a_batch_that_fails_stops_the_rest(site: Site) -> None:
    """Nodes that cannot be reached count: above the percentage the next batch does not begin, and is not touched."""
    before, runs = in_service(site), reports(site)
    site.fleet.cli("set", "gpu4", "gpu.0.power_limit_w", "600")  # what provisioning would undo
    said = site.play("onboard.yml", "--limit", "gpu0:gpu3:gpu4", "-e", "gpugate_serial=2", succeeds=False)
    assert "fatal: [gpu3]: UNREACHABLE!" in said
    assert "not begun, nor any batch after it: 1 of 2 nodes of the batch before were not admitted (gpu3)" in flat(said)
    assert site.gpus("gpu4", "power_limit_w") == ["600.0"]
    assert (in_service(site), reports(site)) == (before, runs)


def test_a_node_of_which_the_back_end_cannot_tell_is_left_out(site: Site) -> None:
    """It may well be at work: it is neither provisioned nor burnt, and the back end's own sentence says why."""
    backend = {"gpugate_admission_backend": "command", "gpugate_admission_command": ["echo", "{action}", "{host}"]}
    said = site.play("onboard.yml", "--limit", "gpu4", "-e", json.dumps(backend), succeeds=False)
    assert "gpu4: status answered 'status gpu4' instead of in, out or kept out: WHY" in flat(said)
    assert site.gpus("gpu4", "power_limit_w") == ["600.0"]


def test_run_again_it_leaves_alone_who_is_in_service(site: Site) -> None:
    """A mended node is onboarded; one that works already is neither burnt nor decided on, and the exit status is 0."""
    site.fleet.cli("clear", "gpu1")
    before, runs = in_service(site), reports(site)
    site.fleet.cli("set", "gpu0", "gpu.0.power_limit_w", "600")
    said = site.play("onboard.yml", "--limit", "gpu0:gpu1")
    assert "admitted: gpu1 not admitted: nobody in service already: gpu0 report: /" in flat(said)
    assert site.gpus("gpu0", "power_limit_w") == ["600.0"]
    site.fleet.cli("set", "gpu0", "gpu.0.power_limit_w", "650")
    after = in_service(site)
    assert after == before | {"gpu1": after["gpu1"]}
    assert [hosts for run, hosts in reports(site).items() if run not in runs] == [{"gpu1"}]


def test_a_night_as_a_ci_runs_it(site: Site) -> None:
    """The gate goes by the job's own report: 0 and kept, 1 and held where a node is red, each job once."""
    done = night(site, "job-1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^gpu\d +stays in", done.stdout, re.MULTILINE) == ["gpu2  stays in"]
    [report] = (site.project / "reports/ci/job-1").glob("runs/*/junit.xml")
    assert read_report(report).profile == "nightly"
    assert "report: reports/ci/job-1/latest/junit.xml (run " in done.stdout
    site.fleet.cli("inject", "gpu2", "remap_failed", "--gpu", "0")
    red = night(site, "job-2")
    assert red.returncode == 1, red.stdout + red.stderr
    assert re.search(r"^gpu2 +held: errors.row_remap FAIL", red.stdout, re.MULTILINE)
    assert "gpu2" in in_service(site)


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
