"""What a site's own checks may be, and that none of them passes without having judged every host and GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from replays import project

GOOD = "def check_it(node, expect):\n    for gpu in node.gpus:\n        expect('x', 1, at=gpu).equals(1)\n"


def test_good_checks_of_both_kinds_pass(tmp_path: Path) -> None:
    """A cell and an ordinary function, each judging every GPU, are green; their family is a marker."""
    source = GOOD + "def check_more(tmp_path, node):\n    for gpu in node.gpus:\n        assert gpu.index < 8\n"
    judged = project(tmp_path, source, {"mine.it": "admit", "mine.more": "admit"})
    done = judged.pytest("--strict-markers", "-m", "mine")
    assert done.returncode == 0, done.stdout
    assert judged.outcomes() == {"mine.it gpu0": "PASS", "mine.more gpu0": "PASS"}


BAD_FORMS = {
    "parametrised": "import pytest\n@pytest.mark.parametrize('n', [1, 2])\ndef check_it(expect, n):\n"
    "    expect('n', n).equals(2)\n",
    "of no host": "def check_it(tmp_path):\n    pass\n",
    "skipped": "import pytest\n@pytest.mark.skip\n" + GOOD,
    "expected to fail": "import pytest\npytestmark = pytest.mark.xfail\n" + GOOD,
    "called test": "def test_it(node):\n    pass\n",
    "a method": "class TestIt:\n    def test_it(self, node):\n        pass\n",
}


def test_checks_of_a_bad_form_are_refused(tmp_path: Path) -> None:
    """A check that cannot give one verdict a host, or that wants to be skipped, ends the run with what to change."""
    families = [form.replace(" ", "_") for form in BAD_FORMS]
    judged = project(tmp_path, GOOD, {f"{each}.{name}": "admit" for each in families for name in ("it", "test_it")})
    for family, source in zip(families, BAD_FORMS.values(), strict=True):
        (judged.folder / "checks" / f"{family}.py").write_text(source)
    done = judged.pytest()
    assert done.returncode == pytest.ExitCode.INTERRUPTED, done.stdout
    for family in families:
        assert f"{judged.folder}/checks/{family}.py: " in done.stdout
    assert "Traceback" not in done.stdout
    assert not (judged.folder / "reports" / "latest").exists()


def test_no_check_passes_without_having_judged(tmp_path: Path) -> None:
    """Whatever returns, yields, skips, exits, or leaves out GPUs is an ERROR, and the checks beside it are judged.

    A FAIL stays one where the check's fixtures break afterwards.
    """
    source = """
import sys
import pytest

def check_good(expect):
    expect("x", 1).equals(1)

@pytest.fixture
def untidy():
    yield
    raise OSError("cannot tidy up")

def check_fails(untidy, node):
    assert node.gpus == []

def check_untidy(untidy, node):
    assert node.gpus != []

def check_skips(expect):
    pytest.skip("not today")

def check_exits(expect):
    sys.exit(0)

def check_returns(tmp_path, node):
    return False

def check_yields(tmp_path, node):
    assert False
    yield

async def check_waits(tmp_path, node):
    assert False

def check_some_gpus(tmp_path, node, expect):
    for gpu in node.gpus[:3]:
        expect("x", 1, at=gpu).equals(1)

def check_bare_gpus(tmp_path, node):
    for gpu in node.gpus:
        assert gpu.index >= 0
"""
    bad = ["untidy", "skips", "exits", "returns", "yields", "waits", "some_gpus", "bare_gpus"]
    checks = {f"mine.{name}": "admit" for name in ["good", "fails", *bad]}
    judged = project(tmp_path, source, checks, gpu_count=9)
    done = judged.pytest()
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    expected = {"mine.good gpu0": "PASS", "mine.fails gpu0": "FAIL"} | {f"mine.{name} gpu0": "ERROR" for name in bad}
    assert judged.outcomes() == expected
    assert "INTERNALERROR" not in done.stdout


def test_check_that_no_host_owes_makes_no_item(tmp_path: Path) -> None:
    """An ordinary check that is absent everywhere is neither run nor reported."""
    source = GOOD + "def check_other(tmp_path, node):\n    assert False\n"
    judged = project(tmp_path, source, {"mine.it": "admit", "mine.other": "absent"})
    done = judged.pytest()
    assert done.returncode == 0, done.stdout
    assert judged.outcomes() == {"mine.it gpu0": "PASS"}


def test_broken_file_beside_good_checks_is_never_whole(tmp_path: Path) -> None:
    """With --continue-on-collection-errors the good checks are judged, and the run is partial and red."""
    judged = project(tmp_path, GOOD)
    (judged.folder / "checks" / "broken.py").write_text("import nothing_of_this_name\n")
    done = judged.pytest("--continue-on-collection-errors")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert judged.report("partial/latest").partial_because == "collection failed"
    assert judged.outcomes("partial/latest") == {"mine.it gpu0": "PASS"}
    assert not (judged.folder / "reports" / "latest").exists()


def test_evidence_that_is_not_there_leaves_the_latest_report_alone(tmp_path: Path) -> None:
    """A mistyped --evidence is one sentence, before anything is judged."""
    judged = project(tmp_path, GOOD)
    done = judged.pytest("--evidence=nowhere")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--evidence: nowhere is no folder" in done.stderr
    assert not (judged.folder / "reports" / "latest").exists()


def test_worker_that_crashes_leaves_its_check_missing(tmp_path: Path) -> None:
    """Under xdist, what a crashed worker judged is MISSING; whatever a check measured crosses over as text."""
    source = """
import os

def check_it(node, expect):
    for gpu in node.gpus:
        expect("an object", object(), at=gpu).holds(True, "seen")

def check_bad(expect):
    expect("half a character", "\\udc80").equals("x")

def check_killed(expect):
    os._exit(1)
"""
    judged = project(tmp_path, source, {"mine.it": "admit", "mine.bad": "admit", "mine.killed": "admit"})
    done = judged.pytest("-n", "1")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert judged.outcomes() == {"mine.it gpu0": "PASS", "mine.bad gpu0": "FAIL", "mine.killed gpu0": "MISSING"}
    assert "no worker judged it" in done.stdout


def test_a_node_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    """Escape sequences in what was measured are shown, not obeyed, in every summary that pytest has."""
    source = (
        "def check_it(expect):\n    expect('motd', '\\x1b[2Jgone').equals('x')\n\n"
        "def check_more(tmp_path, expect):\n    expect('motd', '\\x1b[2Jgone').equals('x')\n"
    )
    judged = project(tmp_path, source, {"mine.it": "admit", "mine.more": "admit"})
    done = judged.pytest("--tb=short", "-rA", "--color=no")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "\\x1b[2Jgone" in done.stdout
    assert "\x1b" not in done.stdout
