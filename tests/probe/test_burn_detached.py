"""A burn belongs to nobody: whoever is killed or hangs, it ends by itself, leaves no process, and says how it ended."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gpugate.evidence.request import ProbeRequest
from gpugate.evidence.types import KernelLog
from gpugate.probe.burn import runs
from gpugate.probe.burn.runs import Run
from gpugate.probe.burn.xids import xids_gained
from gpugate.probe.cuda import fresh
from keeping import ENDLESS, HERE, Burning, as_json
from probing import DEADLINE_S, Machine


@pytest.fixture
def node(machine: Callable[..., Machine]) -> Iterator[Burning]:
    """A node with two GPUs."""
    burning = Burning(machine())
    burning.machine.state.set("time_scale", 20)
    yield burning
    burning.end()


@pytest.mark.parametrize(
    ("burner", "words"),
    [
        ("garbage", "said what is no message: b'a library that writes to standard output'"),
        ("number", "said what is no message: '42'"),
        ("half", "the burn was lost, as its result is no Burn: missing or unknown sampler_core_share, samples"),
        ("text", "as its result.gpus[0].power_w is '@', and has to be float"),
        ("crash", "killed by signal 11 (SIGSEGV)"),
        ("status", "ended with status 1: something broke"),
        ("gap", "CUDA does not see a GPU"),
        ("nothing", "ended without a result"),
        ("silent", "said nothing for 1 s; it did not end and was killed"),
    ],
)
def test_a_burner_that_goes_wrong_is_a_gap_with_its_cause(node: Burning, burner: str, words: str) -> None:
    """Whatever the burning process does instead of telling its result, the evidence names it, and nothing is left."""
    code, out, err = node.run("burn", "--duration", "60", burner=burner, FAKE_PATIENCE_S="1")
    assert (code, out) == (1, "")
    assert words in err
    (run,) = runs.runs(node.state_dir)
    assert node.over(run) == "failed"


def test_last_words_are_those_of_every_gpu(node: Burning) -> None:
    """A lost burn says what was last heard of each GPU."""
    _, _, err = node.run("burn", burner="crash")
    last = err.partition("last heard: ")[2]
    assert last.count("61 C, 29 C below slowdown, 688 W, 1755 MHz, 51.3 TFLOP/s, 0 mismatches") == 2
    assert "GPU 0 (" in last
    assert "GPU 1 (" in last


def test_a_burner_that_does_not_stop_is_killed(node: Burning) -> None:
    """One that ignores being told to stop is killed after its time of grace, and the result says so."""
    run = node.begin(burner="deaf", FAKE_PATIENCE_S="1")
    code, out, _ = node.run("burn", "stop", run.id)
    assert (code, node.over(run)) == (0, "failed")
    assert "stopped: failed" in out
    assert "told to stop and did not within 1 s" in node.run("burn", "fetch", run.id)[2]


def test_a_stopped_burner_is_killed_at_the_deadline(node: Burning) -> None:
    """A burning process that answers to nothing any more is killed when its time is up, and the verdict is written."""
    run = node.begin(dataclasses.replace(ENDLESS, deadline_s=2), burner="endless")
    os.kill(node.burner(run), signal.SIGSTOP)
    assert node.over(run) == "failed"
    assert "it did not end within 2 s" in node.run("burn", "fetch")[2]


def test_a_process_that_cannot_be_killed_does_not_hold_up_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that hangs in the kernel (here: that no signal is sent to) is given up within seconds, and named."""
    monkeypatch.setenv("FAKE_BURNER", "silent")
    monkeypatch.setattr(fresh, "_REAP_S", 0.2)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    child = fresh.Child("faking", {"uuids": ["GPU-1"]})
    monkeypatch.setattr(os, "killpg", lambda *_: None)
    messages = list(child.messages(time.monotonic() + 1, silence_s=60))
    failure = child.end()
    child._process.kill()
    child._process.wait()
    assert len(messages) == 1
    assert failure == f"its process {child._process.pid} hangs in the kernel and cannot be killed: reboot the node"


def test_killed_follower_loses_nothing(node: Burning) -> None:
    """A foreground burn whose process is killed goes on to its own end, and its result can be fetched."""
    follower = node.start("burn", "--duration", "60", burner="good")
    run = node.only()
    follower.kill()
    assert node.over(run) == "done"
    code, out, _ = node.run("burn", "fetch")
    assert code == 0
    assert json.loads(out)["id"] == run.id


def test_killed_keeper_takes_the_burn_with_it(node: Burning) -> None:
    """Its follower, status and fetch each say that the burn was lost with its keeper, and what was last heard."""
    follower = node.start("burn", burner="endless")
    run = node.only()
    keeper = node.keeper(run)
    os.kill(keeper, signal.SIGKILL)
    _, err = follower.communicate(timeout=DEADLINE_S)
    assert follower.returncode == 1
    assert f"the burn was lost: its keeper (pid {keeper}) was killed by signal 9 (SIGKILL); last heard: GPU 0" in err
    assert node.over(run) == "lost"
    for command in ("fetch", "status"):
        _, out, err = node.run("burn", command, run.id)
        assert f"its keeper (pid {keeper}) was killed or died before it could tell the result" in out + err
        assert "last heard: GPU 0" in out + err


def test_a_restart_of_the_node_is_named(node: Burning) -> None:
    """A run of another boot was lost with the node."""
    run = runs.create(node.state_dir, {"request": dataclasses.asdict(ENDLESS), "root": "/"})
    run.write("request", {"boot_id": "11111111-2222-3333-4444-555555555555"})
    code, _, err = node.run("burn", "fetch")
    assert code == 1
    assert "the node was restarted while it ran" in err


def test_a_hangup_and_an_interrupt_do_not_reach_the_keeper(node: Burning) -> None:
    """The end of a session leaves the burn alone: a session of its own, no terminal, no pipe to anybody."""
    follower = node.start("burn", burner="endless")
    run = node.only()
    keeper = node.keeper(run)
    os.kill(keeper, signal.SIGHUP)
    follower.send_signal(signal.SIGHUP)
    follower.wait(DEADLINE_S)
    assert run.state() == "burning"
    assert os.getsid(keeper) == keeper
    held = {str(place.readlink()) for place in Path(f"/proc/{keeper}/fd").iterdir()}
    burner = {str(Path(f"/proc/{node.burner(run)}/fd/{number}").readlink()) for number in (0, 1, 2)}
    assert [place for place in held - burner if place.startswith(("pipe:", "socket:"))] == []
    assert node.run("burn", "stop")[0] == 0
    assert node.over(run) == "done"


def test_a_terminated_keeper_stops_in_good_order(node: Burning) -> None:
    """SIGTERM, as a shutdown sends it, ends the burn with what it has measured."""
    run = node.begin(burner="endless")
    os.kill(node.keeper(run), signal.SIGTERM)
    assert node.over(run) == "done"
    burn = json.loads(node.run("burn", "fetch")[1])
    assert {(gpu["ended"], gpu["reason"]) for gpu in burn["gpus"]} == {("aborted", "it was told to stop")}


def test_second_burn_is_refused(node: Burning) -> None:
    """While one is under way another is refused by its id, leaves no trace, and the first goes on."""
    run = node.begin(burner="endless")
    code, _, err = node.run("burn", burner="good")
    assert code == 1
    assert f"another one is under way on this node ({run.id})" in err
    code, _, err = node.run("burn", "start", "--request", "-", stdin=as_json(ENDLESS), burner="good")
    assert code == 1
    assert "another one is under way" in err
    assert runs.runs(node.state_dir) == [run]
    assert run.state() == "burning"


def test_busy_gpu_is_refused(node: Burning) -> None:
    """A process on any GPU refuses the burn, naming GPU and pid."""
    node.machine.state.add_process(1, os.getpid(), 500)
    code, _, err = node.run("burn", burner="good")
    assert code == 1
    assert f"GPU 1 ({node.machine.state.get('gpu.1.uuid')}) is in use by process {os.getpid()} (compute)" in err
    assert runs.runs(node.state_dir) == []


def test_a_driver_that_hangs_before_the_burn_refuses_it(node: Burning, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper asks the driver nothing itself: the process that does is given up, and no load begins."""
    node.machine.state.apply("nvml_init_hang")
    code, _, err = node.run("burn", burner="good", FAKE_PATIENCE_S="1")
    assert code == 1
    assert "the burn did not start: the look at the driver failed: it gave no answer within 1 s" in err


@pytest.mark.parametrize("full", [False, True])
def test_state_folder_that_cannot_be_written_refuses_the_burn(node: Burning, full: bool) -> None:
    """A file in its place, or no room for the result: the burn does not start, and the words say what to do."""
    node.state_dir.parent.mkdir(parents=True, exist_ok=True)
    arguments = ["burn"]
    if not full:
        node.state_dir.write_text("a file where a folder should be")
    process = node.start(*arguments, burner="good") if not full else _with_no_room(node)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out) == (1, "")
    assert "the burn did not start: its result could not be kept" in err
    assert "make room, or name another --state-dir" in err
    assert "Traceback" not in err
    assert not node.processes()
    assert runs.runs(node.state_dir) == []


def _with_no_room(node: Burning) -> subprocess.Popen[str]:
    """A burn that may write files of 64 KiB at most: the kernel refuses more, as a full disk does."""
    limited = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)); "
    command = limited + "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    process = subprocess.Popen(
        [sys.executable, "-c", command, f"{HERE}/faking.py", "--rootfs", str(node.machine.root), "burn"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=node.environment("good"),
    )
    node.started.append(process)
    return process


def test_old_runs_make_room(node: Burning) -> None:
    """Twenty runs are kept; one that is under way stays however old."""
    old = runs.create(node.state_dir, {})
    kept = Run(old.folder.rename(old.folder.with_name("20200101T000000Z-00000000")))
    lock = kept.lock()
    newest = [runs.create(node.state_dir, {}).id for _ in range(25)][-1]
    os.close(lock)
    left = [run.id for run in runs.runs(node.state_dir)]
    assert len(left) == runs.KEPT + 1
    assert {newest, kept.id} <= set(left)


def test_files_are_the_owners_alone(node: Burning) -> None:
    """Nobody else on the node reads what was asked and what came out."""
    node.run("burn", burner="good")
    (run,) = runs.runs(node.state_dir)
    places = [run.folder.parent, run.folder, *run.folder.iterdir()]
    assert len(places) > 4
    assert {place.name for place in places if place.stat().st_mode & 0o077} == set()


def test_burn_of_a_killed_collect_goes_on(node: Burning) -> None:
    """The probe that collects only follows the burn: killed, it leaves it to its end."""
    burn = dataclasses.replace(ENDLESS, deadline_s=4)
    collect = node.start("collect", "--request", "-")
    assert collect.stdin is not None
    collect.stdin.write(json.dumps(dataclasses.asdict(ProbeRequest("n-1", "admission", launch=False, burn=burn))))
    collect.stdin.close()
    collect.stdin = None
    run = node.only()
    collect.kill()
    assert node.over(run) == "done"
    found = json.loads(node.run("burn", "fetch", run.id)[1])
    assert {gpu["ended"] for gpu in found["gpus"]} == {"aborted"}
    assert all("deadline of 4 s" in gpu["reason"] for gpu in found["gpus"])


def test_killed_burner_is_named_by_its_signal(node: Burning) -> None:
    """A burn killed from outside says by which signal, and what was last heard of each GPU."""
    follower = node.start("burn", "--duration", "10000")
    run = node.only()
    os.kill(node.burner(run), signal.SIGKILL)
    _, err = follower.communicate(timeout=DEADLINE_S)
    assert follower.returncode == 1
    assert "the burn was lost: it was killed by signal 9 (SIGKILL)" in err
    assert "last heard: GPU 0" in err
    assert node.over(run) == "failed"


def test_no_load_outlives_a_killed_keeper(node: Burning) -> None:
    """The kernel ends the burning process with its keeper; the GPUs are free for the next burn at once."""
    run = node.begin()
    os.kill(node.keeper(run), signal.SIGKILL)
    assert node.over(run) == "lost"
    code, _, err = node.run("burn", "--duration", "2", "--no-memory")
    assert code == 0, err


@pytest.mark.parametrize("fault", ["nvml_hang", "launch_hangs"])
def test_hung_driver_is_a_verdict(node: Burning, fault: str) -> None:
    """A call or a launch that never returns in mid-burn ends the burn before the deadline, and its GPU is named."""
    run = node.begin(dataclasses.replace(ENDLESS, deadline_s=6))
    node.machine.state.apply(fault, gpu=1)
    node.over(run)
    _, out, err = node.run("burn", "fetch", run.id)
    assert "deadline" not in out + err
    assert re.search(f"{node.machine.state.get('gpu.1.uuid')}\\W.{{0,80}}has not (returned|come to its end)", out + err)


def test_lost_gpu_is_evidence(node: Burning) -> None:
    """A GPU that falls off the bus in mid-burn ends it; the result says which, and keeps what was measured before."""
    node.machine.state.apply("lost_under_load", gpu=1)
    code, out, _ = node.run("burn", "--duration", "10000", "--json")
    assert code == 1
    burn = json.loads(out)
    assert {gpu["ended"] for gpu in burn["gpus"]} == {"aborted"}
    assert all(str(node.machine.state.get("gpu.1.uuid")) in gpu["reason"] for gpu in burn["gpus"])
    assert burn["gpus"][0]["samples"] > 0
    assert node.over(runs.runs(node.state_dir)[0]) == "done"


def test_gained_xids_are_counted(node: Burning) -> None:
    """Xid lines that the kernel log gains while it burns are in the evidence; older ones are not."""
    log = node.machine.root / "dev/kmsg"
    with log.open("a") as file:
        file.write("4,1,1000,-;NVRM: Xid (PCI:0000:18:00): 13, before\n")
    run = node.begin()
    with log.open("a") as file:
        file.write("4,2,2000,-;NVRM: Xid (PCI:0000:18:00): 48, meanwhile\n")
    node.run("burn", "stop")
    assert node.over(run) == "done"
    assert json.loads(node.run("burn", "fetch")[1])["xids_gained"] == 1


def _log(*lines: str, source: str = "dmesg", truncated: bool = False) -> KernelLog:
    return KernelLog(source=source, complete=True, truncated=truncated, lines=list(lines))


def test_xids_are_those_that_came_since() -> None:
    """Xid lines after the last common line count, equal ones too; other lines do not."""
    xid, sxid, other = (
        "NVRM: Xid (PCI:0000:18:00): 79, x",
        "nvidia-nvswitch0: SXid (PCI:0000:05:00): 24007, y",
        "NVRM: z",
    )
    assert xids_gained(_log(), _log()) == 0
    assert xids_gained(_log(), _log(xid, other)) == 1
    assert xids_gained(_log(xid, other), _log(xid, other)) == 0
    assert xids_gained(_log(other, xid), _log(other, xid, xid, other, sxid)) == 2
    assert xids_gained(_log(other, "NVRM: a", xid), _log(xid, xid, truncated=True)) == 1  # the ring has turned


def test_xids_of_a_log_that_turned_over_are_a_gap() -> None:
    """Where nothing of the old log is left, or it is another log, how many there were is not known."""
    for after in (_log("NVRM: Xid (PCI:0): 79"), _log("NVRM: old", source="journal")):
        gap = xids_gained(_log("NVRM: old"), after)
        assert not isinstance(gap, int)
        assert "kernel log" in gap.unavailable
