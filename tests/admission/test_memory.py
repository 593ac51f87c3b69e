"""What the gate remembers: from run to run, of people's words, and of what it did itself."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gpugate.admission import Action, Decision, History, Memory, Standing, Word
from gpugate.admission.breaker import Member
from gpugate.errors import AdmissionError, StateError
from gpugate.state import store
from gpugate.state.store import Store

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
WORD = Word("hold", "ada", "fan", "OPS-7", NOW, NOW + timedelta(hours=1))
ABOUT = {"gpu0": Member(True, domains=("r1",), driver="580.1")}


def memory(folder: Path, *, look_only: bool = False) -> Memory:
    """The gate's memory in a folder."""
    return Memory(Store(folder / "s.sqlite"), look_only=look_only)


def decision(action: Action, run: str = "r1", *, inside: bool = False) -> Decision:
    """A decision on gpu0 by a run."""
    return Decision("gpu0", action, ("why", "and"), Standing(inside), checks=("a.a",), history=History(run, 1, 0))


def test_a_decision_is_remembered(tmp_path: Path) -> None:
    """What was decided, when, by which run, since when, and the last green one, are there in the next run."""
    memory(tmp_path).decided([decision(Action.ADMIT)], "r1", NOW, ABOUT)
    later = NOW + timedelta(days=1)
    memory(tmp_path).decided([decision(Action.HOLD, "r2", inside=True)], "r2", later, ABOUT)
    found = memory(tmp_path).nodes()["gpu0"]
    assert (found.action, found.reasons, found.since, found.decided) == (Action.HOLD, ("why", "and"), later, later)
    assert (found.green_run, found.green, found.history) == ("r1", NOW, History("r2", 1, 0))
    assert (found.domains, found.driver, found.inside) == (("r1",), "580.1", True)


def test_since_when(tmp_path: Path) -> None:
    """The same decision in the next run keeps the time at which it was made first."""
    for n, run in enumerate(["r1", "r2"]):
        memory(tmp_path).decided([decision(Action.HOLD, run, inside=True)], run, NOW + timedelta(hours=n), ABOUT)
    assert memory(tmp_path).nodes()["gpu0"].since == NOW


def test_removed_and_back(tmp_path: Path) -> None:
    """A node counts as removed, for its checks, from when that was done until it is in service again."""
    removed = decision(Action.REMOVE, inside=True)
    memory(tmp_path).decided([removed], "r1", NOW, ABOUT)
    assert not memory(tmp_path).nodes()["gpu0"].history.removed
    memory(tmp_path).carried_out([removed], NOW)
    found = memory(tmp_path).nodes()["gpu0"]
    assert (found.history, found.removed, found.removed_for, found.inside) == (
        History("r1", 0, 0, True), NOW, ("a.a",), False)  # fmt: skip
    memory(tmp_path).decided([decision(Action.STAY_OUT, "r2")], "r2", NOW, ABOUT)
    assert memory(tmp_path).nodes()["gpu0"].removed == NOW
    memory(tmp_path).decided([decision(Action.KEEP, "r3", inside=True)], "r3", NOW, ABOUT)
    assert memory(tmp_path).nodes()["gpu0"].removed is None


def test_another_run_was_quicker(tmp_path: Path) -> None:
    """A run that decided by an older report than another run meanwhile carries nothing out."""
    memory(tmp_path).decided([decision(Action.HOLD, "r2", inside=True)], "r2", NOW, ABOUT)
    with pytest.raises(AdmissionError, match=r"by a newer report \(r2 instead of r1\)"):
        memory(tmp_path).decided([decision(Action.ADMIT, "r1")], "r1", NOW, ABOUT)
    assert memory(tmp_path).nodes()["gpu0"].action is Action.HOLD


def test_clock_set_back(tmp_path: Path) -> None:
    """A decision from the future means that a clock is wrong: nobody is decided on."""
    memory(tmp_path).decided([decision(Action.HOLD)], "r1", NOW, ABOUT)
    with pytest.raises(AdmissionError, match=r"set the clocks .* right"):
        memory(tmp_path).decided([decision(Action.ADMIT, "r2")], "r2", NOW - timedelta(hours=1), ABOUT)


def test_words(tmp_path: Path) -> None:
    """A person's word is good until its time or until it is taken back, and the newer one counts."""
    assert memory(tmp_path).say(["gpu0"], WORD) == {}
    released = replace(WORD, kind="release", since=NOW + timedelta(minutes=1))
    memory(tmp_path).say(["gpu0"], released)
    assert memory(tmp_path).words(NOW + timedelta(minutes=2)) == {"gpu0": [released]}
    assert memory(tmp_path).words(NOW + timedelta(hours=1)) == {}
    memory(tmp_path).take_back(["gpu0", "gpu1"], NOW + timedelta(minutes=3))
    assert memory(tmp_path).words(NOW + timedelta(minutes=4)) == {}


def test_words_of_two_persons(tmp_path: Path) -> None:
    """While one person's word is good another's is not written down; of the other nodes it is."""
    memory(tmp_path).say(["gpu0"], WORD)
    bobs = replace(WORD, who="bob", since=NOW + timedelta(minutes=1))
    taken = memory(tmp_path).say(["gpu0", "gpu1"], bobs)
    assert {host: str(error) for host, error in taken.items()} == {
        "gpu0": "gpu0: ada has said something of it meanwhile: ask ada"
    }
    assert memory(tmp_path).words(NOW + timedelta(minutes=2)) == {"gpu0": [WORD], "gpu1": [bobs]}
    later = replace(bobs, since=WORD.until, until=WORD.until + timedelta(hours=1))
    assert memory(tmp_path).say(["gpu0"], later) == {}


def test_ownership(tmp_path: Path) -> None:
    """What a back end did is its own until it says otherwise, and no other back end's."""
    memory(tmp_path).own("slurm", {"gpu0": "a", "gpu1": "b"}, NOW)
    memory(tmp_path).own("slurm", {"gpu0": "c"}, NOW)
    memory(tmp_path).disown("slurm", ["gpu1"])
    assert (memory(tmp_path).owned("slurm"), memory(tmp_path).owned("kubernetes")) == ({"gpu0": "c"}, {})


def test_looking_makes_no_store(tmp_path: Path) -> None:
    """Whoever only looks leaves no file."""
    looking = memory(tmp_path, look_only=True)
    assert (looking.nodes(), looking.words(NOW), looking.owned("slurm")) == ({}, {}, {})
    assert list(tmp_path.iterdir()) == []


def test_store_of_the_schema_before(tmp_path: Path) -> None:
    """A store that held only leases is brought to today's schema, with what it holds."""
    old = sqlite3.connect(tmp_path / "s.sqlite")
    old.executescript(store._TABLES)
    old.execute(f"PRAGMA application_id = {store._APPLICATION}")
    old.execute("PRAGMA user_version = 1")
    old.execute("INSERT INTO leases VALUES (7, 'k', 'n', 1, 1, 'u', 'h', 1, 'r', 'waits', 1, 1, 'b', 1)")
    old.commit()
    old.close()
    memory(tmp_path).say(["gpu0"], WORD)
    with Store(tmp_path / "s.sqlite").transaction() as db:
        assert db.execute("SELECT ticket FROM leases").fetchall() == [(7,)]
    assert memory(tmp_path).words(NOW) == {"gpu0": [WORD]}


@pytest.mark.parametrize("column", ["action", "reasons", "decided_unix_s", "greens"])
def test_scribbled_record(tmp_path: Path, column: str) -> None:
    """A record that is not what the gate writes is an error that names the node, never a state."""
    memory(tmp_path).decided([decision(Action.HOLD)], "r1", NOW, ABOUT)
    with Store(tmp_path / "s.sqlite").transaction() as db:
        db.execute(f"UPDATE gate_nodes SET {column} = 'scribble'")  # noqa: S608  # a column of the list above
    with pytest.raises(AdmissionError, match="record of gpu0"):
        memory(tmp_path).nodes()


def test_corrupt_store(tmp_path: Path) -> None:
    """A store that is no database is an error."""
    (tmp_path / "s.sqlite").write_text("scribble" * 1000)
    with pytest.raises(StateError, match="corrupt"):
        memory(tmp_path, look_only=True).nodes()
