"""Gathering through srun: what is sent, whom an answer is of, and what is said where none came."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import engine_srun
import pytest
from engine_answers import ASKED, target
from gpugate.engine import gathering, slurm, srun
from gpugate.errors import NotGathered
from gpugate.gather import GatherLog, load
from gpugate.inventory import Target
from gpugate.policy import Profile
from healthy import policy


def gather(targets: list[Target], folder: Path, profile: Profile = "quick") -> tuple[GatherLog, list[str]]:
    """One gather through the small srun; its log and what was heard meanwhile."""
    heard: list[str] = []
    evidence = folder / "evidence"
    evidence.mkdir(exist_ok=True)

    def hear(host: str, words: str, done: bool) -> None:
        heard.append(f"{host}: {words}")

    log = asyncio.run(gathering.gather(targets, profile, evidence, hear, folder / "state.sqlite", args=[], queue_s=30))
    return log, heard


def why(log: GatherLog, host: str) -> str:
    """Why there is no evidence of a host; empty where there is."""
    return log.hosts[host].missing or log.hosts[host].problem


def test_one_srun_asks_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All hosts are asked by one srun, each with a nonce of its own, and each document is its host's."""
    sruns = engine_srun.install(tmp_path, monkeypatch)
    log, heard = gather(engine_srun.provisioned(tmp_path), tmp_path)
    assert sruns.read_text() == "gpu0 gpu1 gpu2\n"
    assert len({receipt.nonce for receipt in log.hosts.values()}) == 3
    for host in ("gpu0", "gpu1", "gpu2"):
        found = load(tmp_path / "evidence", host, log)
        assert found.problem is None
        assert found.evidence is not None
        assert (found.evidence.host.hostname, found.evidence.nonce) == (host, log.hosts[host].nonce)
        assert f"{host}: burning" in heard
    assert "srun: srun: job 7 queued and waiting for resources" in heard


def test_gather_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked again into the same folder, only hosts without evidence are asked, with the nonce that they had."""
    sruns = engine_srun.install(tmp_path, monkeypatch)
    targets = engine_srun.provisioned(tmp_path)
    probe = Path(targets[1].probe)
    probe.rename(probe.with_name("away"))
    first, _ = gather(targets, tmp_path)
    assert "gpu1 has no probe" in why(first, "gpu1")
    probe.with_name("away").rename(probe)
    second, _ = gather(targets, tmp_path)
    assert sruns.read_text().splitlines() == ["gpu0 gpu1 gpu2", "gpu1"]
    assert [why(second, f"gpu{i}") for i in range(3)] == ["", "", ""]
    assert second.hosts["gpu1"].nonce == first.hosts["gpu1"].nonce
    assert second.hosts["gpu0"] == first.hosts["gpu0"]


def test_hosts_of_a_power_domain_burn_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An srun burns on as many nodes of a rack at once as policy allows; the others wait for one of their own."""
    monkeypatch.setattr(gathering, "TOGETHER_S", 0.5)
    sruns = engine_srun.install(tmp_path, monkeypatch)
    rack = policy(power_domains={"rack": {"nodes": 2}})
    targets = [replace(host, policy=rack) for host in engine_srun.provisioned(tmp_path)]
    log, _ = gather(targets, tmp_path, profile="admission")
    assert [why(log, f"gpu{i}") for i in range(3)] == ["", "", ""]
    assert sorted(len(line.split()) for line in sruns.read_text().splitlines()) == [1, 2]


def test_node_that_cannot_be_launched_does_not_take_the_others_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """srun aborts a step of which it cannot start one task: the others, asked nothing yet, are asked without it."""
    sruns = engine_srun.install(tmp_path, monkeypatch, "fails")
    log, _ = gather(engine_srun.provisioned(tmp_path), tmp_path)
    assert sruns.read_text().splitlines() == ["gpu0 gpu1 gpu2", "gpu0 gpu2"]
    assert why(log, "gpu0") == why(log, "gpu2") == ""
    assert "gpu1 was not reached by srun: srun: error: Task launch for StepId=7.0 failed on node gpu1" in why(
        log, "gpu1"
    )


def test_task_that_never_starts_is_waited_for_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that is not there in time is given up, and the others are asked without it."""
    monkeypatch.setattr(srun, "LAUNCH_S", 8.0)
    sruns = engine_srun.install(tmp_path, monkeypatch, "absent")
    log, _ = gather(engine_srun.provisioned(tmp_path), tmp_path)
    assert sruns.read_text().splitlines() == ["gpu0 gpu1 gpu2", "gpu0 gpu2"]
    assert "gpu1 was not reached by srun: its task was not there 8 s after the first" in why(log, "gpu1")
    assert why(log, "gpu0") == why(log, "gpu2") == ""


def test_node_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that hangs ends at the deadline of the step; what the others have said counts."""
    monkeypatch.setattr(srun, "ANSWER_MARGIN_S", 2.0)
    engine_srun.install(tmp_path, monkeypatch, "hang")
    targets = engine_srun.provisioned(tmp_path)
    log, _ = gather([replace(host, policy=policy(probe_deadline_s=10)) for host in targets], tmp_path)
    assert why(log, "gpu0") == why(log, "gpu2") == ""
    assert "gpu1 was asked and gave no answer through srun: it was ended 12 s after it was asked" in why(log, "gpu1")
    assert log.hosts["gpu1"].missing


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("foreign", "srun labels its output with task 3, of 3 that were started"),
        ("long", "srun wrote a line of more than 65536 bytes"),
        (
            "refused",
            "was not asked, as srun did not start its step: srun: error: Unable to allocate resources: Invalid",
        ),
    ],
)
def test_srun_that_goes_wrong_as_a_whole_is_told_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, sentence: str
) -> None:
    """Where srun refuses, or its output cannot be told apart, nobody has evidence and everybody is told why."""
    engine_srun.install(tmp_path, monkeypatch, wrong)
    log, _ = gather(engine_srun.provisioned(tmp_path), tmp_path)
    assert [sentence in why(log, f"gpu{i}") for i in range(3)] == [True] * 3, log
    assert list((tmp_path / "evidence").glob("gpu*")) == []


def test_answer_that_comes_twice_is_refused_for_its_node_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node whose output comes twice has no evidence; its neighbours have."""
    engine_srun.install(tmp_path, monkeypatch, "twice")
    log, _ = gather(engine_srun.provisioned(tmp_path), tmp_path)
    assert "gpu1: lines of the answer came after its end" in why(log, "gpu1")
    assert why(log, "gpu0") == why(log, "gpu2") == ""


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("gpu1|down*|not responding", "gpu1 does not respond, as Slurm sees it (state down*) (not responding)"),
        ("gpu1|down|no power", "gpu1 is down in Slurm (no power): look at it there (scontrol show node gpu1)"),
        ("gpu1|draining|a | b", "gpu1 is draining in Slurm (a | b), which starts nothing there"),
        ("gpu1|idle^|none", "gpu1 is being rebooted, as Slurm sees it (state idle^): look at its slurmd"),
        ("gpu1|unknown|none", "gpu1 is unknown in Slurm: look at it there"),
        ("gpu9|idle|none", "gpu1 is unknown to Slurm (no node is called gpu1): set gpugate_node_name"),
    ],
)
def test_node_on_which_slurm_starts_nothing_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, sentence: str
) -> None:
    """A node that is down, drained, rebooting or unknown is not part of the srun; its sentence says what it is."""
    sruns = engine_srun.install(tmp_path, monkeypatch, sinfo=f"gpu0|mixed|none\n{line}\ngpu2|allocated$|none")
    log, _ = gather(engine_srun.provisioned(tmp_path), tmp_path)
    assert sruns.read_text() == "gpu0 gpu2\n"
    assert sentence in why(log, "gpu1")
    assert log.hosts["gpu1"].missing


def test_two_hosts_are_never_one_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two names of the inventory for one node of Slurm: only the first is asked, and the other is told."""
    sruns = engine_srun.install(tmp_path, monkeypatch)
    targets = engine_srun.provisioned(tmp_path, 2)
    log, _ = gather([targets[0], replace(targets[1], node_name="gpu0")], tmp_path)
    assert sruns.read_text() == "gpu0\n"
    assert why(log, "gpu0") == ""
    assert "gpu1 and gpu0 are both the node gpu0 in Slurm" in why(log, "gpu1")


def test_without_slurm_everybody_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without Slurm's commands nothing is asked, and the sentence says where to go."""
    monkeypatch.setenv("PATH", str(tmp_path))
    log, _ = gather(engine_srun.provisioned(tmp_path, 1), tmp_path)
    assert "gpu0 was not asked: sinfo cannot be started (No such file or directory): run this where" in why(log, "gpu0")


def test_broken_slurmctld_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What sinfo says of itself is passed on."""
    engine_srun.install(tmp_path, monkeypatch)
    sinfo = tmp_path / "bin/sinfo"
    sinfo.write_text("#!/bin/sh\necho 'slurm_load_partitions: Unable to contact slurm controller' >&2\nexit 1\n")
    log, _ = gather(engine_srun.provisioned(tmp_path, 1), tmp_path)
    assert "gpu0 was not asked: sinfo cannot say which nodes there are: slurm_load_partitions: Unable" in why(
        log, "gpu0"
    )


def test_name_in_slurm() -> None:
    """A host is found in Slurm by the inventory's word for it, else by its name, else without its domain."""
    known = slurm.parse("gpu0|idle|none\nnode-7|idle|none\n")
    assert slurm.name_of(target("gpu0.example.net"), known) == "gpu0"
    assert slurm.name_of(target("gpu7", node_name="node-7"), known) == "node-7"
    with pytest.raises(NotGathered, match="no node is called gpu8"):
        slurm.name_of(target("gpu0", node_name="gpu8"), known)


def test_site_arguments_cannot_change_how_answers_come_back() -> None:
    """The site's arguments stand behind our defaults and before what makes answers trustworthy."""
    words = srun.command(3, ["-p", "gpu", "--time=9", "--output=x"], 100, 60)
    assert words.index("--time=3") < words.index("--time=9") < words.index("--label")
    assert words.index("--output=x") < words.index("--output=all")
    assert "--export=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" in words


def test_task_takes_its_own_lines_alone(tmp_path: Path) -> None:
    """Names that begin alike, or would match as patterns, get their own request and no other."""
    probe = tmp_path / "probe"
    probe.write_text("#!/bin/sh\nexec cat >&2\n")
    probe.chmod(0o755)
    names = ["gpu1", "gpu10", "gpu.1", "gpu-1"]
    given = "".join(f"{name} {line}\n" for name in names for line in (sys.executable, probe, f"request of {name}"))
    task = srun.command(4, [], 100, 60)[-5:]
    for name in names:
        env = os.environ | {"SLURMD_NODENAME": name}
        done = subprocess.run(task, input=given.encode(), capture_output=True, env=env, timeout=60, check=True)
        assert done.stderr.decode() == f"request of {name}\n"
        assert done.stdout.startswith(b"gpugate-answer begin\ngpugate-answer 0 ")
    other = subprocess.run(
        task, input=given.encode(), capture_output=True, env=os.environ | {"SLURMD_NODENAME": "gpu2"}, check=False
    )
    assert (other.returncode, other.stderr) == (66, b"no request for gpu2\n")


def test_probe_is_asked_by_the_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the user has to become root, the command is the one that the sudoers line allows; root needs none, and who
    is root over SSH becomes it here."""
    request = target().policy.request("n", "quick")
    collect = "/usr/bin/python3 -I /opt/gpugate/probe/current/gpugate-probe.pyz collect --request - --rootfs /"

    def line(host: Target) -> str:
        return srun.node_input(srun.Question(ASKED, host, request)).decode().splitlines()[1]

    deploy = target(python="/usr/bin/python3", become=True)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert line(deploy) == f"gpu0 sudo -H -n -u root -- {collect}"
    assert line(target(python="/usr/bin/python3", user="root")) == f"gpu0 sudo -H -n -u root -- {collect}"
    assert line(target(python="/usr/bin/python3", user="deploy")) == f"gpu0 {collect}"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert line(deploy) == f"gpu0 {collect}"
    assert shlex.split(collect)[0] == deploy.python


def test_password_is_not_handed_to_all_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose sudo wants a password is refused, since all nodes of a step get all of its input."""
    engine_srun.install(tmp_path, monkeypatch)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    targets = engine_srun.provisioned(tmp_path, 1, become=True, become_password="hunter2")  # noqa: S106
    log, heard = gather(targets, tmp_path)
    assert "gpu0 wants a password for sudo, and srun would hand it to every node of the step" in why(log, "gpu0")
    assert "hunter2" not in str(log) + str(heard)
    assert not (tmp_path / "sruns").exists()
