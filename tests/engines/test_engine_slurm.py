"""Evidence through a real Slurm: several nodes by one srun, judged like any other, every loss told with its node."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from judged_site import ROOT, Site
from slurm_cluster import Cluster


def gather(site: Site, slurm: Cluster, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`gpugate gather --through=srun` as a person runs it."""
    return site.fleet.run(
        "gpugate", "gather", "--hosts=gpu_fleet", f"--ansible-inventory={site.fleet.inventory}", "--through=srun",
        f"--evidence={folder}", *options, cwd=ROOT, env=site.fleet.env | slurm.environment,
    )  # fmt: skip


def jobs(slurm: Cluster) -> set[str]:
    """The jobs that Slurm remembers: number, and how many nodes."""
    listed = slurm.run("squeue", "--noheader", "--states=all", "--format=%A %D")
    return {line.strip() for line in listed.splitlines()}


def test_one_srun_brings_the_evidence_of_all(own_reports: Site, slurm: Cluster, tmp_path: Path) -> None:
    """Evidence of four nodes, gathered by one srun, gives the verdicts that SSH gives, host by host and check by check;
    each node spoke of its own GPUs."""
    before = jobs(slurm)
    own_reports.fleet.cli("inject", "gpu2", "power_limit_lost", "--gpu", "1")
    try:
        done = gather(own_reports, slurm, tmp_path / "evidence", "--profile=nightly", "--srun-args=-p gpu")
        assert done.returncode == 0, done.stderr
        judged = own_reports.pytest("--profile=nightly", f"--evidence={tmp_path / 'evidence'}")
        through_slurm, red = own_reports.outcomes(), own_reports.red()
        over_ssh = own_reports.pytest("--profile=nightly")
    finally:
        own_reports.fleet.cli("clear", "gpu2")
    assert own_reports.outcomes() == through_slurm, judged.stdout + over_ssh.stdout
    assert red == {"gpu2": {"settings.power_limit"}}, judged.stdout
    (job,) = jobs(slurm) - before
    assert job.endswith(" 4")
    documents = [json.loads((tmp_path / "evidence" / f"gpu{i}.json").read_text()) for i in range(4)]
    assert [document["host"]["hostname"] for document in documents] == ["gpu0", "gpu1", "gpu2", "gpu3"]
    uuids = {gpu["uuid"] for document in documents for gpu in document["gpus"]}
    assert len(uuids) == 8


def test_burns_through_srun_find_what_burns_over_ssh_find(own_reports: Site, slurm: Cluster, tmp_path: Path) -> None:
    """Nodes that are burnt in through srun are judged as over SSH: the fouled heat sink is found, and nothing else."""
    slurm.idle("gpu0", "gpu1")
    done = gather(own_reports, slurm, tmp_path / "evidence", "--hosts=gpu0,gpu1")
    assert done.returncode == 0, done.stderr
    judged = own_reports.pytest(f"--evidence={tmp_path / 'evidence'}", hosts="gpu0,gpu1")
    through_slurm, red = own_reports.outcomes(), own_reports.red()
    over_ssh = own_reports.pytest(hosts="gpu0,gpu1")
    assert own_reports.outcomes() == through_slurm, judged.stdout + over_ssh.stdout
    assert set(red) == {"gpu1"}, judged.stdout
    assert "thermal.headroom" in red["gpu1"]


def told(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What a gather said of each host at its end."""
    return dict(re.findall(r"^\[\d/\d\] (gpu\d): (.*)$", done.stderr, re.MULTILINE))


@pytest.fixture
def dying_probe(site: Site) -> Iterator[str]:
    """gpu3's interpreter ends the probe in the middle of its work, and only that."""
    node = site.fleet.node("gpu3")
    interpreter = node.tmp / "python3"
    dies = 'case "$2 $3" in *"gpugate-probe.pyz collect") kill -9 $$;; esac'
    interpreter.write_text(f'#!/bin/sh\n{dies}\nexec {node.bin}/python3 "$@"\n')
    interpreter.chmod(0o755)
    variables = site.fleet.inventory.parent / "host_vars"
    variables.mkdir()
    (variables / "gpu3.yml").write_text(yaml.safe_dump({"ansible_python_interpreter": str(interpreter)}))
    yield "gpu3"
    (variables / "gpu3.yml").unlink()
    variables.rmdir()


@pytest.fixture
def drained(slurm: Cluster) -> Iterator[str]:
    """gpu1 is drained, with a reason."""
    slurm.run("scontrol", "update", "NodeName=gpu1", "State=DRAIN", "Reason=fan | 3 rattles")
    yield "gpu1"
    slurm.run("scontrol", "update", "NodeName=gpu1", "State=RESUME")


@pytest.fixture
def dead(slurm: Cluster) -> Iterator[str]:
    """gpu2's slurmd has just died, and Slurm does not know yet."""
    slurm.idle("gpu2")
    slurm.kill_node("gpu2")
    yield "gpu2"
    slurm.run("scontrol", "update", "NodeName=gpu2", "State=DOWN", "Reason=dead")
    slurm.start_node("gpu2")
    slurm.run("scontrol", "update", "NodeName=gpu2", "State=RESUME")
    slurm.idle("gpu2")


def test_lost_nodes_are_told_and_the_others_judged(
    own_reports: Site, slurm: Cluster, tmp_path: Path, dead: str, drained: str, dying_probe: str
) -> None:
    """With one node dead, one drained and one whose probe dies, the fourth is judged; each of the three is red with its
    own sentence in the report, which names it and what to do."""
    slurm.idle("gpu0", "gpu3")
    done = gather(own_reports, slurm, tmp_path / "evidence", "--profile=quick")
    assert done.returncode == 1, done.stderr
    words = told(done)
    assert re.match(r"evidence after", words["gpu0"])
    assert "gpu1 is drained in Slurm (fan | 3 rattles), which starts nothing there" in f"gpu1 {words[drained]}"
    assert "was not reached by srun" in words[dead]
    assert "failed on node gpu2" in words[dead]
    assert "scontrol show node gpu2" in words[dead]
    assert "ended with exit status 137" in words[dying_probe]
    own_reports.pytest("--profile=quick", f"--evidence={tmp_path / 'evidence'}")
    outcomes = own_reports.outcomes()
    assert set(outcomes["gpu0"].values()) == {"PASS"}
    assert set(outcomes[drained].values()) == set(outcomes[dead].values()) == {"MISSING"}
    assert set(outcomes[dying_probe].values()) == {"ERROR"}


def test_node_known_to_be_down_is_not_waited_for(own_reports: Site, slurm: Cluster, tmp_path: Path) -> None:
    """A node that Slurm has down gets no srun: it is told at once, and the others are asked without it."""
    slurm.idle("gpu0", "gpu3")
    slurm.run("scontrol", "update", "NodeName=gpu3", "State=DOWN", "Reason=no power")
    try:
        done = gather(own_reports, slurm, tmp_path / "evidence", "--profile=quick", "--hosts=gpu0,gpu3")
    finally:
        slurm.run("scontrol", "update", "NodeName=gpu3", "State=RESUME")
    assert done.returncode == 1, done.stderr
    assert "is down in Slurm (no power): look at it there" in told(done)["gpu3"]
    assert "evidence after" in told(done)["gpu0"]


def test_nodes_in_a_maintenance_reservation_are_asked_in_it(own_reports: Site, slurm: Cluster, tmp_path: Path) -> None:
    """Nodes that are kept from jobs by a reservation give evidence to who may use it."""
    slurm.idle("gpu0", "gpu3")
    slurm.run("scontrol", "create", "reservation", "ReservationName=gate", "Users=root", "Nodes=gpu0,gpu3",
              "StartTime=now", "Duration=60", "Flags=MAINT")  # fmt: skip
    options = ("--profile=quick", "--hosts=gpu0,gpu3", "--srun-args=--reservation=gate")
    try:
        done = gather(own_reports, slurm, tmp_path / "evidence", *options)
    finally:
        slurm.until(lambda: not slurm.run("squeue", "--noheader").strip())
        slurm.run("scontrol", "delete", "ReservationName=gate")
    assert done.returncode == 0, done.stderr


def test_refused_srun_is_told_for_all(own_reports: Site, slurm: Cluster, tmp_path: Path) -> None:
    """What srun itself refuses is said of every host, in srun's words, and no evidence is made of it."""
    done = gather(own_reports, slurm, tmp_path / "evidence", "--profile=quick", "--srun-args=-p nowhere")
    assert done.returncode == 1, done.stdout
    assert all(
        "srun did not start its step: srun: error: Unable to allocate resources: Invalid partition" in words
        for words in told(done).values()
    ), done.stderr
    assert len(told(done)) == 4
    assert list((tmp_path / "evidence").glob("gpu*")) == []


@pytest.fixture
def slow(site: Site) -> Iterator[str]:
    """gpu0 burns long enough to be interrupted."""
    variables = site.fleet.inventory.parent / "host_vars"
    variables.mkdir()
    (variables / "gpu0.yml").write_text(yaml.safe_dump({"gpugate_burn_min_s": 80, "gpugate_burn_max_s": 80}))
    yield "gpu0"
    (variables / "gpu0.yml").unlink()
    variables.rmdir()


def burns(site: Site) -> list[dict[str, str]]:
    """What gpu0 says of its burns, the newest first."""
    root = site.fleet.node("gpu0").root
    probe = root / "opt/gpugate/probe/current/gpugate-probe.pyz"
    told = site.fleet.ssh("gpu0", f"python3 -I {probe} --rootfs {root} burn status --json")
    found: list[dict[str, str]] = json.loads(told.stdout)["burns"]
    return found


@dataclass(frozen=True)
class Interrupted:
    """A gather of gpu0 that was interrupted in mid-burn: where, how to go on, with which nonce, and after how many
    burns."""

    folder: Path
    command: list[str]
    env: dict[str, str]
    nonce: str
    burns: int


def interrupt(site: Site, slurm: Cluster, folder: Path, how: signal.Signals) -> Interrupted:
    """Start a gather and end it when the node burns."""
    slurm.idle("gpu0")
    before = len(burns(site))
    command = [
        "gpugate", "gather", "--hosts=gpu0", f"--ansible-inventory={site.fleet.inventory}", "--through=srun",
        f"--evidence={folder}",
    ]  # fmt: skip
    env = site.fleet.env | slurm.environment
    with subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.DEVNULL) as controller:
        slurm.until(lambda: len(burns(site)) > before and burns(site)[0]["state"] == "burning")
        controller.send_signal(how)
        assert controller.wait() == (130 if how != signal.SIGKILL else -signal.SIGKILL)
    assert not (folder / "gathered.json").exists()
    asked = json.loads((folder / "journal.jsonl").read_text().splitlines()[1])
    return Interrupted(folder, command, env, asked["nonce"], before + 1)


def gone_on_with(site: Site, slurm: Cluster, was: Interrupted) -> dict[str, Any]:
    """The document after the same command again, once Slurm has ended the step: an answer to the first request, for
    which nothing was burnt a second time."""
    slurm.until(lambda: not slurm.run("squeue", "--noheader").strip())
    done = site.fleet.run(*was.command, cwd=ROOT, env=was.env)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads((was.folder / "gpu0.json").read_text())
    assert document["nonce"] == was.nonce
    assert len(burns(site)) == was.burns
    return document


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_gather_ends_its_step(
    own_reports: Site, slurm: Cluster, tmp_path: Path, how: signal.Signals
) -> None:
    """Ctrl-C or a cancelled job in mid-burn ends the step, and with it the burn, as Slurm ends whatever a step started;
    the same command again hears of that loss."""
    document = gone_on_with(own_reports, slurm, interrupt(own_reports, slurm, tmp_path / "evidence", how))
    assert document["burn"]["unavailable"].startswith("the burn was lost: its keeper"), document["burn"]


@pytest.mark.usefixtures("slow")
def test_killed_gather_leaves_nothing_behind(own_reports: Site, slurm: Cluster, tmp_path: Path) -> None:
    """A controller that is killed in mid-burn leaves a step that ends by itself, and a burn that is over with it."""
    gone_on_with(own_reports, slurm, interrupt(own_reports, slurm, tmp_path / "evidence", signal.SIGKILL))
    assert all(burn["state"] != "burning" for burn in burns(own_reports))
