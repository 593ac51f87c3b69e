"""The JUnit writer: what stands in the report, and that it is the same every time."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree

import junit_xml
import pytest
from defusedxml.ElementTree import fromstring
from gpugate.errors import ReportError
from gpugate.report import HostReport, Store, new_run_id, summary_lines
from gpugate.report.aside import Cases, Kept
from gpugate.report.junit import by_library, case_name, case_xml
from gpugate.report.text import one_line
from gpugate.verdict import Outcome, Verdict
from hypothesis import given
from hypothesis import strategies as st
from runs import STARTED, every_outcome, failed, finding, passed, run_of, waived, without, written


def case(document: bytes, name: str) -> ElementTree.Element:
    """The one testcase of a name."""
    [found] = [each for each in fromstring(document).iter("testcase") if each.get("name") == name]
    return found


def test_each_outcome_has_its_element() -> None:
    """PASS has no child of its own, FAIL a failure, ERROR and MISSING an error of that type, WAIVED a skipped."""
    document = written(every_outcome())
    found = {}
    for each in fromstring(document).iter("testcase"):
        found[each.get("name")] = [(child.tag, child.get("type")) for child in each if child.tag != "system-out"]
    assert found == {
        "headroom[gpu0]": [],
        "margin[gpu0]": [],
        "xid[gpu0]": [("error", "ERROR")],
        "siblings[gpu1]": [("failure", "FAIL")],
        "headroom[gpu1]": [("skipped", "WAIVED")],
        "ecc[gpu1]": [("error", "MISSING")],
    }


@given(st.text(), st.text(), st.floats(0, 100), st.booleans())
def test_pass_is_written_as_the_library_writes_it(host: str, measured: str, seconds: float, marginal: bool) -> None:
    """The text of a PASS, which is put together without junit-xml, is junit-xml's own."""
    verdict = replace(passed(host), findings=(finding(0), finding(1, measured, marginal=marginal)), seconds=seconds)
    told = fromstring(case_xml(verdict)).findtext("system-out")
    family, name = case_name(one_line(host), verdict.check)
    assert case_xml(verdict) == by_library(junit_xml.TestCase(name, family, stdout=told, elapsed_sec=seconds))


@pytest.mark.parametrize("verdict", [verdict for host in every_outcome().hosts for verdict in host.verdicts])
def test_verdict_put_aside_is_reported_as_it_was(verdict: Verdict, tmp_path: Path) -> None:
    """A verdict whose findings were put into a file gives the same report and summary as before, and its file has no
    name; where nothing can be put aside, the verdict stays whole."""
    cases = Cases(tmp_path / "reports", waiting=0)
    for _ in range(2):  # the first is in the file by then, the second waits for it
        kept = cases.keep(verdict, case_xml(verdict))
        assert isinstance(kept, Kept)
        assert written(run := run_of(verdict)) == written(replace(run, hosts=[HostReport(verdict.host, {}, [kept])]))
        assert summary_lines(run_of(verdict)) == summary_lines(run_of(kept))
    assert cases.read(0, len(case_xml(verdict))) == case_xml(verdict)
    assert list((tmp_path / "reports").iterdir()) == []
    (tmp_path / "file").write_text("")
    assert Cases(tmp_path / "file", waiting=0).keep(verdict, case_xml(verdict)) is verdict


def test_verdict_that_is_lost_ends_the_report(tmp_path: Path) -> None:
    """A verdict that cannot be read back is an error of the report, and never left out of it."""
    cases = Cases(tmp_path, waiting=0)
    kept, _ = (cases.keep(passed("gpu0"), case_xml(passed("gpu0"))) for _ in range(2))
    cases.file.truncate(10)
    with pytest.raises(ReportError, match="put aside is not there any more"):
        Store(tmp_path).write(run_of(kept))
    assert not (tmp_path / "latest").exists()


def test_cells_have_unique_names() -> None:
    """Classname and name together tell every cell of every host apart, and the classname is the family."""
    cases = list(fromstring(written(every_outcome())).iter("testcase"))
    names = [(each.get("classname"), each.get("name")) for each in cases]
    assert len(set(names)) == len(names)
    assert ("checks.thermal", "headroom[gpu1]") in names


def test_failure_says_what_was_measured_and_what_to_do() -> None:
    """A failure's message and body name the GPU, the value, the bound, its origin and the next step."""
    failure = case(written(run_of(failed("gpu1"))), "headroom[gpu1]").find("failure")
    assert failure is not None
    for text in (failure.get("message"), failure.text):
        assert text is not None
        for part in ("GPU 1", "serial 1651", "1.5 C", "at least 5 C", "gpugate_headroom_c", "cooling"):
            assert part in text


def test_every_bad_gpu_is_in_the_body() -> None:
    """The body of a failure tells all findings outside their bounds, the message the first and how many more."""
    verdict = failed("gpu1")
    both = Verdict(
        "gpu1", verdict.check, Outcome.FAIL, "admit", (verdict.findings[1], failed("gpu1", measured=2.5).findings[1])
    )
    failure = case(written(run_of(both)), "headroom[gpu1]").find("failure")
    assert failure is not None
    assert "and 1 more" in failure.attrib["message"]
    assert "1.5 C" in str(failure.text)
    assert "2.5 C" in str(failure.text)


def test_waiver_says_who_answers() -> None:
    """A waived cell names who, why, ticket, last day, and the outcome that it covers."""
    skipped = case(written(run_of(waived("gpu1"))), "headroom[gpu1]").find("skipped")
    assert skipped is not None
    for part in ("Ada", "fan on order", "OPS-7", "2031-01-02", "without it FAIL"):
        assert part in skipped.attrib["message"]


def test_findings_of_a_pass_are_told() -> None:
    """A PASS tells each finding on a line, and a marginal one says so."""
    document = written(every_outcome())
    assert str(case(document, "headroom[gpu0]").findtext("system-out")).count("headroom is 12.5 C, ok") == 2
    assert str(case(document, "margin[gpu0]").findtext("system-out")).startswith("PASS (marginal)")


def test_red_without_a_sentence_stays_red() -> None:
    """An ERROR that gives no reason is still an error in the report."""
    element = case(written(run_of(Verdict("gpu0", "a.b", Outcome.ERROR, "admit"))), "b[gpu0]").find("error")
    assert element is not None
    assert element.get("message")


def test_unsafe_characters_are_shown_not_kept() -> None:
    """Control, surrogate and direction characters are written as escapes, in attributes and texts."""
    document = written(every_outcome()).decode()
    assert "\\x1b[31m, \\ud800 and \\u202e" in document
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", document)


def test_suite_carries_run_and_identity() -> None:
    """Each host is a suite with the run and the node's identity as properties, and its own counts."""
    run = every_outcome()
    suite = fromstring(written(run)).findall("testsuite")[1]
    found = {each.get("name"): each.get("value") for each in suite.iter("property")}
    assert (suite.get("name"), suite.get("hostname")) == ("gpu1", "gpu1")
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["3", "1", "1", "1"]
    assert found == {"schema": "1", "profile": "admission", "scope": "whole", "run_id": run.run_id,
                     "started": STARTED.isoformat(), **run.hosts[1].identity}  # fmt: skip


def test_same_verdicts_same_bytes() -> None:
    """Two runs with the same verdicts differ only in time attributes and in the properties run_id and started."""
    later = STARTED + timedelta(days=3)
    first, verdicts = every_outcome(), [v for host in every_outcome().hosts for v in reversed(host.verdicts)]
    slow = [replace(v, seconds=v.seconds + 1) for v in verdicts]
    second = run_of(*reversed(slow), identity=first.hosts[0].identity, started=later, run_id=new_run_id(later))
    assert written(first) != written(second)
    assert timeless(written(first)) == timeless(written(second))


def timeless(document: bytes) -> bytes:
    """A report without the only places in which time stands."""
    document = re.sub(rb' (time|timestamp)="[^"]*"', b"", document)
    return re.sub(rb'<property name="(run_id|started)" value="[^"]*" />', b"", document)


def test_hosts_stand_in_natural_order() -> None:
    """gpu2 stands before gpu10, whatever order the run has."""
    root = fromstring(written(run_of(passed("gpu10"), passed("gpu2"))))
    assert [suite.get("name") for suite in root] == ["gpu2", "gpu10"]


def test_run_that_judged_nothing_is_red() -> None:
    """A run without a host is one error, so that no reader takes it for green."""
    run = run_of(scope="partial", partial_because="--hosts: no group is called gpu_flete")
    root = fromstring(written(run))
    assert (root.get("tests"), root.get("errors")) == ("1", "1")
    assert "gpu_flete" in str([error.get("message") for error in root.iter("error")])
    assert not run.green


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: HostReport("gpu0", {}, []), "no verdict"),
        (lambda: HostReport("gpu0", {}, [passed("gpu1")]), "gpu1"),
        (lambda: HostReport("gpu0", {}, [passed("gpu0"), failed("gpu0")]), "judged 2 times"),
        (lambda: run_of(passed("gpu0"), run_id="../../etc"), "no run id"),
        (lambda: run_of(passed("gpu0"), started=STARTED.replace(tzinfo=None)), "time zone"),
        (lambda: run_of(passed("gpu0"), scope="partial"), "why it is partial"),
        (lambda: run_of(passed("gpu0"), partial_because="-k"), "why it is partial"),
        (lambda: run_of(), "judged no host"),
        (lambda: run_of(hosts=[HostReport("g", {}, [passed("g")])] * 2), "reported 2 times"),
    ],
)
def test_contradictions_are_refused(build: object, reason: str) -> None:
    """A run or host that contradicts itself cannot be made, and the error says why."""
    assert callable(build)
    with pytest.raises(ReportError, match=reason):
        build()


def test_missing_is_not_green() -> None:
    """A run is green only when each verdict on each host is."""
    assert run_of(passed("gpu0"), waived("gpu1")).green
    assert not run_of(passed("gpu0"), without("gpu1", "a.b", Outcome.MISSING, "gone")).green
