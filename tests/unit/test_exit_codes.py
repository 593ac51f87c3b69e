"""The exit statuses that docs/flow.md promises: each happens, for each of the reasons given there."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from gpugate.gather.folder import GatherLog, Receipt, write_log
from replays import DEADLINE_S, ROOT, project

GOOD = "def check_it(node, expect):\n    for gpu in node.gpus:\n        expect('x', 1, at=gpu).equals(1)\n"
MARGINAL = GOOD.replace("equals(1)", "at_least(0, comfortable=2)")
BAD = GOOD.replace("equals(1)", "equals(2)")
OTHER = BAD.replace("check_it", "check_other")
BROKEN = "def check_it(node, expect):\n    raise ValueError('broken')\n"
UNIMPORTABLE = "import nothing_of_this_name\n" + GOOD
IT = {"mine.it": "admit"}
WAIVER = {"check": "mine.*", "host": "gpu*", "who": "Ada", "why": "x", "ticket": "OPS-7", "expires": "2999-01-01"}

# status, what happens, the check's source, variables of policy, arguments, what pytest says
CASES = [
    (0, "green", GOOD, {}, [], "1 PASS"),
    (0, "marginal", MARGINAL, {}, [], "marginal mine.it"),
    (0, "waived", BAD, {"waivers": [WAIVER]}, [], "WAIVED mine.it"),
    (0, "partial but green", GOOD + OTHER, {"checks": IT | {"mine.other": "admit"}}, ["-k", "check_it"], "partial run"),
    (1, "FAIL", BAD, {}, [], "FAIL mine.it"),
    (1, "FAIL that is only observed", BAD, {"checks": {"mine.it": "observe"}}, [], "FAIL mine.it"),
    (1, "ERROR", BROKEN, {}, [], "ERROR mine.it"),
    (1, "check that no file defines", GOOD, {"checks": IT | {"mine.gone": "admit"}}, [], "MISSING mine.gone"),
    (2, "file that cannot be collected", UNIMPORTABLE, {}, [], "nothing_of_this_name"),
    (4, "no such host", GOOD, {}, ["--hosts=gpu_flete"], "did you mean gpu_fleet?"),
    (4, "invalid policy", GOOD, {"power_limit_w": "much"}, [], "gpugate_power_limit_w"),
    (4, "no such evidence", GOOD, {}, ["--evidence=nowhere"], "is no folder"),
    (4, "no such option", GOOD, {}, ["--no-such-option"], "--no-such-option"),
    (5, "nothing selected", GOOD, {}, ["-k", "no_such_check"], "deselected"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "source", "variables", "args", "told"),
    [(status, *rest) for status, _, *rest in CASES],
    ids=[f"{status}: {name}" for status, name, *_ in CASES],
)
def test_exit_status(
    tmp_path: Path, status: int, source: str, variables: dict[str, Any], args: list[str], told: str
) -> None:
    """Each thing that can happen ends with the status that is documented for it, and says what happened."""
    checks = variables.get("checks", IT)
    others = {name: value for name, value in variables.items() if name != "checks"}
    judged = project(tmp_path, source, checks, **others)
    done = judged.pytest(*args)
    assert done.returncode == status, done.stdout + done.stderr
    assert told in done.stdout + done.stderr


def test_exit_status_1_for_a_host_that_never_answered(tmp_path: Path) -> None:
    """A host that its receipt tells missing is red."""
    judged = project(tmp_path, GOOD)
    receipt = Receipt(nonce="ab", asked_unix_s=1.0, received_unix_s=21.0, missing="gpu0 (10.0.0.1:22) did not answer")
    write_log(judged.folder / "evidence", GatherLog(started_unix_s=1.0, profile="admission", hosts={"gpu0": receipt}))
    done = judged.pytest()
    assert done.returncode == 1, done.stdout
    assert judged.outcomes() == {"mine.it gpu0": "MISSING"}
    assert "gathering took 20.0 s; slowest: gpu0 20.0 s (no evidence)" in done.stdout


def test_exit_status_2_for_ctrl_c(tmp_path: Path) -> None:
    """Ctrl-C while a check runs ends with 2, and the report is partial: what was not judged is not made up."""
    stuck = f"import pathlib, time\ndef check_it(node, expect):\n    pathlib.Path({str(tmp_path / 'up')!r}).touch()\n"
    judged = project(tmp_path, stuck + "    time.sleep(600)\n")
    with subprocess.Popen(
        judged.command(), cwd=judged.folder, env=judged.env, stdout=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + DEADLINE_S
        while not (tmp_path / "up").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2, said
    assert not (judged.folder / "reports" / "latest").exists()


def test_exit_status_3_for_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    """Green checks are no success where their report cannot be written."""
    judged = project(tmp_path, GOOD)
    (tmp_path / "reports").write_text("a file")
    done = judged.pytest()
    assert done.returncode == 3, done.stdout
    assert "ERROR: the report of run" in done.stdout


def test_exit_status_3_for_a_broken_plugin(tmp_path: Path) -> None:
    """Where pytest itself breaks, no status says that nodes are green or red."""
    judged = project(tmp_path, GOOD)
    (tmp_path / "conftest.py").write_text("def pytest_runtestloop(session):\n    raise ValueError('broken')\n")
    assert judged.pytest().returncode == 3


def test_every_documented_status_is_tested() -> None:
    """The table in docs/flow.md holds exactly the statuses that are tested here."""
    page = (ROOT / "docs" / "flow.md").read_text()
    table = page[page.index("| exit status | meaning |") :].split("\n\n")[0]
    documented = {int(status) for status in re.findall(r"^\| (\d+) \|", table, re.M)}
    assert documented == {status for status, *_ in CASES} | {3}
