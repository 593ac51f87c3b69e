"""From report to carried out: the gate over real reports, policies and a state file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from gpugate.admission import (
    Action,
    Audit,
    Carried,
    Decision,
    Memory,
    Node,
    Present,
    Standing,
    StateFile,
    carry,
    present_from,
)
from gpugate.errors import AdmissionError
from gpugate.report import HostReport
from gpugate.report.reader import Report, parse_report
from gpugate.state.store import Store
from gpugate.verdict import Outcome, Verdict
from healthy import policy
from runs import failed, passed, run_of, without, written

NOW = datetime.now().astimezone()
POLICY = policy(checks={"thermal.headroom": "evict"})
PRESENT = Present("m-1", "b-1", frozenset({"GPU-gpu0"}))
IDENTITY = {"machine_id": "m-1", "boot_id": "b-1", "policy_digest": POLICY.digest,
            "measured_unix_s": f"{NOW.timestamp() - 60:.3f}"}  # fmt: skip


_RUNS = count(1)


def report_on(*hosts: str, red: dict[str, Verdict] | None = None, started: datetime | None = None) -> Report:
    """A report, written and read back, in which every expected check of the hosts passes but for `red`."""
    reports = []
    for host in hosts:
        verdicts = {check: passed(host, check) for check in POLICY.expected("admission")}
        if red and host in red:
            verdicts[red[host].check] = red[host]
        reports.append(HostReport(host, IDENTITY | {"gpu_uuids": f"GPU-{host}"}, list(verdicts.values())))
    started = started or NOW - timedelta(minutes=2)
    made = next(_RUNS)
    return parse_report(written(run_of(hosts=reports, started=started, run_id=f"20260301T{made:012d}Z-abcdef")))


def nodes(*hosts: str, **changes: Present) -> list[Node]:
    """The nodes asked about, all of them what the report says unless changed."""
    same = {host: replace(PRESENT, gpu_uuids=frozenset({f"GPU-{host}"})) for host in hosts}
    return [Node(host, POLICY, changes.get(host, same[host])) for host in hosts]


def run_gate(
    folder: Path, report: Report, asked: list[Node], *, check: bool = False, approved: str = "", now: datetime = NOW
) -> Carried:
    """One run with a state file in `folder`."""
    audit = folder / "audit.jsonl"
    backend = StateFile(folder / "state.json", audit, by="ada", run_id=report.run_id, report_sha256=report.sha256)
    return carry(
        report, asked, backend, Audit(audit, report, "ada"), memory(folder, check), now, approved=approved, check=check
    )


def memory(folder: Path, look_only: bool = False) -> Memory:
    """What the gate remembers in `folder`."""
    return Memory(Store(folder / "gpugate.sqlite"), look_only=look_only)


def actions(carried: Carried) -> dict[str, Action]:
    """What was decided, by host."""
    return {each.host: each.action for each in carried.decisions}


def test_green_comes_in_and_stays(tmp_path: Path) -> None:
    """Green nodes are admitted once, and stay in when the gate runs again; strangers in the report are ignored."""
    report = report_on("gpu0", "gpu1", "gpu9")
    first = run_gate(tmp_path, report, nodes("gpu0", "gpu1"))
    second = run_gate(tmp_path, report, nodes("gpu0", "gpu1"))
    assert actions(first) == {"gpu0": Action.ADMIT, "gpu1": Action.ADMIT}
    assert actions(second) == {"gpu0": Action.KEEP, "gpu1": Action.KEEP}
    assert (len(first.changed), len(second.changed)) == (2, 0)


def test_red_is_refused_or_removed(tmp_path: Path) -> None:
    """A red node stays outside, a node inside leaves for a FAIL that may evict, and the line says why."""
    run_gate(tmp_path, report_on("gpu0", "gpu1"), nodes("gpu0"))
    red = {"gpu0": failed("gpu0"), "gpu1": failed("gpu1")}
    carried = run_gate(tmp_path, report_on("gpu0", "gpu1", red=red), nodes("gpu0", "gpu1"))
    assert actions(carried) == {"gpu0": Action.REMOVE, "gpu1": Action.STAY_OUT}
    assert carried.lines[0].startswith("gpu0  removed: thermal.headroom FAIL: GPU 1")
    for part in ("refused", "GPU 1", "1.5 C", "at least 5 C", "cooling"):
        assert part in carried.lines[1]
    assert carried.refused == ["gpu0", "gpu1"]


def test_node_that_is_down_stays_in_service(tmp_path: Path) -> None:
    """A node inside that cannot be reached now, or is MISSING from the report, is held, not removed."""
    run_gate(tmp_path, report_on("gpu0", "gpu1"), nodes("gpu0", "gpu1"))
    red = {"gpu0": without("gpu0", "errors.ecc", Outcome.MISSING, "connection refused")}
    carried = run_gate(
        tmp_path, report_on("gpu0", red=red), nodes("gpu0", "gpu1", gpu0=Present(problem="connection refused"))
    )
    assert actions(carried) == {"gpu0": Action.HOLD, "gpu1": Action.HOLD}
    assert carried.changed == []


@pytest.mark.parametrize("inside", [(), ("gpu0", "gpu1")])
@pytest.mark.parametrize("asked", [("gpu0", "gpu1"), ("gpu1",)])
def test_one_machine_under_two_names(tmp_path: Path, asked: tuple[str, ...], inside: tuple[str, ...]) -> None:
    """Two hosts with the same GPUs are one machine that answers twice: nobody saw the other, so neither is trusted."""
    good = report_on("gpu0", "gpu1")
    run_gate(tmp_path, good, nodes(*inside))
    good.hosts["gpu1"].identity.update(good.hosts["gpu0"].identity)
    carried = run_gate(tmp_path, good, nodes(*asked, gpu1=PRESENT))
    assert set(actions(carried).values()) == {Action.HOLD if inside else Action.STAY_OUT}
    assert "gpu0 has the same GPUs" in carried.lines[-1]


def test_check_mode_changes_nothing(tmp_path: Path) -> None:
    """Check mode says what would be done, and leaves no file; then it is done."""
    report = report_on("gpu0")
    would = run_gate(tmp_path, report, nodes("gpu0"), check=True)
    assert list(tmp_path.iterdir()) == []
    assert would.lines[0].startswith("gpu0  would be admitted: all")
    assert (would.states(after=False), would.states(after=True)) == ("gpu0: out of service\n", "gpu0: in service\n")
    assert run_gate(tmp_path, report, nodes("gpu0")).lines[0].startswith("gpu0  admitted: all")


def test_observed_site_is_left_alone(tmp_path: Path) -> None:
    """Under a policy that observes, a green node is not admitted, and the line says that it would be."""
    observing = policy(level="observe")
    report = report_on("gpu0")
    suite = report.hosts["gpu0"]
    suite.identity["policy_digest"] = observing.digest
    carried = run_gate(tmp_path, report, [Node("gpu0", observing, PRESENT)])
    assert "observed (would be admitted)" in carried.lines[0]
    assert carried.changed == []


class Broken:
    """A back end that cannot tell about gpu1 and cannot do anything to gpu2."""

    def standings(self, hosts: Sequence[str]) -> dict[str, Standing | AdmissionError]:
        return {host: AdmissionError("gpu1: no answer") if host == "gpu1" else Standing(False) for host in hosts}

    def tell(self, decisions: Sequence[Decision]) -> dict[str, AdmissionError]:
        return {}

    def begin(self) -> None:
        pass

    def carry_out(self, decisions: Sequence[Decision]) -> dict[str, AdmissionError | None]:
        return {each.host: AdmissionError("gpu2: locked") if each.host == "gpu2" else None for each in decisions}


def test_back_end_that_fails_for_some(tmp_path: Path) -> None:
    """What a back end cannot tell or do for one host is said of that host, and counts as not done; others go on."""
    report = report_on("gpu0", "gpu1", "gpu2")
    audit = Audit(tmp_path / "a", report, "ada")
    carried = carry(report, nodes("gpu0", "gpu1", "gpu2"), Broken(), audit, memory(tmp_path), NOW)
    assert actions(carried) == {"gpu0": Action.ADMIT, "gpu1": Action.HOLD, "gpu2": Action.ADMIT}
    assert set(carried.problems) == {"gpu1", "gpu2"}
    assert [each.host for each in carried.changed] == ["gpu0"]
    assert any(line.startswith("gpu2  NOT DONE: gpu2: locked") for line in carried.lines)
    assert '"failed"' in (tmp_path / "a").read_text()


def test_reasons_cannot_write_to_the_terminal() -> None:
    """Whatever a report's texts hold is one line, with its unsafe characters shown."""
    decision = Decision("gpu0", Action.STAY_OUT, ("red\u202e\nadmitted: \x9b2J",), Standing(False))
    assert Carried([decision], check=False).lines == ["gpu0  refused: red\\u202e admitted: \\x9b2J"]


def test_without_an_audit_nothing_is_done(tmp_path: Path) -> None:
    """Where the audit cannot be written, no node is admitted."""
    report = report_on("gpu0")
    (tmp_path / "file").write_text("")
    backend = StateFile(tmp_path / "state.json", tmp_path / "no", by="ada", run_id="r", report_sha256="s")
    with pytest.raises(AdmissionError, match="audit"):
        carry(report, nodes("gpu0"), backend, Audit(tmp_path / "file" / "a", report, "ada"), memory(tmp_path), NOW)
    again = StateFile(tmp_path / "state.json", tmp_path / "no", by="ada", run_id="r", report_sha256="s")
    assert again.standings(["gpu0"]) == {"gpu0": Standing(False)}


GAP = {"unavailable": "GPU is lost", "code": "NVML 15"}
KNOWN = {"machine_id": "m-1", "boot_id": "b-1", "gpu_uuids": ["GPU-gpu0"], "hostname": "x"}


@pytest.mark.parametrize(
    ("answer", "expected", "problem"),
    [
        ({"identity": KNOWN}, PRESENT, ""),
        ({"identity": KNOWN | {"boot_id": GAP}}, Present("m-1", None, frozenset({"GPU-gpu0"})), "boot_id: GPU is lost"),
        ({"identity": KNOWN | {"gpu_uuids": GAP}}, Present("m-1", "b-1", None), "GPUs: GPU is lost"),
        ({"identity": KNOWN | {"gpu_uuids": ["GPU-a", GAP]}}, Present("m-1", "b-1", None), "GPUs: GPU is lost"),
        ({"identity": KNOWN | {"gpu_uuids": ["GPU-a", "GPU-a"]}}, Present("m-1", "b-1", None), "did not tell"),
        ({"identity": KNOWN | {"gpu_uuids": []}}, Present("m-1", "b-1", None), "did not tell"),
        ({"identity": KNOWN | {"gpu_uuids": "GPU-a"}}, Present("m-1", "b-1", None), "did not tell"),
        ({"identity": KNOWN | {"driver": "580.1"}}, replace(PRESENT, driver="580.1"), ""),
        ({"identity": KNOWN | {"driver": GAP}}, replace(PRESENT, driver=None), "driver: GPU is lost"),
        ({"identity": {}}, Present(), "did not tell"),
        ({"identity": None}, Present(), "did not tell"),
        ({"identity": KNOWN, "failed": True, "msg": "no probe"}, Present(), "no probe"),
        ({"unreachable": True, "msg": "refused\x1b"}, Present(), "cannot be reached: refused\\x1b"),
        (None, Present(), "was not asked"),
    ],
)
def test_what_a_node_answers(answer: Any, expected: Present, problem: str) -> None:
    """Of a node's answer only what is a fact counts; the rest is unknown, with its reason."""
    present = present_from(answer)
    assert replace(present, problem="") == expected
    assert problem in present.problem
    assert bool(present.problem) == bool(problem)


def many(number: int) -> list[str]:
    """gpu0, gpu1, ..."""
    return [f"gpu{n}" for n in range(number)]


def test_breaker_stops_all_removals(tmp_path: Path) -> None:
    """A real fault on 60% of the nodes removes none, says so in one sentence, and goes on by a person's word for it."""
    hosts = many(20)
    run_gate(tmp_path, report_on(*hosts), nodes(*hosts))
    bad = report_on(*hosts, red={host: failed(host) for host in hosts[:12]})
    held = run_gate(tmp_path, bad, nodes(*hosts))
    assert Counter(each.action for each in held.decisions) == {Action.HOLD: 12, Action.KEEP: 8}
    assert held.changed == []
    assert held.tripped.startswith("NO NODE WAS REMOVED: 12 nodes for thermal.headroom, and 2 of 20 nodes may")
    assert held.alerts == [
        "ALERT: 12 nodes held: gpu[0-11]: would be removed, but too many nodes would be removed at once"
    ]
    assert '"stopped"' in (tmp_path / "audit.jsonl").read_text()
    wanted = run_gate(tmp_path, bad, nodes(*hosts), approved=bad.run_id)
    assert (len(wanted.changed), wanted.tripped) == (12, "")
    other = run_gate(tmp_path, report_on(*hosts), nodes(*hosts), approved=bad.run_id)
    assert other.changed == []


def test_removals_drop_by_drop(tmp_path: Path) -> None:
    """Runs that each remove a few nodes are counted together: the breaker is not tricked by patience or --limit."""
    hosts = many(20)
    run_gate(tmp_path, report_on(*hosts), nodes(*hosts))
    for n in range(3):
        red = report_on(*hosts, red={hosts[n]: failed(hosts[n])})
        last = run_gate(tmp_path, red, nodes(hosts[n]))
    assert actions(last) == {"gpu2": Action.HOLD}
    assert "3 nodes for thermal.headroom, and 2 of 20 nodes may" in last.tripped


def test_jump_host_down(tmp_path: Path) -> None:
    """Thirty of a hundred nodes behind a dead jump host are thirty alerts in one sentence, and none is removed."""
    hosts = many(100)
    run_gate(tmp_path, report_on(*hosts), nodes(*hosts))
    gone = hosts[70:]
    red = {host: without(host, "errors.ecc", Outcome.MISSING, "jump host b2 cannot be reached") for host in gone}
    lost = {host: Present(problem="jump host b2 cannot be reached") for host in gone}
    carried = run_gate(tmp_path, report_on(*hosts, red=red), nodes(*hosts, **lost))
    assert Counter(each.action for each in carried.decisions) == {Action.KEEP: 70, Action.HOLD: 30}
    assert (carried.changed, carried.tripped) == ([], "")
    assert carried.alerts == [
        "ALERT: 30 nodes held: gpu[70-99]: errors.ecc MISSING: jump host b2 cannot be reached; next: "
        "run the checks again"
    ]


def test_a_green_from_before_the_removal(tmp_path: Path) -> None:
    """An older green report does not bring a removed node back, nor does one green alone; two new ones do."""
    before = report_on("gpu0")
    run_gate(tmp_path, before, nodes("gpu0"))
    run_gate(tmp_path, report_on("gpu0", red={"gpu0": failed("gpu0")}), nodes("gpu0"))
    again = run_gate(tmp_path, before, nodes("gpu0"))
    assert actions(again) == {"gpu0": Action.STAY_OUT}
    assert "decided on by a newer report already" in " ".join(again.decisions[0].reasons)
    later = NOW + timedelta(minutes=5)
    first, second = (report_on("gpu0", started=later - timedelta(minutes=n)) for n in (2, 1))
    assert actions(run_gate(tmp_path, first, nodes("gpu0"), now=later)) == {"gpu0": Action.STAY_OUT}
    assert actions(run_gate(tmp_path, first, nodes("gpu0"), now=later)) == {"gpu0": Action.STAY_OUT}
    assert actions(run_gate(tmp_path, second, nodes("gpu0"), now=later)) == {"gpu0": Action.ADMIT}


def test_a_lost_store_decides_on_nobody(tmp_path: Path) -> None:
    """Where the audit has decisions and the state store has none, that was lost: nobody is admitted or removed."""
    run_gate(tmp_path, report_on("gpu0"), nodes("gpu0"))
    run_gate(tmp_path, report_on("gpu0", red={"gpu0": failed("gpu0")}), nodes("gpu0"))
    (tmp_path / "gpugate.sqlite").unlink()
    later = NOW + timedelta(minutes=5)
    with pytest.raises(AdmissionError, match="knows of no node, and its audit"):
        run_gate(tmp_path, report_on("gpu0", started=later), nodes("gpu0"), now=later)
    (tmp_path / "audit.jsonl").rename(tmp_path / "audit.old")
    begun = run_gate(tmp_path, report_on("gpu0", started=later), nodes("gpu0"), now=later)
    assert actions(begun) == {"gpu0": Action.STAY_OUT}  # the state file says that it was removed


def test_many_nodes_share_their_lines(tmp_path: Path) -> None:
    """Nodes with one cause are one line as soon as there are many."""
    hosts = many(40)
    carried = run_gate(tmp_path, report_on(*hosts, red={"gpu7": failed("gpu7")}), nodes(*hosts))
    assert carried.lines[0].startswith("gpu[0-6,8-39]")
    assert "admitted: all" in carried.lines[0]
    assert carried.lines[1].startswith("gpu7 ")
