"""The reader: reads back what the writer wrote, and refuses everything else with a reason."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from gpugate.errors import ReportError
from gpugate.report import HostReport, Times
from gpugate.report.reader import parse_report, read_report
from gpugate.verdict import Outcome
from runs import STARTED, every_outcome, failed, passed, run_of, written


def test_reads_back_what_was_written() -> None:
    """Cells, identity, run and the digest of the very bytes come back."""
    run = every_outcome()
    document = written(run)
    report = parse_report(document)
    assert report.sha256 == hashlib.sha256(document).hexdigest()
    assert (report.run_id, report.started, report.profile, report.scope) == (run.run_id, STARTED, "admission", "whole")
    assert report.hosts["gpu1"].identity == run.hosts[1].identity
    cells = {host: {check: cell.outcome for check, cell in it.cells.items()} for host, it in report.hosts.items()}
    assert cells == {
        "gpu0": {"thermal.headroom": Outcome.PASS, "memory.margin": Outcome.PASS, "errors.xid": Outcome.ERROR},
        "gpu1": {"thermal.siblings": Outcome.FAIL, "thermal.headroom": Outcome.WAIVED, "errors.ecc": Outcome.MISSING},
    }
    assert "1.5 C" in report.hosts["gpu1"].cells["thermal.siblings"].message


def test_times_of_gathering_are_no_identity() -> None:
    """A suite says how long its host took, the gate reads reports with and without that, and neither is identity."""
    with_times = HostReport("gpu0", {"boot_id": "b-1"}, [passed("gpu0")], Times(40.94, 1e9, 39.8))
    document = written(run_of(hosts=[with_times, HostReport("gpu1", {"boot_id": "b-2"}, [passed("gpu1")])]))
    assert b'<property name="gather_s" value="40.940" />' in document
    assert b'<property name="probe_s" value="39.800" />' in document
    report = parse_report(document)
    assert [host.identity for host in report.hosts.values()] == [{"boot_id": "b-1"}, {"boot_id": "b-2"}]


def test_partial_report_says_why() -> None:
    """A partial run is read as partial, with its reason."""
    report = parse_report(written(run_of(passed("gpu0"), scope="partial", partial_because="-k selected less")))
    assert (report.scope, report.partial_because) == ("partial", "-k selected less")


def test_outcome_is_structure_not_text() -> None:
    """A failure whose texts all say PASS is still a FAIL."""
    document = written(run_of(failed("gpu0"))).replace(b"FAIL, level admit", b"PASS, level admit")
    document = document.replace(b'message="GPU 1', b'message="PASS: GPU 1')
    assert parse_report(document).hosts["gpu0"].cells["thermal.headroom"].outcome is Outcome.FAIL


GOOD = written(run_of(passed("gpu0"), passed("gpu0", "errors.ecc"), failed("gpu1"))).decode()
SUITE = GOOD[GOOD.index("<testsuite errors") : GOOD.index("</testsuite>") + len("</testsuite>")]
CASE = SUITE[SUITE.index("<testcase") : SUITE.index("</testcase>") + len("</testcase>")]
BOMB = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
EXTERNAL = '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
HEAD = "<?xml version='1.0' encoding='utf-8'?>\n"

HOSTILE = {
    "empty": ("", "well-formed"),
    "not XML": ("PASS", "well-formed"),
    "cut off": (GOOD[: len(GOOD) // 2], "well-formed"),
    "two reports": (GOOD + GOOD.removeprefix(HEAD), "well-formed"),
    "entity bomb": (GOOD.replace(HEAD, HEAD + BOMB), "document type"),
    "external entity": (GOOD.replace(HEAD, HEAD + EXTERNAL), "document type"),
    "document type alone": (GOOD.replace(HEAD, HEAD + "<!DOCTYPE testsuites>"), "document type"),
    "wrong encoding": (GOOD.replace("'utf-8'", "'utf-32'"), "encoding|well-formed"),
    "no suites": ('<testsuites name="gpugate" tests="0" failures="0" errors="0" time="0.000"></testsuites>', "no host"),
    "foreign root": ("<html></html>", "no place"),
    "a bare suite": (SUITE, "no place"),
    "suite in a suite": (GOOD.replace("</testsuite>", SUITE + "</testsuite>", 1), "no place"),
    "unknown element": (GOOD.replace("<testcase", "<flakyFailure/><testcase", 1), "no place"),
    "unknown attribute": (GOOD.replace("<testcase ", '<testcase status="run" ', 1), "attributes"),
    "foreign report": (
        '<testsuites name="pytest tests"><testsuite name="pytest" errors="0" failures="0" skipped="0" tests="1" '
        'time="0.1" timestamp="2026-01-01" hostname="x"><testcase classname="a" name="b" time="0.1"/></testsuite>'
        "</testsuites>", "attributes"),
    "two suites of one host": (GOOD.replace(SUITE, SUITE + SUITE), "gpu0 has two suites"),
    "a case twice": (GOOD.replace(CASE, CASE + CASE), "ecc is there twice"),
    "failure and error": (
        GOOD.replace("</failure>", '</failure><error type="ERROR" message="x" />'), "contradicts itself"),
    "two failures": (GOOD.replace("</failure>", '</failure><failure type="FAIL" message="x" />'), "contradicts itself"),
    "failure taken out": (GOOD[: GOOD.index("<failure")] + GOOD[GOOD.index("</failure>") + 10 :], "1 failures, and"),
    "case taken out": (GOOD.replace(CASE, ""), "2 tests, and has 1"),
    "suite taken out": (GOOD.replace(SUITE, ""), "3 tests, and has 1"),
    "failure of another type": (GOOD.replace('type="FAIL"', 'type="PASS"'), "is unknown"),
    "skipped of another type": (
        GOOD.replace("</testcase>", '<skipped type="pytest.skip" message="x" /></testcase>', 1), "is unknown"),
    "case of another host": (GOOD.replace('name="ecc[gpu0]"', 'name="ecc[gpu1]"'), "not named"),
    "case without a family": (GOOD.replace('"checks.errors"', '"errors"'), "not named"),
    "suite with two names": (GOOD.replace('hostname="gpu0"', 'hostname="gpu7"'), "name 'gpu0' and the host 'gpu7'"),
    "host without a name": (
        GOOD.replace('name="gpu0"', 'name=""').replace('hostname="gpu0"', 'hostname=""'), "host ''"),
    "property twice": (
        GOOD.replace("</properties>", '<property name="profile" value="quick" /></properties>', 1), "each of them"),
    "no properties": (
        GOOD[: GOOD.index("<properties>")] + GOOD[GOOD.index("</properties>") + 13 :], "not one list of properties"),
    "runs mixed": (GOOD.replace('value="whole"', 'value="partial"', 1), "another run"),
    "unknown schema": (GOOD.replace('name="schema" value="1"', 'name="schema" value="2"'), "schema"),
    "unknown profile": (GOOD.replace('value="admission"', 'value="none"'), "profile"),
    "unknown scope": (GOOD.replace('value="whole"', 'value="most"'), "scope"),
    "partial without a reason": (GOOD.replace('value="whole"', 'value="partial"'), "scope"),
    "start that is no time": (GOOD.replace('value="2026-03-01T12:30:00+00:00"', 'value="now"'), "no time"),
    "start without a zone": (GOOD.replace('value="2026-03-01T12:30:00+00:00"', 'value="2026-03-01T12:30:00"'), "zone"),
    "run that judged nothing": (
        written(run_of(scope="partial", partial_because="no such group")).decode(), "no host: .*no such group"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str) -> None:
    """A file that is not exactly one whole report of ours is refused with its reason."""
    document, reason = HOSTILE[name]
    assert document != GOOD
    with pytest.raises(ReportError, match=reason):
        parse_report(document.encode())


def test_the_good_file_is_good() -> None:
    """What the hostile files were made from is accepted, so that each of them is refused for its own fault."""
    assert set(parse_report(GOOD.encode()).hosts) == {"gpu0", "gpu1"}


def test_too_large_a_file_is_refused(tmp_path: Path) -> None:
    """A file over the cap is not parsed at all."""
    path = tmp_path / "junit.xml"
    path.write_text(GOOD)
    with pytest.raises(ReportError, match="larger than 100 bytes"):
        read_report(path, max_bytes=100)


def test_report_that_is_not_there(tmp_path: Path) -> None:
    """A missing file names its path and how to make one."""
    with pytest.raises(ReportError, match=r"junit\.xml: No such file.*pytest --hosts"):
        read_report(tmp_path / "junit.xml")


def test_pipes_and_folders_are_no_reports(tmp_path: Path) -> None:
    """A pipe would block and a folder is nothing: both are refused at once."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ReportError, match="is not a file"):
            read_report(path)
