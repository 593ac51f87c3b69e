"""What Prometheus is told of the gate, and when it is told nothing."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml
from desk import HOSTS, Desk, fresh, gpugate
from gpugate.cli.metrics import exposition
from gpugate.report import HostReport, new_run_id
from gpugate.report import Store as Reports
from gpugate.verdict import Outcome
from prometheus_client.parser import text_string_to_metric_families
from runs import failed, run_of, without

Capture = pytest.CaptureFixture[str]
Samples = dict[tuple[str, str], float]
RULES = Path(__file__).parents[2] / "deploy/prometheus/gpugate.rules.yml"
COMPLETE = "gpugate_last_complete_run_timestamp_seconds"


@pytest.fixture(name="desk")
def _desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return fresh(tmp_path, monkeypatch)


def samples(document: str) -> Samples:
    """Every sample by its name and its labels' values, as a stranger reads them."""
    return {
        (sample.name, ",".join(sample.labels[key] for key in sorted(sample.labels, reverse=True))): sample.value
        for family in text_string_to_metric_families(document)
        for sample in family.samples
    }


def metrics(desk: Desk, capsys: Capture) -> Samples:
    """What is on standard output."""
    code, said = gpugate(capsys, "metrics")
    assert code == 0, said
    return samples(said)


def started(run_id: str) -> float:
    """When a run was begun, from its id."""
    return datetime.strptime(f"{run_id[:22]}+0000", "%Y%m%dT%H%M%S%fZ%z").timestamp()


def test_a_fleet(desk: Desk, capsys: Capture) -> None:
    """Runs, decisions, each node's state and action, how long it is out and whose word it is under are there."""
    desk.inventory({host: {} for host in (*HOSTS, "gpu3")})
    desk.report(ago=timedelta(minutes=9))
    desk.gate()
    run = desk.report(failed("gpu0"), without("gpu1", "errors.ecc", Outcome.MISSING, "silent"))
    desk.gate()
    gpugate(capsys, "hold", "gpu2", "--until=+1h", "--ticket=t", "--why=w")
    now = datetime.now().timestamp()
    found = metrics(desk, capsys)
    assert found[COMPLETE, "admission"] == pytest.approx(started(run))
    assert found["gpugate_last_decision_timestamp_seconds", ""] == pytest.approx(now, abs=600)
    states = {labels: value for (name, labels), value in found.items() if name == "gpugate_nodes"}
    assert states == {"in_service": 2, "removed": 1, "kept_out": 0, "out": 0, "unknown": 0, "undecided": 1}
    actions = {labels for name, labels in found if name == "gpugate_node_state"}
    assert actions == {"gpu0,remove", "gpu1,hold", "gpu2,keep", "gpu3,undecided"}
    assert 0 <= found["gpugate_node_out_seconds", "gpu0"] < 600
    assert found["gpugate_word_until_timestamp_seconds", "hold,gpu2"] == pytest.approx(now + 3600, abs=600)
    assert found["gpugate_removals_stopped", ""] == 0


def test_a_run_over_a_few_nodes_is_not_complete(desk: Desk, capsys: Capture) -> None:
    """The last complete run is the oldest among the nodes' newest: a look at one node hides nobody's silence."""
    whole = desk.report(ago=timedelta(days=2))
    desk.report(hosts=("gpu0", "gpu1"), ago=timedelta(hours=1))
    desk.gate()
    assert metrics(desk, capsys)[COMPLETE, "admission"] == pytest.approx(started(whole))
    other = desk.report(hosts=("gpu2",), ago=timedelta(hours=2))
    assert metrics(desk, capsys)[COMPLETE, "admission"] == pytest.approx(started(other))


def test_a_new_node_makes_no_run_incomplete(desk: Desk, capsys: Capture) -> None:
    """A node that was never in a whole run is undecided, and no alarm."""
    run = desk.report()
    desk.gate()
    desk.inventory({host: {} for host in (*HOSTS, "new")})
    found = metrics(desk, capsys)
    assert found[COMPLETE, "admission"] == pytest.approx(started(run))
    assert found["gpugate_node_state", "new,undecided"] == 1


def test_a_profile_without_a_run_has_no_time(desk: Desk, capsys: Capture) -> None:
    """There is a time for each profile that was run, and none for the others."""
    admission = desk.report(ago=timedelta(hours=9))
    desk.gate()
    nightly = desk.report(profile="nightly")
    found = {key: value for key, value in metrics(desk, capsys).items() if key[0] == COMPLETE}
    assert found == pytest.approx(
        {(COMPLETE, "admission"): started(admission), (COMPLETE, "nightly"): started(nightly)}
    )


def test_a_run_that_measured_nobody_is_none(desk: Desk, capsys: Capture) -> None:
    """A whole report in which no node at all answered is no complete run."""
    run = desk.report(ago=timedelta(hours=30))
    desk.gate()
    at = datetime.now().astimezone()
    silent = [HostReport(host, {}, [without(host, "errors.ecc", Outcome.MISSING, "refused")]) for host in HOSTS]
    Reports(desk.folder / "reports").write(run_of(hosts=silent, started=at, run_id=new_run_id(at)))
    assert metrics(desk, capsys)[COMPLETE, "admission"] == pytest.approx(started(run))


def test_partial_runs_do_not_count(desk: Desk, capsys: Capture) -> None:
    """A partial run is no complete one."""
    run = desk.report(ago=timedelta(hours=30))
    desk.gate()
    desk.report(scope="partial", partial_because="-k ecc")
    assert metrics(desk, capsys)[COMPLETE, "admission"] == pytest.approx(started(run))


def test_removals_that_were_stopped(desk: Desk, capsys: Capture) -> None:
    """Nodes that the breaker kept in are counted until they are decided on again."""
    desk.report(ago=timedelta(minutes=9))
    desk.gate()
    desk.report(*(failed(host) for host in HOSTS), ago=timedelta(minutes=8))
    assert desk.gate().tripped
    assert metrics(desk, capsys)["gpugate_removals_stopped", ""] == 3
    desk.report()
    desk.gate()
    assert metrics(desk, capsys)["gpugate_removals_stopped", ""] == 0


def spoil(desk: Desk, what: str) -> None:
    """Make something unreadable or untrue."""
    state, newest = desk.folder / "state", desk.folder / "reports/latest"
    if what == "no store":
        (state / "gpugate.sqlite").unlink()
    elif what == "store":
        (state / "gpugate.sqlite").write_text("scribble" * 1000)
    elif what == "audit":
        (state / "admission.audit.jsonl").unlink()
        (state / "admission.audit.jsonl").mkdir()
    elif what == "no runs":
        (desk.folder / "reports").rename(desk.folder / "gone")
    elif what == "manifest":
        (newest / "run.json").write_text("{")
    elif what == "report":
        (newest / "junit.xml").write_text("<testsuites/>")
    elif what == "no report":
        (newest / "junit.xml").unlink()
    elif what == "another's place":
        newest.resolve().rename(newest.resolve().with_name(new_run_id(datetime.now().astimezone())))
    else:
        desk.report(ago=-timedelta(hours=3))


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("no store", "there is no state store at"),
        ("store", "is corrupt"),
        ("audit", "the audit .* cannot be read"),
        ("no runs", "no runs can be read in reports/runs"),
        ("manifest", "cannot be read .*: move it out of there"),
        ("report", "was changed since it was written"),
        ("no report", "the report of the run in .* cannot be read"),
        ("another's place", "holds the whole run"),
        ("clock", "began in the future .*: look at the clocks"),
    ],
)
def test_what_cannot_be_read_makes_no_file(desk: Desk, capsys: Capture, what: str, told: str) -> None:
    """It exits non-zero with the reason, and leaves the old file as it was, to grow old."""
    desk.report()
    desk.gate()
    (desk.folder / "textfile").mkdir()
    output = desk.folder / "textfile/gpugate.prom"
    assert gpugate(capsys, "metrics", f"--output={output}") == (0, "")
    before = output.read_bytes()
    spoil(desk, what)
    code, said = gpugate(capsys, "metrics", f"--output={output}")
    assert code == 2
    assert re.search(told, said)
    assert output.read_bytes() == before
    assert [each.name for each in output.parent.iterdir()] == ["gpugate.prom"]


def test_the_file_is_for_everybody_to_read(desk: Desk, capsys: Capture) -> None:
    """node_exporter, who is another user, can read what is written; it takes the place of the old file in one step."""
    desk.report()
    desk.gate()
    output = desk.folder / "gpugate.prom"
    output.write_text("old")
    old = output.stat().st_ino
    assert gpugate(capsys, "metrics", f"--output={output}")[0] == 0
    assert output.stat().st_mode & 0o444 == 0o444
    assert output.stat().st_ino != old
    assert samples(output.read_text())[COMPLETE, "admission"] > 0


def test_rules_ask_for_what_is_written() -> None:
    """Every metric and every action that an alert asks for is one that there is."""
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    asked = {name for rule in rules for name in re.findall(r"gpugate_\w+", rule["expr"])}
    told = exposition(["gpu0"], {}, {}, {}, datetime.now().astimezone()).decode()
    assert asked
    assert asked <= set(re.findall(r"^# TYPE (\w+) gauge$", told, re.MULTILINE)) | {
        "gpugate_last_decision_timestamp_seconds"
    }
    actions = {action for rule in rules for action in re.findall(r'action="(\w+)"', rule["expr"])}
    assert actions == {"suspect", "hold"}
