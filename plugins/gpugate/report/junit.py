"""The report as JUnit XML, written with junit-xml behind this one file.

One `testsuite` a host, one `testcase` a host x check: `classname` is `checks.<family>`, `name` is
`<check>[<host>]`. GitLab tells cases apart by classname and name, so the host has to stand in one of them; in the
name it also survives Jenkins, which cuts the classname at its last dot. Valid against Jenkins' schema, which knows no
`disabled` and wants times with three decimals. Times stand only in the attributes `time` and `timestamp` and in the
properties `run_id`, `started`, `gather_s` and `probe_s`: leave these aside, and the same verdicts give the same bytes.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import BinaryIO
from xml.etree import ElementTree  # writes only; `reader` parses, hardened
from xml.sax.saxutils import escape  # writes only

from junit_xml import TestCase, TestSuite

from ..verdict import Outcome, Verdict
from .aside import Kept
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


def case_xml(verdict: Verdict) -> bytes:
    """The element as it stands in its suite: indented, without the end of its line.

    A PASS, as nearly all of them are, is written here, anything else by junit-xml; a test holds both to the same bytes.
    """
    marginal = " (marginal)" if verdict.marginal else ""
    told = f"{verdict.outcome}{marginal}, level {verdict.level}\n{printable(verdict.detail)}"
    if verdict.outcome is not Outcome.PASS:
        return by_library(_case(verdict, told))
    family, name = case_name(_attribute(verdict.host), _attribute(verdict.check))
    time = f' time="{verdict.seconds:f}"' if verdict.seconds else ""
    head = f'  <testcase name="{name}"{time} classname="{family}">\n    <system-out>'
    return f"{head}{escape(told)}</system-out>\n  </testcase>".encode()


def by_library(case: TestCase) -> bytes:
    """The element as junit-xml has it."""
    [element] = TestSuite("", [case]).build_xml_doc().iter("testcase")
    for skipped in element.iter("skipped"):
        skipped.set("type", Outcome.WAIVED.value)  # junit-xml takes no type for this one
    ElementTree.indent(element, level=1)
    return b"  " + bytes(ElementTree.tostring(element, encoding="utf-8")).rstrip()


def properties(run: Run) -> dict[str, str]:
    """What every suite of a run says about the run."""
    known = {"schema": SCHEMA, "profile": run.profile, "scope": run.scope}
    if run.partial_because:
        known["partial_because"] = one_line(run.partial_because)
    return known | {"run_id": run.run_id, "started": run.started.isoformat()}


def _host_suite(run: Run, host: HostReport) -> bytes:
    verdicts = sorted(host.verdicts, key=lambda verdict: verdict.check)
    identity = {name: one_line(host.identity[name]) for name in sorted(host.identity)}
    counts = Counter(verdict.outcome for verdict in verdicts)
    cases = [verdict.xml() if isinstance(verdict, Kept) else case_xml(verdict) for verdict in verdicts]
    return _suite(run, one_line(host.host), cases, counts, identity | host.times.properties, _seconds(verdicts))


def _empty_suite(run: Run) -> bytes:
    """The suite of a run that judged nothing: red, wherever it is read."""
    case = TestCase(NOBODY_CASE, f"{CLASS_PREFIX}run")
    reason = f"no host was judged: {one_line(run.partial_because)}"
    case.add_error_info(reason, reason, Outcome.MISSING.value)
    return _suite(run, NOBODY, [by_library(case)], Counter([Outcome.MISSING]), {}, "0.000")


def _suite(
    run: Run, host: str, cases: list[bytes], counts: Counter[Outcome], about: dict[str, str], seconds: str
) -> bytes:
    suite = TestSuite(host, hostname=host, timestamp=run.started.isoformat(timespec="seconds"),
                      properties=properties(run) | about)  # fmt: skip
    element = suite.build_xml_doc()
    del element.attrib["disabled"]
    element.set("errors", str(counts[Outcome.ERROR] + counts[Outcome.MISSING]))
    element.set("failures", str(counts[Outcome.FAIL]))
    element.set("skipped", str(counts[Outcome.WAIVED]))
    element.set("tests", str(counts.total()))
    element.set("time", seconds)
    ElementTree.indent(element)
    end = b"</testsuite>"
    head = ElementTree.tostring(element, encoding="utf-8").removesuffix(end)
    return b"\n".join([head.rstrip(), *cases, end, b""])


def _case(verdict: Verdict, told: str) -> TestCase:
    family, name = case_name(one_line(verdict.host), verdict.check)
    case = TestCase(name, family, stdout=told, elapsed_sec=verdict.seconds)
    # junit-xml drops a failure that says nothing: a red cell without a sentence has to stay red.
    reason = one_line(verdict.headline) or f"{verdict.outcome} without a reason"
    body = "\n".join([reason, *(one_line(str(finding)) for finding in verdict.bad[1:])])
    if verdict.outcome is Outcome.FAIL:
        case.add_failure_info(reason, body, Outcome.FAIL.value)
    elif verdict.outcome is Outcome.WAIVED:
        case.add_skipped_info(reason, body)
    elif verdict.outcome is not Outcome.PASS:
        case.add_error_info(reason, body, verdict.outcome.value)
    return case


@lru_cache(maxsize=65536)  # names of hosts and checks, over and over
def _attribute(text: str) -> str:
    return escape(one_line(text), {'"': "&quot;"})


def _seconds(verdicts: list[Verdict]) -> str:
    return f"{sum(verdict.seconds for verdict in verdicts):.3f}"
