"""The report as JUnit XML, written with junit-xml behind this one file.

One `testsuite` a host, one `testcase` a host x check: `classname` is `checks.<family>`, `name` is
`<check>[<host>]`. GitLab tells cases apart by classname and name, so the host has to stand in one of them; in the
name it also survives Jenkins, which cuts the classname at its last dot. Valid against Jenkins' schema, which knows no
`disabled` and wants times with three decimals. Times stand only in the attributes `time` and `timestamp` and in the
properties `run_id`, `started`, `gather_s` and `probe_s`: leave these aside, and the same verdicts give the same bytes.
"""

from __future__ import annotations

from typing import BinaryIO
from xml.etree import ElementTree  # writes only; `reader` parses, hardened

from junit_xml import TestCase, TestSuite

from ..verdict import Outcome, Verdict
from .model import HostReport, Run
from .text import natural, one_line, printable

SCHEMA = "1"
CLASS_PREFIX = "checks."
NOBODY, NOBODY_CASE = "gpugate", "hosts"  # suite and case of a run that judged no host


def write_junit(run: Run, stream: BinaryIO) -> None:
    """Write `run` suite by suite, so that only one host's XML is in memory."""
    counts = run.counts
    errors = counts["ERROR"] + counts["MISSING"] if run.hosts else 1
    total = {"name": "gpugate", "tests": str(sum(counts.values()) or 1), "failures": str(counts["FAIL"]),
             "errors": str(errors), "time": _seconds([v for host in run.hosts for v in host.verdicts])}  # fmt: skip
    root = ElementTree.tostring(ElementTree.Element("testsuites", total), encoding="unicode")
    stream.write(b"<?xml version='1.0' encoding='utf-8'?>\n")
    stream.write(root.removesuffix(" />").encode() + b">\n")
    for host in sorted(run.hosts, key=lambda host: (natural(host.host), host.host)):
        stream.write(_host_suite(run, host))
    if not run.hosts:
        stream.write(_empty_suite(run))
    stream.write(b"</testsuites>\n")


def case_name(host: str, check: str) -> tuple[str, str]:
    """The classname and name of a cell: `thermal.headroom` on gpu3 is `checks.thermal`, `headroom[gpu3]`."""
    family, _, function = check.rpartition(".")
    return f"{CLASS_PREFIX}{family}", f"{function}[{host}]"


def properties(run: Run) -> dict[str, str]:
    """What every suite of a run says about the run."""
    known = {"schema": SCHEMA, "profile": run.profile, "scope": run.scope}
    if run.partial_because:
        known["partial_because"] = one_line(run.partial_because)
    return known | {"run_id": run.run_id, "started": run.started.isoformat()}


def _host_suite(run: Run, host: HostReport) -> bytes:
    verdicts = sorted(host.verdicts, key=lambda verdict: verdict.check)
    identity = {name: one_line(host.identity[name]) for name in sorted(host.identity)}
    about = identity | host.times.properties
    return _suite(run, one_line(host.host), [_case(verdict) for verdict in verdicts], about, _seconds(verdicts))


def _empty_suite(run: Run) -> bytes:
    """The suite of a run that judged nothing: red, wherever it is read."""
    case = TestCase(NOBODY_CASE, f"{CLASS_PREFIX}run")
    reason = f"no host was judged: {one_line(run.partial_because)}"
    case.add_error_info(reason, reason, Outcome.MISSING.value)
    return _suite(run, NOBODY, [case], {}, "0.000")


def _suite(run: Run, host: str, cases: list[TestCase], about: dict[str, str], seconds: str) -> bytes:
    suite = TestSuite(host, cases, hostname=host, timestamp=run.started.isoformat(timespec="seconds"),
                      properties=properties(run) | about)  # fmt: skip
    element = suite.build_xml_doc()
    del element.attrib["disabled"]
    element.set("time", seconds)
    for skipped in element.iter("skipped"):
        skipped.set("type", Outcome.WAIVED.value)  # junit-xml takes no type for this one
    ElementTree.indent(element)
    return bytes(ElementTree.tostring(element, encoding="utf-8")) + b"\n"


def _case(verdict: Verdict) -> TestCase:
    family, name = case_name(one_line(verdict.host), verdict.check)
    marginal = " (marginal)" if verdict.marginal else ""
    told = f"{verdict.outcome}{marginal}, level {verdict.level}\n{printable(verdict.detail)}"
    case = TestCase(name, family, stdout=told, elapsed_sec=verdict.seconds)
    if verdict.outcome is Outcome.PASS:
        return case
    # junit-xml drops a failure that says nothing: a red cell without a sentence has to stay red.
    reason = one_line(verdict.headline) or f"{verdict.outcome} without a reason"
    body = "\n".join([reason, *(one_line(str(finding)) for finding in verdict.bad[1:])])
    if verdict.outcome is Outcome.FAIL:
        case.add_failure_info(reason, body, Outcome.FAIL.value)
    elif verdict.outcome is Outcome.WAIVED:
        case.add_skipped_info(reason, body)
    else:
        case.add_error_info(reason, body, verdict.outcome.value)
    return case


def _seconds(verdicts: list[Verdict]) -> str:
    return f"{sum(verdict.seconds for verdict in verdicts):.3f}"
