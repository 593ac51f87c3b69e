"""Several evidence sets, judged as one run by pytest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from replays import Project, project

GOOD = "def check_it(node, expect):\n    for gpu in node.gpus:\n        expect('x', 1, at=gpu).equals(1)\n"


@pytest.fixture
def two(tmp_path: Path) -> Project:
    """Three hosts; the evidence of gpu1 lies in a second set."""
    judged = project(tmp_path, GOOD, hosts=("gpu0", "gpu1", "gpu2"))
    (tmp_path / "second").mkdir()
    shutil.move(tmp_path / "evidence" / "gpu1.json", tmp_path / "second" / "gpu1.json")
    return judged


@pytest.mark.parametrize("arguments", [[], ["-n", "2"]], ids=["plain", "xdist"])
def test_sets_are_judged_once(two: Project, arguments: list[str]) -> None:
    """One run and one report of all hosts, whichever set has them."""
    done = two.pytest(f"--evidence={two.folder / 'second'}", *arguments)
    assert done.returncode == pytest.ExitCode.OK, done.stdout
    assert two.outcomes() == {f"mine.it gpu{n}": "PASS" for n in range(3)}
    kept = json.loads((two.folder / "reports/latest/run.json").read_text())["evidence"]
    assert sorted(kept) == ["gpu0", "gpu1", "gpu2"]


def test_a_host_in_no_set_is_missing(two: Project) -> None:
    """A gap between the sets is red, and names the host."""
    (two.folder / "second" / "gpu1.json").unlink()
    done = two.pytest(f"--evidence={two.folder / 'second'}")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert two.outcomes()["mine.it gpu1"] == "MISSING"


def test_two_answers_of_one_host_stop_the_run(two: Project) -> None:
    """Two documents of one host are refused with both places, and nothing is judged."""
    shutil.copy(two.folder / "evidence" / "gpu2.json", two.folder / "second")
    done = two.pytest(f"--evidence={two.folder / 'second'}")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"{two.folder}/evidence and {two.folder}/second both hold an answer of gpu2" in done.stderr
    assert not (two.folder / "reports" / "latest").exists()


def test_merging_leaves_nothing_behind(two: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder in which sets are put together is gone afterwards."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    done = two.pytest(f"--evidence={two.folder / 'second'}")
    assert done.returncode == pytest.ExitCode.OK, done.stdout
    assert list(temporary.iterdir()) == []
