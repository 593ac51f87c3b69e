"""State file, command hook and audit: what they write, and what they refuse to guess."""

from __future__ import annotations

import json
import multiprocessing
import sys
from pathlib import Path

import pytest
from cases import report
from gpugate.admission import Action, Audit, CommandHook, Decision, Standing, StateFile
from gpugate.admission.files import append_lines
from gpugate.errors import AdmissionError


def decision(host: str, action: Action, backend: StateFile | CommandHook | None = None) -> Decision:
    """An ADMIT of a node outside, or a REMOVE of one inside; made on what the back end says of it, if there is one."""
    standing: object = backend.standings([host])[host] if backend else Standing(action is Action.REMOVE)
    assert isinstance(standing, Standing)
    return Decision(host, action, ("because of this",), standing)


def inside(backend: StateFile | CommandHook, *hosts: str) -> dict[str, bool]:
    """Which of the hosts the back end says are in service."""
    seen = backend.standings(hosts)
    return {host: isinstance(standing, Standing) and standing.inside for host, standing in seen.items()}


def state_file(folder: Path) -> StateFile:
    """A state file of a run of gpugate, read as it is now."""
    return StateFile(folder / "admission.json", folder / "audit.jsonl", by="ada", run_id="run-1", report_sha256="5ha")


def test_state_survives(tmp_path: Path) -> None:
    """An admitted node is inside for the next run, with who, when, why and by which report; others are outside."""
    first = state_file(tmp_path)
    assert inside(first, "gpu0", "gpu1") == {"gpu0": False, "gpu1": False}
    first.begin()
    assert first.carry_out([decision("gpu0", Action.ADMIT)]) == {"gpu0": None}
    assert inside(state_file(tmp_path), "gpu0", "gpu1") == {"gpu0": True, "gpu1": False}
    entry = json.loads((tmp_path / "admission.json").read_text())["hosts"]["gpu0"]
    assert entry.pop("since").startswith("20")
    assert entry == {
        "in_service": True,
        "by": "ada",
        "why": "because of this",
        "run_id": "run-1",
        "report_sha256": "5ha",
    }


def test_removed_node_is_outside(tmp_path: Path) -> None:
    """A removed node is outside for the next run."""
    for action in (Action.ADMIT, Action.REMOVE):
        backend = state_file(tmp_path)
        backend.begin()
        assert backend.carry_out([decision("gpu0", action, backend)]) == {"gpu0": None}
    assert inside(state_file(tmp_path), "gpu0") == {"gpu0": False}


@pytest.mark.parametrize("content", [
    "", "{", "[]", '{"schema": 1}', '{"schema": 2, "hosts": {}}', '{"schema": 1, "hosts": {}, "more": 1}',
    '{"schema": 1, "hosts": {"gpu0": {"in_service": "yes", "since": "", "by": "", "why": "", "run_id": "",'
    ' "report_sha256": ""}}}', '{"schema": 1, "hosts": {"gpu0": {"in_service": true}}}',
])  # fmt: skip
def test_corrupt_state_is_an_error(tmp_path: Path, content: str) -> None:
    """A state file that is not exactly one is never a state, and says what to do."""
    (tmp_path / "admission.json").write_text(content)
    with pytest.raises(AdmissionError, match=r"admission\.json"):
        state_file(tmp_path)


def test_lost_state_is_an_error(tmp_path: Path) -> None:
    """A state file that was there before, by the audit's word, is lost when it is gone: nobody is outside by that."""
    state_file(tmp_path).begin()
    (tmp_path / "audit.jsonl").write_text("{}\n")
    (tmp_path / "admission.json").unlink()
    with pytest.raises(AdmissionError, match="gone"):
        state_file(tmp_path)


def test_looking_writes_nothing(tmp_path: Path) -> None:
    """Asking for states, as check mode does, leaves no file."""
    state_file(tmp_path).standings(["gpu0"])
    assert list(tmp_path.iterdir()) == []


def test_changed_meanwhile_is_refused(tmp_path: Path) -> None:
    """A node whose entry another run changed since this one looked is left alone; the others are done."""
    slow, quick = state_file(tmp_path), state_file(tmp_path)
    quick.begin()
    quick.carry_out([decision("gpu0", Action.ADMIT)])
    results = slow.carry_out([decision("gpu0", Action.ADMIT), decision("gpu1", Action.ADMIT)])
    assert "somebody changed" in str(results["gpu0"])
    assert results["gpu1"] is None
    assert inside(state_file(tmp_path), "gpu0", "gpu1") == {"gpu0": True, "gpu1": True}


def admit_one(folder: Path, host: str) -> None:
    """One run's work, in a process of its own."""
    backend = state_file(folder)
    backend.begin()
    assert backend.carry_out([decision(host, Action.ADMIT)]) == {host: None}
    Audit(folder / "audit.jsonl", report(), "ada").decided([decision(host, Action.ADMIT)])


def test_runs_at_the_same_time(tmp_path: Path) -> None:
    """Of runs that write at once none loses another's entry or audit line."""
    state_file(tmp_path).begin()
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=admit_one, args=(tmp_path, f"gpu{n}")) for n in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 8
    hosts = [f"gpu{n}" for n in range(8)]
    assert inside(state_file(tmp_path), *hosts) == dict.fromkeys(hosts, True)
    lines = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["host"] for line in lines) == hosts


def test_audit_is_appended_to(tmp_path: Path) -> None:
    """Decisions and what became of them are lines with time, user and report; a cut line spoils no other."""
    path = tmp_path / "audit.jsonl"
    path.write_text('{"cut')
    audit = Audit(path, report(), "ada")
    both = [decision("gpu0", Action.ADMIT), decision("gpu1", Action.REMOVE)]
    audit.decided(both)
    audit.carried_out(both, {"gpu0": None, "gpu1": AdmissionError("no answer")})
    cut, *lines = path.read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert cut == '{"cut'
    assert [(r["event"], r["host"], r["action"]) for r in records] == [
        ("decided", "gpu0", "admit"), ("decided", "gpu1", "remove"),
        ("done", "gpu0", "admit"), ("failed", "gpu1", "remove")]  # fmt: skip
    assert {(r["by"], r["report_sha256"]) for r in records} == {("ada", "5ha")}
    assert (records[0]["reasons"], records[3]["problem"]) == (["because of this"], "no answer")


def test_audit_that_cannot_be_written(tmp_path: Path) -> None:
    """An audit that cannot be written is an error that names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(AdmissionError, match=r"audit .* cannot be written"):
        Audit(tmp_path / "file" / "audit.jsonl", report(), "ada").decided([decision("gpu0", Action.ADMIT)])


def test_append_keeps_what_is_there(tmp_path: Path) -> None:
    """Appending twice leaves both."""
    append_lines(tmp_path / "a", ["one"])
    append_lines(tmp_path / "a", ["two", "three"])
    assert (tmp_path / "a").read_text() == "one\ntwo\nthree\n"


HOOK = """
import pathlib, sys
action, host, reason, report, folder = sys.argv[1:]
state = pathlib.Path(folder, host)
if action == "status":
    print("in" if state.exists() else "out")
elif action == "admit":
    state.write_text(reason + "|" + report)
else:
    state.unlink()
"""


def hook(folder: Path, script: str = HOOK, timeout_s: float = 30.0) -> CommandHook:
    """A back end whose program keeps a file for each node in service."""
    (folder / "hook.py").write_text(script)
    nodes = folder / "nodes"
    nodes.mkdir(exist_ok=True)
    command = [sys.executable, str(folder / "hook.py"), "{action}", "{host}", "{reason}", "{report}", str(nodes)]
    return CommandHook(command, folder / "junit.xml", timeout_s)


def test_hook_admits_and_removes(tmp_path: Path) -> None:
    """The command gets host, action, reason and report as arguments, and its status is the state."""
    backend = hook(tmp_path)
    odd = Decision("gpu0", Action.ADMIT, ("green; $(touch x) `y` {host}", "and\nmore"), Standing(False))
    assert inside(backend, "gpu0") == {"gpu0": False}
    assert backend.carry_out([odd]) == {"gpu0": None}
    assert inside(backend, "gpu0", "gpu1") == {"gpu0": True, "gpu1": False}
    said = (tmp_path / "nodes" / "gpu0").read_text()
    assert said == f"green; $(touch x) `y` {{host}}; and more|{tmp_path / 'junit.xml'}"
    assert backend.carry_out([decision("gpu0", Action.REMOVE)]) == {"gpu0": None}
    assert inside(backend, "gpu0") == {"gpu0": False}


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("print('maybe')", "'maybe' instead of in, out"),
        ("", "'' instead of in, out"),
        ("import sys; sys.exit('no such node')", "status exited 1: no such node"),
        ("import os; os.abort()", "status exited -6"),
    ],
)
def test_hook_that_cannot_tell(tmp_path: Path, script: str, problem: str) -> None:
    """A status that is not exactly in or out is no state, for that host alone, and its words are passed on."""
    assert problem in str(hook(tmp_path, script).standings(["gpu0"])["gpu0"])


def test_hook_that_claims(tmp_path: Path) -> None:
    """A command that exits 0 without having done anything is found out by its own status."""
    results = hook(tmp_path, "import sys; print('out')").carry_out([decision("gpu0", Action.ADMIT)])
    assert "status still says out" in str(results["gpu0"])


def test_hook_state_changed_meanwhile(tmp_path: Path) -> None:
    """A node that somebody else took out since the decision is not removed a second time."""
    results = hook(tmp_path).carry_out([decision("gpu0", Action.REMOVE)])
    assert "changed while this run decided" in str(results["gpu0"])


def test_hook_that_hangs(tmp_path: Path) -> None:
    """A command that takes too long is ended, and is an error."""
    result = hook(tmp_path, "import time; time.sleep(600)", timeout_s=0.5).standings(["gpu0"])["gpu0"]
    assert "longer than 0.5 s" in str(result)


def test_hook_that_is_not_there(tmp_path: Path) -> None:
    """A program that does not exist is an error that names it."""
    backend = CommandHook([str(tmp_path / "nothing"), "{action}", "{host}"], tmp_path / "junit.xml")
    assert "cannot be run" in str(backend.standings(["gpu0"])["gpu0"])


def test_host_is_never_an_option(tmp_path: Path) -> None:
    """A host whose name begins with a dash is not handed to a command."""
    assert "option" in str(hook(tmp_path).standings(["--all"])["--all"])


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (["x", "{host}"], "needs {host} and {action}"),
        (["x", "{action}", "{host}", "{hots}"], r"has \{hots\}"),
        ([], "needs"),
    ],
)
def test_command_that_cannot_be_one(command: list[str], problem: str) -> None:
    """A command without host or action, or with an unknown placeholder, is refused before anything is asked."""
    with pytest.raises(AdmissionError, match=problem):
        CommandHook(command, Path("junit.xml"))
