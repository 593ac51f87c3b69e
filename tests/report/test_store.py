"""The store: whole or not at all, and the link only to what is complete."""

from __future__ import annotations

import hashlib
import json
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from gpugate.errors import ReportError
from gpugate.report import Store, new_run_id
from gpugate.report.reader import read_report
from runs import STARTED, every_outcome, passed, run_of


def test_whole_run_becomes_the_latest(tmp_path: Path) -> None:
    """A whole run has a folder of its own with report, manifest and evidence, and `latest` leads to it."""
    run = every_outcome()
    folder = Store(tmp_path).write(run, {"gpu0": b'{"schema": 1}'})
    manifest = json.loads((folder / "run.json").read_text())
    assert (tmp_path / "latest").resolve() == folder == tmp_path / "runs" / run.run_id
    assert not Path((tmp_path / "latest").readlink()).is_absolute()
    assert manifest["junit"]["sha256"] == hashlib.sha256((folder / "junit.xml").read_bytes()).hexdigest()
    assert manifest["evidence"]["gpu0"]["sha256"] == hashlib.sha256(b'{"schema": 1}').hexdigest()
    assert (folder / manifest["evidence"]["gpu0"]["file"]).read_bytes() == b'{"schema": 1}'
    assert (manifest["scope"], manifest["counts"]["MISSING"], manifest["green"]) == ("whole", 1, False)
    assert read_report(tmp_path / "latest" / "junit.xml").run_id == run.run_id


def test_partial_run_leaves_the_latest_alone(tmp_path: Path) -> None:
    """A partial run goes to a place of its own, and the full one before stays the latest."""
    store, whole = Store(tmp_path), run_of(passed("gpu0"))
    store.write(whole)
    partial = run_of(passed("gpu0"), scope="partial", partial_because="-k headroom selected less")
    assert store.write(partial) == tmp_path / "partial" / partial.run_id
    assert (tmp_path / "latest").resolve().name == whole.run_id
    assert (tmp_path / "partial" / "latest").resolve().name == partial.run_id


def test_host_names_stay_in_the_folder(tmp_path: Path) -> None:
    """A host whose name looks like a path writes nothing outside the run's folder."""
    folder = Store(tmp_path / "reports").write(run_of(passed("gpu0")), {"../../../out": b"{}", "/etc/x": b"{}"})
    assert {path.parent for path in tmp_path.rglob("*.json")} == {folder, folder / "evidence"}


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    """Where a run cannot be written completely, the error says where, `latest` stays, and no half run is left."""
    store, good = Store(tmp_path), run_of(passed("gpu0"))
    store.write(good)
    with pytest.raises(ReportError, match="cannot be written"):
        store.write(run_of(passed("gpu0")), {"x" * 300: b"{}"})
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [good.run_id]
    assert (tmp_path / "latest").resolve().name == good.run_id


def test_place_that_is_a_file(tmp_path: Path) -> None:
    """A reports folder that is a file gets a sentence, not a traceback."""
    (tmp_path / "reports").write_text("")
    with pytest.raises(ReportError, match="cannot be written"):
        Store(tmp_path / "reports").write(run_of(passed("gpu0")))


def test_latest_that_is_a_folder(tmp_path: Path) -> None:
    """Where `latest` is a folder somebody made, the run stays and the error says that the link could not be set."""
    (tmp_path / "latest").mkdir()
    with pytest.raises(ReportError, match="latest"):
        Store(tmp_path).write(run_of(passed("gpu0")))


def test_run_id_is_used_once(tmp_path: Path) -> None:
    """A second run of the same id is refused, and the first stays as it was."""
    run = run_of(passed("gpu0"))
    Store(tmp_path).write(run)
    with pytest.raises(ReportError, match="there already"):
        Store(tmp_path).write(run)


def test_runs_at_the_same_time(tmp_path: Path) -> None:
    """Runs that write at once all arrive, and `latest` is one of them, whole."""
    runs = [run_of(*(passed(f"gpu{n}") for n in range(20))) for _ in range(8)]
    threads = [threading.Thread(target=Store(tmp_path).write, args=(run, {"gpu0": b"{}"})) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {run.run_id for run in runs}
    assert len(read_report(tmp_path / "latest" / "junit.xml").hosts) == 20


def test_run_ids_sort_by_time() -> None:
    """A later run has a later name, and two of the same instant have two names."""
    ids = [new_run_id(STARTED + timedelta(microseconds=n)) for n in range(50)]
    assert ids == sorted(ids)
    assert len({new_run_id(STARTED) for _ in range(50)}) == 50
