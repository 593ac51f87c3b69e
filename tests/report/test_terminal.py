"""The summary at the end of a run."""

from __future__ import annotations

from pathlib import Path

from gpugate.report import summary_lines
from gpugate.report.text import fold
from gpugate.verdict import Outcome
from runs import every_outcome, failed, passed, run_of, waived, without


def test_failure_is_told_whole() -> None:
    """A failure names host, check, level, GPU, measured value, bound and next step; the report's place comes last."""
    lines = summary_lines(run_of(failed("gpu1"), passed("gpu0")), Path("reports/runs/x"))
    assert lines[0] == "FAIL thermal.headroom on gpu1 (level admit)"
    for part in ("GPU 1", "1.5 C", "at least 5 C", "cooling"):
        assert part in lines[1]
    assert lines[-3:] == ["red: gpu1", "green: gpu0", "report: reports/runs/x/junit.xml"]


def test_one_cause_is_told_once() -> None:
    """A thousand hosts that went missing for one reason, over all their checks, are one cause with a folded range."""
    gone = [
        without(f"gpu{n}", f"a.c{c}", Outcome.MISSING, f"gpu{n} (127.0.1.{n % 250}:22): connection refused")
        for n in range(1000)
        for c in range(3)
    ]
    lines = summary_lines(run_of(*gone))
    assert lines[0] == "MISSING 3 checks on gpu[0-999] (level admit)"
    assert "connection refused" in lines[1]
    assert len(lines) == 4


def test_many_gpus_of_one_cause_are_a_range() -> None:
    """Many failures of one rule are told as how many GPUs, from which value to which."""
    lines = summary_lines(run_of(*(failed(f"gpu{n}", measured=1.0 + n / 10) for n in range(10))))
    assert lines[0] == "FAIL thermal.headroom on gpu[0-9] (level admit)"
    assert "10 GPUs: headroom is 1 to 1.9 C: has to be at least 5 C" in lines[1]


def test_worst_comes_first() -> None:
    """FAIL stands before ERROR, MISSING, WAIVED and marginal."""
    heads = [line.split()[0] for line in summary_lines(every_outcome()) if not line.startswith(" ")]
    assert heads[:5] == ["FAIL", "ERROR", "MISSING", "WAIVED", "marginal"]


def test_waiver_is_told() -> None:
    """A waived cell says what was waived, by whom, until when."""
    assert "FAIL waived until 2031-01-02 by Ada (OPS-7): fan on order" in summary_lines(run_of(waived("gpu1")))[0]


def test_terminal_is_safe() -> None:
    """What a node said cannot move the cursor or turn the text around."""
    text = "\n".join(summary_lines(every_outcome()))
    assert "\\x1b[31m" in text
    assert not set(text) & {"\x1b", "\u202e", "\ud800"}


def test_partial_and_empty_runs_say_so() -> None:
    """A partial run says why the gate holds on it, and a run without a host why there is none."""
    assert any("-k selected less" in line for line in
               summary_lines(run_of(passed("gpu0"), scope="partial", partial_because="-k selected less")))  # fmt: skip
    assert summary_lines(run_of(scope="partial", partial_because="no such group")) == [
        "no host was judged: no such group"
    ]


def test_fold_takes_any_name() -> None:
    """Ranges fold, and a name that is no plain one is listed as it is, safely."""
    assert fold(["gpu10", "gpu2", "gpu3"]) == "gpu[2-3,10]"
    assert fold(["node[1]", "gpu0\x1b"]) == "gpu0\\x1b, node[1]"
