"""Asking is idempotent by nonce: however often a burn is asked for, the node burns once and tells the result."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from gpugate.evidence.codec import parse
from gpugate.evidence.facts import to_json
from gpugate.evidence.frame import unpack
from gpugate.evidence.request import OVERTIME_S, BurnRequest, ProbeRequest
from gpugate.evidence.types import Evidence
from gpugate.probe.burn import keeper, runs
from gpugate.probe.burn.runs import Run
from keeping import ENDLESS, Burning, await_
from probing import DEADLINE_S, Machine

NOT_YET = 75
OTHER_BOOT = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def node(machine: Callable[..., Machine]) -> Iterator[Burning]:
    """A node with two GPUs."""
    burning = Burning(machine())
    burning.machine.state.set("time_scale", 20)
    yield burning
    burning.end()


def _request(nonce: str = "n-1", wait_s: float | None = None, burn: BurnRequest = ENDLESS, **other: Any) -> str:
    wanted = ProbeRequest(nonce, "admission", launch=False, burn=burn, wait_s=wait_s)
    return json.dumps({**dataclasses.asdict(wanted), **other})


def _ask(node: Burning, request: str, **how: str) -> tuple[int, Evidence | None, str]:
    """Exit status, the evidence where there is any, and what the probe says beside."""
    process = node.start("collect", "--request", "-", **how)
    out, err = process.communicate(request, timeout=DEADLINE_S)
    return process.returncode, parse(unpack(out.encode())) if out else None, err


def _gap(evidence: Evidence | None) -> str:
    assert evidence is not None
    gap = evidence.gap("burn")
    assert gap is not None
    return gap.unavailable


def _under_way(node: Burning, request: str, **how: str) -> tuple[subprocess.Popen[str], Run]:
    """A probe that follows the burn that it was asked for, and the burn, once its GPUs are heard of."""
    process = node.start("collect", "--request", "-", **how)
    assert process.stdin is not None
    process.stdin.write(request)
    process.stdin.close()
    process.stdin = None
    return process, node.only()


def test_asked_twice_burns_once(node: Burning) -> None:
    """The second answer tells the first one's burn, and facts of its own."""
    first = _ask(node, _request(), burner="good")[1]
    second = _ask(node, _request(), burner="good")[1]
    assert first is not None
    assert second is not None
    assert to_json(first.burn) == to_json(second.burn)
    assert first.burn.id == runs.runs(node.state_dir)[0].id
    assert len(runs.runs(node.state_dir)) == 1
    assert second.started_unix_s > first.started_unix_s
    assert [gpu.uuid for gpu in second.gpus] == [gpu.uuid for gpu in second.burn.gpus]


def test_nobody_waits_where_nobody_is_to(node: Burning) -> None:
    """With wait_s 0 the probe starts the burn, or looks at it, and says "not yet": status 75, no frame."""
    for _ in range(2):
        code, evidence, err = _ask(node, _request(wait_s=0), burner="endless")
        assert (code, evidence) == (NOT_YET, None)
        assert err.splitlines()[-1].startswith("not yet: burn ")
        run = node.only()
        assert run.id in err.splitlines()[-1]
    assert run.state() == "burning"
    code, _, err = _ask(node, _request(wait_s=0.2), burner="endless")
    assert code == NOT_YET
    assert "GPU 1 (" in err.splitlines()[-1]
    node.run("burn", "stop")
    code, evidence, _ = _ask(node, _request(wait_s=0))
    assert code == 0
    assert evidence is not None
    assert {gpu.reason for gpu in evidence.burn.gpus} == {"it was told to stop"}


def test_burn_of_a_killed_probe_is_followed_by_the_next(node: Burning) -> None:
    """A probe killed in mid-burn leaves the burn alone; asked again, the node tells how this very burn ended."""
    burn = dataclasses.replace(ENDLESS, deadline_s=6)
    process, run = _under_way(node, _request(burn=burn))
    process.kill()
    process.communicate(timeout=DEADLINE_S)
    assert run.state() == "burning"
    code, evidence, _ = _ask(node, _request(burn=burn))
    assert code == 0
    assert evidence is not None
    assert evidence.burn.id == run.id
    assert all("deadline of 6 s" in gpu.reason for gpu in evidence.burn.gpus)
    assert runs.runs(node.state_dir) == [run]


def test_several_ask_at_once(node: Burning) -> None:
    """Probes that are asked with one nonce at the same time share one burn, and all of them tell it."""
    probes = [node.start("collect", "--request", "-", burner="good") for _ in range(4)]
    for probe in probes:
        assert probe.stdin is not None
        probe.stdin.write(_request())
        probe.stdin.close()
        probe.stdin = None
    answers = [probe.communicate(timeout=DEADLINE_S)[0] for probe in probes]
    (run,) = runs.runs(node.state_dir)
    assert {parse(unpack(answer.encode())).burn.id for answer in answers} == {run.id}


@pytest.mark.parametrize("over", [False, True])
def test_a_restart_is_told_and_nothing_burns_again(node: Burning, over: bool) -> None:
    """After a restart of the node the burn is lost, or of another boot: a gap, and no second burn."""
    if over:
        _ask(node, _request(), burner="good")
    else:
        process, run = _under_way(node, _request(), burner="endless")
        process.kill()
        os.kill(node.keeper(run), signal.SIGKILL)
        node.over(run)
    (run,) = runs.runs(node.state_dir)
    order = run.read("request")
    assert order is not None
    run.write("request", {**order, "boot_id": OTHER_BOOT})
    code, evidence, _ = _ask(node, _request(), burner="good")
    assert code == 0
    assert ("was over (done) before the node was restarted" if over else "the node was restarted while") in _gap(
        evidence
    )
    assert runs.runs(node.state_dir) == [run]


def test_a_killed_keeper_is_told_and_nothing_burns_again(node: Burning) -> None:
    """A burn whose keeper was killed is lost, for whoever follows it and for whoever asks later."""
    process, run = _under_way(node, _request(wait_s=0), burner="endless")
    process.communicate(timeout=DEADLINE_S)
    follower = node.start("collect", "--request", "-", burner="endless")
    assert follower.stdin is not None
    follower.stdin.write(_request())
    follower.stdin.close()
    follower.stdin = None
    assert follower.stderr is not None
    assert any("GPU 1 (" in words for words in follower.stderr)
    os.kill(node.keeper(run), signal.SIGKILL)
    told = parse(unpack(follower.communicate(timeout=DEADLINE_S)[0].encode()))
    for evidence in (told, _ask(node, _request(), burner="good")[1]):
        assert "was killed or died before it could tell the result" in _gap(evidence)
    assert runs.runs(node.state_dir) == [run]


def test_a_burn_that_failed_is_not_repeated(node: Burning) -> None:
    """What went wrong once is told again; another nonce may try anew."""
    for _ in range(2):
        assert "killed by signal 11 (SIGSEGV)" in _gap(_ask(node, _request(), burner="crash")[1])
    assert len(runs.runs(node.state_dir)) == 1
    assert _ask(node, _request("n-2"), burner="good")[1] is not None
    assert len(runs.runs(node.state_dir)) == 2


def test_two_nonces_never_share_a_burn(node: Burning) -> None:
    """Another request's burn under way refuses this one, as often as it is asked for, and goes on."""
    _, run = _under_way(node, _request(), burner="endless")
    for wait_s in (None, 60.0):
        code, evidence, _ = _ask(node, _request("n-2", wait_s), burner="endless")
        assert code == 0
        assert f"the burn did not start: another one is under way on this node ({run.id})" in _gap(evidence)
    assert run.state() == "burning"
    assert run.nonce() == "n-1"


def test_a_refusal_that_nobody_waited_for_is_told_to_who_asks(node: Burning) -> None:
    """A burn that was refused after the probe had gone is told as refused, until another request burns."""
    node.machine.state.add_process(1, os.getpid(), 500)
    assert _ask(node, _request(wait_s=0), burner="good")[0] == NOT_YET
    (run,) = runs.runs(node.state_dir)
    await_(lambda: run.state() == "refused" and not run.kept())
    code, evidence, _ = _ask(node, _request(wait_s=0), burner="good")
    assert code == 0
    assert f"in use by process {os.getpid()}" in _gap(evidence)
    node.machine.state.remove_process(1, os.getpid())
    assert _ask(node, _request("n-2"), burner="good")[1] is not None
    assert [other.nonce() for other in runs.runs(node.state_dir)] == ["n-2"]
    again = _ask(node, _request(), burner="good")[1]
    assert again is not None
    assert again.burn.work == "mix"


def test_another_wish_under_the_same_nonce_is_refused(node: Burning) -> None:
    """A burn that was asked for otherwise does not answer for this request, and none is started."""
    _ask(node, _request(), burner="good")
    evidence = _ask(node, _request(burn=dataclasses.replace(ENDLESS, max_s=20000)), burner="good")[1]
    assert "was asked for otherwise" in _gap(evidence)
    assert len(runs.runs(node.state_dir)) == 1


def test_the_driver_keeps_its_own_patience(node: Burning) -> None:
    """A driver that hangs after the burn costs its own facts, after `deadline_s`: the burn's result is there."""
    burnt = _ask(node, _request(), burner="good")[1]
    assert burnt is not None
    node.machine.state.apply("nvml_init_hang")
    evidence = _ask(node, _request(deadline_s=2.0))[1]
    assert evidence is not None
    assert evidence.burn.id == burnt.burn.id
    gap = evidence.gap("gpus")
    assert gap is not None
    assert "no answer within 2 s" in gap.unavailable


@pytest.mark.parametrize("junk", [-1, True, "10", [], float("nan"), float("inf")])
def test_junk_in_wait_s_is_refused(node: Burning, junk: object) -> None:
    """What is no number of seconds is a wrong request: status 2, and nothing is started."""
    code, evidence, err = _ask(node, json.dumps({**json.loads(_request()), "wait_s": junk}))
    assert (code, evidence) == (2, None)
    assert "wait_s" in err or "is no JSON number" in err
    assert runs.runs(node.state_dir) == []


def test_state_folder_of_another_user_is_a_gap(node: Burning) -> None:
    """Where the state folder cannot be used the burn is a gap, and the other facts are told."""
    node.state_dir.parent.mkdir(parents=True, exist_ok=True)
    node.state_dir.write_text("a file where a folder should be")
    code, evidence, _ = _ask(node, _request(wait_s=0))
    assert code == 0
    assert "the burn did not start: its result could not be kept" in _gap(evidence)
    assert evidence is not None
    assert len(evidence.gpus) == 2


def test_patience_covers_driver_and_burn() -> None:
    """Within `patience_s` both are told of, and a keeper has ended within the burn's `longest_s`."""
    request = ProbeRequest("n-1", "admission", burn=ENDLESS, deadline_s=100)
    assert request.patience_s == 100 + ENDLESS.deadline_s + OVERTIME_S
    assert dataclasses.replace(request, wait_s=30).patience_s == 130
    assert dataclasses.replace(request, wait_s=1e9).patience_s == request.patience_s
    assert dataclasses.replace(request, burn=None, wait_s=30).patience_s == 100
    assert 2 * keeper.LOOK_S + keeper.STOP_S < OVERTIME_S
