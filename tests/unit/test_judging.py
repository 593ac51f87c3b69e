"""How cells run in a session: judged with their host, reported one by one, and never from evidence that changes."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from gpugate.errors import EvidenceError
from gpugate.inventory import Target
from gpugate.pytest_plugin import state as module
from gpugate.pytest_plugin.state import State
from healthy import healthy, policy, with_fact
from replays import Project, project

SOURCE = """
import warnings

def check_it(node, expect):
    for gpu in node.gpus:
        expect("limit", gpu.power.limit_w, at=gpu).at_most(651, "W", comfortable=649, next="look")

def check_more(node, expect):
    warnings.warn("this check is old", stacklevel=1)
    expect("name", node.host.hostname).one_of(["gpu0", "gpu2"])

def check_broken(expect):
    raise ValueError("no")
"""
DIES = """
import os
HERE = os.getpid()

def check_dies(node, expect):
    if os.getpid() != HERE:
        os._exit(9)
    expect("name", node.host.hostname).one_of(["gpu0"])
"""
HOSTS = ("gpu0", "gpu1", "gpu2")
OTHERS_HOOK = """
import pytest

@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    return (yield)
"""
VOLATILE = re.compile(r"=+ .* in .*s.*=+|[0-9T]+Z-[0-9a-f]{6}| time(stamp)?=\"[^\"]*\"|<property name=\"run_id\"[^>]*>")


AHEAD = """
import os
import pathlib
from gpugate.pytest_plugin import ahead

ahead.LEAST_HOSTS = 1
os.sched_getaffinity = lambda pid: {0, 1}  # two processes, also on a machine with one processor
taken = []
take = ahead.Ahead.take

def counted(self, host):
    found = take(self, host)
    taken.append((host, found is not None))
    return found

ahead.Ahead.take = counted

def pytest_sessionfinish():
    pathlib.Path("taken").write_text(str(sorted(host for host, found in taken if found)))
"""


def told_with(judged: Project, conftest: str) -> list[str]:
    """What a run with this conftest beside the checks says: terminal and report, without times and run ids."""
    (judged.folder / "checks" / "conftest.py").write_text(conftest)
    done = judged.pytest("-v", "-rA", "--color=no", "-p", "no:cacheprovider")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    xml = (judged.folder / "reports" / "latest" / "junit.xml").read_text()
    return VOLATILE.sub("", done.stdout + xml).splitlines()


@pytest.mark.parametrize(("source", "taken"), [("", "['gpu1']"), ("DIES", "[]")])
def test_judging_ahead_changes_nothing(tmp_path: Path, source: str, taken: str) -> None:
    """What a second process judges ahead gives the same terminal, exit status and report; a host in whose checks
    something is said is judged here, and so are all if that process dies."""
    checks = dict.fromkeys(("mine.it", "mine.more", "mine.broken"), "admit")
    spoilt = {"gpu1": with_fact(healthy("gpu1"), "gpus.3.power.limit_w", 700.0)}
    quiet = SOURCE.replace("    warnings.warn", "    if node.host.hostname == 'gpu3': warnings.warn")
    if source:
        quiet += DIES
        checks["mine.dies"] = "admit"
    judged = project(tmp_path, quiet, checks, (*HOSTS, "gpu3"), spoilt)
    told = [told_with(judged, conftest) for conftest in ("", AHEAD)]
    assert told[0] == told[1]
    assert (judged.folder / "taken").read_text() == taken
    assert any("this check is old" in line for line in told[0])
    assert set(judged.outcomes().values()) == {"PASS", "FAIL", "ERROR"}


def test_hooks_of_others_change_nothing(tmp_path: Path) -> None:
    """Cells that only report, because their host is judged already, give the same terminal, exit status and report as
    in pytest's own loop, which another plugin's hook brings back."""
    checks = dict.fromkeys(("mine.it", "mine.more", "mine.broken"), "admit")
    spoilt = {"gpu1": with_fact(healthy("gpu1"), "gpus.3.power.limit_w", 700.0)}
    judged = project(tmp_path, SOURCE, checks, HOSTS, spoilt)
    told = [told_with(judged, hook) for hook in ("", OTHERS_HOOK)]
    assert told[0] == told[1]
    assert any("checks/mine.py::check_it[gpu1] FAILED" in line for line in told[0])
    assert any("this check is old" in line for line in told[0])
    assert set(judged.outcomes().values()) == {"PASS", "FAIL", "ERROR"}


def test_reports_can_be_sent(tmp_path: Path) -> None:
    """A cell's report is to other plugins what any test's is: pytest's own JUnit has every cell, with its failure."""
    judged = project(tmp_path, SOURCE, dict.fromkeys(("mine.it", "mine.more", "mine.broken"), "admit"), HOSTS)
    done = judged.pytest(f"--junitxml={tmp_path / 'own.xml'}", "--durations=3", "-vv")
    own = (tmp_path / "own.xml").read_text()
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert len(re.findall("<testcase ", own)) == 9
    assert 'classname="checks.mine" name="check_broken[gpu2]"' in own
    assert own.count("the check itself broke: ValueError: no") >= 3
    assert "call     checks/mine.py::check_" in done.stdout


def test_document_that_changes_under_the_run_is_no_report(tmp_path: Path) -> None:
    """What is kept beside a report is what was judged: a document that was changed meanwhile ends the run, and the
    latest report stays what it was."""
    source = (
        "from pathlib import Path\n\n"
        "def check_it(expect):\n"
        "    document = Path('evidence/gpu0.json')\n"
        "    document.write_text(document.read_text() + ' ')\n"
        "    expect('x', 1).equals(1)\n"
    )
    judged = project(tmp_path, source)
    done = judged.pytest()
    assert done.returncode == pytest.ExitCode.INTERNAL_ERROR, done.stdout
    assert "gpu0.json was changed while it was judged" in done.stdout
    assert not (judged.folder / "reports" / "latest").exists()


def test_evidence_is_forgotten_and_never_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session holds few documents at a time; one that it reads again has to be the one that it read first."""
    monkeypatch.setattr(module, "_IN_MEMORY", 2)
    judged = project(tmp_path, hosts=("gpu0", "gpu1", "gpu2", "gpu3"))
    targets = {host: Target(host, policy()) for host in ("gpu0", "gpu1", "gpu2", "gpu3")}
    state = State(targets, "admission", datetime.now(UTC))
    state.use_folder(judged.folder / "evidence")
    first = {host: state.gathered(host) for host in targets}
    assert len(state._gathered) == 2
    document = judged.folder / "evidence" / "gpu1.json"
    document.write_bytes(document.read_bytes() + b"\n")
    assert repr(state.gathered("gpu0").evidence) == repr(first["gpu0"].evidence)
    again = state.gathered("gpu1")
    assert again.evidence is None
    assert isinstance(again.problem, EvidenceError)
    assert "changed while it was judged" in str(again.problem)
    assert state.about("gpu1").sha256 == first["gpu1"].sha256
