"""State and audit: whole under concurrent commands and runs of the gate, and the loss of either admits nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from desk import Desk, fresh, gpugate
from gpugate.admission import Action, Audit, Memory, StateFile, Word, carry
from gpugate.admission import words as people
from gpugate.errors import AdmissionError, StateError
from gpugate.state.store import Store
from runs import failed
from test_carry import actions, nodes, run_gate
from test_carry import report_on as a_report_on

Capture = pytest.CaptureFixture[str]
SAYING = ("--until=+4h", "--ticket=OPS-7", "--why=fan swap")


@pytest.fixture(name="desk")
def _desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return fresh(tmp_path, monkeypatch)


@pytest.fixture
def held(desk: Desk, capsys: Capture) -> Desk:
    """gpu0 is outside, green, and held."""
    gpugate(capsys, "hold", "gpu0", *SAYING)
    desk.report()
    return desk


def lose(desk: Desk, *names: str) -> None:
    """Take files of the state folder away."""
    for name in names:
        (desk.folder / "state" / name).unlink()


@pytest.mark.parametrize("lost", ["gpugate.sqlite", "admission.audit.jsonl"])
def test_a_hold_outlives_either(held: Desk, capsys: Capture, lost: str) -> None:
    """Whoever holds a node holds it also when the state store, or the audit, is lost."""
    lose(held, lost)
    decided = held.gate("gpu0").decisions[0]
    assert decided.action is Action.STAY_OUT
    assert decided.reasons[0].startswith("held by ada until")
    assert "held by ada" in gpugate(capsys, "why", "gpu0")[1]


def test_taken_back_is_taken_back_in_both(held: Desk, capsys: Capture) -> None:
    """What was taken back does not come back with the loss of the state store."""
    gpugate(capsys, "unhold", "gpu0")
    lose(held, "gpugate.sqlite")
    assert actions(held.gate("gpu0")) == {"gpu0": Action.ADMIT}


def test_a_store_from_yesterday(held: Desk, capsys: Capture) -> None:
    """A state store from a backup, older than a word, does not know the word, and the word counts."""
    store = held.folder / "state/gpugate.sqlite"
    gpugate(capsys, "unhold", "gpu0")
    yesterdays = store.read_bytes()
    gpugate(capsys, "hold", "gpu0", *SAYING)
    store.write_bytes(yesterdays)
    assert actions(held.gate("gpu0")) == {"gpu0": Action.STAY_OUT}


@pytest.mark.parametrize(
    "scribble",
    [b"", b"{", b"\xff\x00" * 99, b'{"event": "word"}\n', b'{"event": "word", "host": "gpu0", "word": 7}\n'],
)
def test_a_scribbled_audit(held: Desk, scribble: bytes) -> None:
    """Lines of the audit that are none change nothing: the hold counts, and the audit goes on."""
    audit = held.folder / "state/admission.audit.jsonl"
    audit.write_bytes(scribble + audit.read_bytes() + scribble)
    assert actions(held.gate("gpu0")) == {"gpu0": Action.STAY_OUT}
    assert json.loads(audit.read_bytes().splitlines()[-1])["event"] == "decided"


def test_a_forged_audit_admits_nobody(held: Desk) -> None:
    """A line that ends the hold, written by somebody else into the audit alone, does not end it."""
    audit = held.folder / "state/admission.audit.jsonl"
    line = json.loads(audit.read_text())
    audit.write_text(audit.read_text() + json.dumps(line | {"event": "word ended"}) + "\n")
    assert actions(held.gate("gpu0")) == {"gpu0": Action.STAY_OUT}


@pytest.mark.parametrize("command", ["hold", "release", "unhold"])
@pytest.mark.parametrize("broken", ["store", "audit"])
def test_no_word_without_its_records(desk: Desk, capsys: Capture, command: str, broken: str) -> None:
    """Where a word cannot be written into both records, it is an error, and no node is put back."""
    desk.report(ago=timedelta(minutes=9))
    desk.gate("gpu0")
    desk.report(failed("gpu0"), ago=timedelta(minutes=8))
    desk.gate("gpu0")
    state = desk.folder / "state"
    if broken == "store":
        (state / "gpugate.sqlite").write_text("scribble" * 1000)
    else:
        lose(desk, "admission.audit.jsonl")
        (state / "admission.audit.jsonl").mkdir()
    code, said = gpugate(capsys, command, "gpu0", *(SAYING if command != "unhold" else ()))
    assert code == 2
    assert said.startswith(f"gpugate: the {'state store' if broken == 'store' else 'audit'} ")
    assert desk.inside() == {"gpu0": False}


def test_no_gate_without_its_records(held: Desk) -> None:
    """A store that is corrupt, or an audit that cannot be read, stops the gate: nobody is admitted."""
    state = held.folder / "state"
    (state / "gpugate.sqlite").write_text("scribble" * 1000)
    with pytest.raises(StateError, match="corrupt"):
        held.gate()
    lose(held, "gpugate.sqlite", "admission.audit.jsonl")
    (state / "admission.audit.jsonl").mkdir()
    with pytest.raises(AdmissionError, match=r"audit .* cannot be read"):
        held.gate()
    assert held.inside() == {}


def test_said_while_a_run_decides(tmp_path: Path) -> None:
    """A word that is said while a run of the gate decides counts before that run acts."""
    report = a_report_on("gpu0", "gpu1")
    now = datetime.now().astimezone()
    word = Word("hold", "ada", "w", "t", now, now + timedelta(hours=1))
    told: dict[str, Any] = {}

    class Hearing(Memory):
        def decided(self, *args: Any) -> None:
            super().decided(*args)
            told.update(people.hold(["gpu1"], word, backend, self, audit))

    audit = Audit(tmp_path / "audit.jsonl", report, "ada")
    backend = StateFile(tmp_path / "state.json", audit.path, by="ada", run_id=report.run_id, report_sha256="s")
    memory = Hearing(Store(tmp_path / "gpugate.sqlite"))
    carried = carry(report, nodes("gpu0", "gpu1"), backend, audit, memory, now)
    assert told == {"gpu1": None}
    assert [each.host for each in carried.changed] == ["gpu0"]
    assert "it was held by ada" in str(carried.problems["gpu1"])
    events = [json.loads(line)["event"] for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert events == ["word", "decided", "decided", "done", "failed"]


SPEAKER = """
import sys
from datetime import datetime, timedelta
from pathlib import Path
from gpugate.admission import Audit, Memory, StateFile, Word, words
from gpugate.report.reader import Report
from gpugate.state.store import Store
who, folder = sys.argv[1], Path(sys.argv[2])
now = datetime.now().astimezone()
report = Report("", "20260301T000000000001Z-abcdef", now, "admission", "partial", "a word", {})
memory, audit = Memory(Store(folder / "gpugate.sqlite")), Audit(folder / "audit.jsonl", report, who)
backend = StateFile(folder / "state.json", audit.path, by=who, run_id="", report_sha256="")
for n in range(8):
    at = datetime.now().astimezone()
    word = Word("hold", who, "w" * 3000, f"{who}-{n}", at, at + timedelta(hours=1))
    results = words.hold([f"{who}-{n}", "gpu0"], word, backend, memory, audit)
    assert results[f"{who}-{n}"] is None, results
    words.unhold([f"{who}-{n}"], who, memory, audit, datetime.now().astimezone())
"""


def test_many_at_once(tmp_path: Path) -> None:
    """Commands and runs of the gate at once leave a whole store, and an audit of whole lines that has them all."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    speakers = [
        subprocess.Popen([sys.executable, "-c", SPEAKER, who, str(tmp_path)], env=environment) for who in ("ada", "bob")
    ]
    runs = 0
    while any(each.poll() is None for each in speakers) or runs < 2:
        run_gate(tmp_path, a_report_on("gpu1"), nodes("gpu1"), now=datetime.now().astimezone())
        runs += 1
    assert [each.wait() for each in speakers] == [0, 0]
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    own = Counter((line["event"], line["by"]) for line in lines if line.get("host", "").startswith(("ada", "bob")))
    assert own == {(event, who): 8 for event in ("word", "word ended") for who in ("ada", "bob")}
    assert sum(line["event"] == "decided" for line in lines) == runs
    now = datetime.now().astimezone()
    memory = Memory(Store(tmp_path / "gpugate.sqlite"))
    [word] = memory.words(now)["gpu0"]
    assert word == people.words_of(memory, Audit(tmp_path / "audit.jsonl", a_report_on("gpu1"), "x"), now)["gpu0"]
    assert memory.nodes()["gpu1"].inside
