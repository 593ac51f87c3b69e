"""The summary at the end of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from ClusterShell.NodeSet import NodeSet
from gpugate.errors import EvidenceError, NotGathered
from gpugate.report import HostReport, Times, summary_lines, times_of
from gpugate.report.terminal import CAUSES
from gpugate.report.text import fold, shortened
from gpugate.verdict import Gathered, Outcome
from healthy import healthy
from runs import STARTED, every_outcome, failed, passed, run_of, waived, without


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
    assert lines[0] == "MISSING 3 checks on gpu[0-999] (1000 hosts, level admit)"
    assert "connection refused" in lines[1]
    assert len(lines) == 4


REASONS = [
    "{host} ({host}:22) did not answer at all within 10 s (connect)",
    "{host} (10.1.{a}.{b}) cannot be reached: [Errno 111] Connect call failed ('10.1.{a}.{b}', 22)",
    "{host} (node-{b}.rack{a}.example:2222) refuses our login: Permission denied for admin on node-{b}.rack{a}.example",
    "{host} (2001:db8::{a}:{b}) cannot be reached: no route to 2001:db8::{a}:{b}",
    "{host} (10.1.{a}.{b}:22) cannot be reached: the jump host bastion-1.example cannot be reached: timed out",
    "the jump host bastion-1.example cannot be reached: [Errno 113] No route to host",
    "{host} (h:22) shows a host key that known_hosts does not hold: SHA256:{a}x{b}/+u9T",
]


@pytest.mark.parametrize("reason", REASONS)
def test_addresses_do_not_make_causes(reason: str) -> None:
    """Reasons that differ by host name, address, port and fingerprint alone are one cause."""
    told = [reason.format(host=f"gpu{n:03d}", a=n // 7, b=n) for n in range(1, 31)]
    lines = summary_lines(run_of(*(without(f"gpu{n:03d}", "a.b", Outcome.MISSING, told[n - 1]) for n in range(1, 31))))
    assert lines[0] == "MISSING a.b on gpu[001-030] (30 hosts, level admit)"
    assert told[0] in lines[1]
    assert ("(as gpu001 says it)" in lines[1]) == ("{" in reason)
    assert lines[2].startswith("30 hosts")


def test_jump_hosts_stay_apart() -> None:
    """Hosts behind two jump hosts that are down have two causes, however alike the jump hosts' names are."""
    gone = [
        without(f"gpu{n}", "a.b", Outcome.MISSING, f"the jump host 10.0.0.{1 + n % 2} cannot be reached: timed out")
        for n in range(10)
    ]
    lines = summary_lines(run_of(*gone))
    assert [line for line in lines if line.startswith("MISSING")] == [
        "MISSING a.b on gpu[0,2,4,6,8] (5 hosts, level admit)",
        "MISSING a.b on gpu[1,3,5,7,9] (5 hosts, level admit)",
    ]


def test_many_gpus_of_one_cause_are_a_range() -> None:
    """Many failures of one rule are told as how many GPUs, from which value to which."""
    lines = summary_lines(run_of(*(failed(f"gpu{n}", measured=1.0 + n / 10) for n in range(10))))
    assert lines[0] == "FAIL thermal.headroom on gpu[0-9] (10 hosts, level admit)"
    assert "10 GPUs: headroom is 1 to 1.9 C: has to be at least 5 C" in lines[1]


def test_worst_comes_first() -> None:
    """FAIL stands before ERROR, MISSING, WAIVED and marginal."""
    heads = [line.split()[0] for line in summary_lines(every_outcome()) if not line.startswith(" ")]
    assert heads[:5] == ["FAIL", "ERROR", "MISSING", "WAIVED", "marginal"]


def test_what_may_evict_comes_first_and_more_hosts_before_fewer() -> None:
    """A FAIL at level evict stands first though fewer hosts have it; among the others the one of most hosts."""
    others = [failed(f"gpu{n}", check) for check, hosts in (("a.few", 2), ("a.many", 9)) for n in range(hosts)]
    lines = summary_lines(run_of(*others, replace(failed("gpu1", "z.worst"), level="evict")))
    heads = [line.split()[1] for line in lines if line.startswith("FAIL")]
    assert heads == ["z.worst", "a.many", "a.few"]


def test_many_causes_are_counted_not_listed() -> None:
    """Above so many causes, the others are one sentence that says how many, on whom and where; each kind is told."""
    red = [failed("gpu1", f"a.c{n}") for n in range(100)]
    lines = summary_lines(run_of(*red, without("gpu2", "a.c1", Outcome.MISSING, "gone")), Path("reports/runs/x"))
    heads = [line.split()[0] for line in lines if line.startswith(("FAIL", "MISSING"))]
    assert heads == ["FAIL"] * (CAUSES - 1) + ["MISSING"]
    assert f"{101 - CAUSES} more causes ({101 - CAUSES} FAIL) on gpu1: they stand in reports/runs/x/junit.xml" in lines


def test_lines_have_a_bound() -> None:
    """Thousands of hosts without a pattern, and values and reasons of any length, make no endless line."""
    names = [f"h{n * 7919 % 100003}-{n * 104729 % 99991}" for n in range(3000)]
    cells = [without(name, "a.b", Outcome.ERROR, "no " * 5000) for name in names]
    cells += [failed(name, "a.c", measured="x" * 3000 + name) for name in names]  # type: ignore[arg-type]  # a text
    lines = summary_lines(run_of(*cells))
    assert max(map(len, lines)) < 1000
    assert "(3000 hosts, level admit)" in lines[0]
    assert "and 2996 others" in lines[1]


def test_bounds_that_differ_are_each_told() -> None:
    """Where hosts of one cause have bounds of their own, the sentence does not give one host's bound to all."""
    cells = [failed(f"gpu{n}", measured=1.0) for n in range(6)]
    stricter = [f._replace(rule="at least 8 C") for f in cells[0].findings]
    lines = summary_lines(run_of(*cells, replace(failed("gpu7"), findings=tuple(stricter))))
    assert "has to be at least 5 C, at least 8 C [" in lines[1]


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


FLEETS = {
    "one number": [f"gpu{n:03d}" for n in range(1, 129)],
    "racks": [f"r{n // 40:02d}-gpu{n % 40}.dc1" for n in range(400) if n != 77],
    "addresses": [f"10.0.{n // 250}.{n % 250}" for n in range(1000)],
    "widths": ["n1", "n01", "n001", "n2", "n10", "n9", "n09", "login", "n"],
    "no pattern": [f"h{n * 7919 % 1009}-{n * 104729 % 997}" for n in range(300)],
}


@pytest.mark.parametrize("names", FLEETS.values(), ids=FLEETS)
def test_ranges_mean_the_same_hosts_to_clustershell(names: list[str]) -> None:
    """What stands folded can be given to ClusterShell, and means exactly these hosts."""
    assert sorted(NodeSet(fold(names))) == sorted(names)


def test_ranges_fold_over_every_number() -> None:
    """Whole racks are one range of racks."""
    assert fold(f"r{n // 40:03d}-gpu{n % 40:02d}" for n in range(1000)) == "r[000-024]-gpu[00-39]"


def test_shortened_keeps_ranges_whole() -> None:
    """A text that is too long ends at a comma, says so, and closes the bracket it opened."""
    assert shortened("gpu[1,3,5,7,9,11,13,15]", 18) == "gpu[1,3,5,7,9,...]"
    assert shortened("gpu[1,3]", 18) == "gpu[1,3]"


def gathered(host: str, took: float, probe: float | None = None) -> Gathered:
    """A host that was asked 2 s after the gather's start and answered, or was given up, after `took` seconds."""
    asked = STARTED.timestamp() + 2
    evidence = replace(healthy(host), duration_s=probe) if probe is not None else None
    return Gathered(host, evidence, None if evidence else NotGathered("gone"), "ab", asked, asked + took)


def test_slowest_hosts_are_named() -> None:
    """The summary says how long the gather took and who was slowest, with the probe's part where there is one."""
    times = [gathered("gpu1", 3, 2.5), gathered("gpu2", 40.9, 39.8), gathered("gpu3", 20), gathered("gpu4", 1, 0.5)]
    hosts = [HostReport(each.host, {}, [passed(each.host)], times_of(each)) for each in times]
    assert (
        "gathering took 42.9 s; slowest: gpu2 40.9 s (of it the probe 39.8 s), gpu3 20.0 s (no evidence), "
        "gpu1 3.0 s (of it the probe 2.5 s)"
    ) in summary_lines(run_of(hosts=hosts))


def test_times_that_nobody_measured_are_not_told() -> None:
    """Documents without receipts, and a clock that went back, have no gather time; nothing is made up."""
    elsewhere = times_of(Gathered("gpu1", healthy("gpu1"), None))
    assert elsewhere == Times(probe_s=healthy().duration_s)
    back = times_of(Gathered("gpu1", None, EvidenceError("broken"), "ab", 100.0, 99.0))
    assert back == Times()
    assert not any("slowest" in line for line in
                   summary_lines(run_of(hosts=[HostReport("gpu1", {}, [passed("gpu1")], elsewhere)])))  # fmt: skip
