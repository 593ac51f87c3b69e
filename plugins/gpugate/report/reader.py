"""Reads a report back, for the gate: hardened, strict, and deaf to what its texts claim.

The outcome of a cell is its structure: no child element is PASS, `failure` FAIL, `error` ERROR or MISSING by its
type, `skipped` WAIVED. A file that is not exactly what `junit` writes is refused, with the reason.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import cast, get_args
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import iterparse

from ..errors import ReportError
from ..policy import Profile
from ..verdict import Outcome
from .junit import CLASS_PREFIX, NOBODY_CASE, SCHEMA, case_name
from .model import RUN_ID, Scope
from .pieces import Pieces
from .times import NAMES as _TIMES

MAX_BYTES = 1 << 30  # 10,000 hosts x 40 checks with every finding of eight GPUs take 0.6 GB

_CHILDREN = {
    "": {"testsuites"},
    "testsuites": {"testsuite"},
    "testsuite": {"properties", "testcase"},
    "properties": {"property"},
    "testcase": {"failure", "error", "skipped", "system-out"},
}
_ATTRIBUTES = {
    "testsuites": {"name", "tests", "failures", "errors", "time"},
    "testsuite": {"name", "hostname", "tests", "failures", "errors", "skipped", "time", "timestamp"},
    "properties": set(),
    "property": {"name", "value"},
    "testcase": {"name", "classname", "time"},
    "failure": {"type", "message"},
    "error": {"type", "message"},
    "skipped": {"type", "message"},
    "system-out": set(),
}
_OPTIONAL = {"time", "timestamp"}
_OUTCOMES = {("failure", "FAIL"): Outcome.FAIL, ("error", "ERROR"): Outcome.ERROR,
             ("error", "MISSING"): Outcome.MISSING, ("skipped", "WAIVED"): Outcome.WAIVED}  # fmt: skip
_KINDS = {"failure": "failures", "error": "errors", "skipped": "skipped"}
_ABOUT_THE_RUN = {"schema", "profile", "scope", "partial_because", "run_id", "started"}
_CHECK = re.compile(r"\w+(\.\w+)*")


@dataclass(frozen=True)
class Cell:
    """What the report says of one host x check; `message` is the sentence of one that did not pass."""

    outcome: Outcome
    message: str = ""


_PASS = Cell(Outcome.PASS)


@dataclass(frozen=True)
class HostCells:
    """One host of a report: what it says of the node's identity, and its cells by check."""

    identity: dict[str, str]
    cells: dict[str, Cell]


@dataclass(frozen=True)
class Report:
    """A report as read; `sha256` is that of the bytes that were parsed. `signer` is who signed its run, and with which
    key; empty where nobody looked."""

    sha256: str
    run_id: str
    started: datetime
    profile: Profile
    scope: Scope
    partial_because: str
    hosts: dict[str, HostCells]
    signer: str = ""


def read_report(path: Path, max_bytes: int = MAX_BYTES) -> Report:
    """The report in a file; raises ReportError where it cannot be read or is not one whole report of ours."""
    try:
        with Pieces(path.parent) as pieces:
            data = pieces.read(path.name, max_bytes)
    except OSError as error:
        raise ReportError(
            f"no report can be read at {path}: {error.strerror} (pytest --hosts=gpu_fleet makes one)"
        ) from error
    try:
        return parse_report(data)
    except ReportError as error:
        raise ReportError(f"{path} is refused: {error}") from error


def parse_report(data: bytes) -> Report:
    """The report in `data`; raises ReportError with the reason."""
    hosts: dict[str, HostCells] = {}
    run: dict[str, str] = {}
    totals: Counter[str] = Counter()
    path: list[Element] = []
    try:
        for event, element in iterparse(BytesIO(data), events=("start", "end"), forbid_dtd=True):
            if event == "start":
                _known(element, path[-1].tag if path else "")
                path.append(element)
                continue
            path.pop()
            if element.tag == "testsuite":
                totals += _suite(element, hosts, run)
                del path[-1][:]  # only one host's XML is in memory
            elif element.tag == "testsuites":
                _counted(element, totals, ("tests", "failures", "errors"), "the report")
    except ParseError as error:
        raise ReportError(f"it is not whole, well-formed XML: {error}") from error
    except DefusedXmlException as error:
        raise ReportError(f"it declares a document type or entities, as no report of ours does: {error}") from error
    except (ValueError, LookupError) as error:
        raise ReportError(f"its encoding cannot be read: {error}") from error
    if not hosts:
        raise ReportError("it holds no host")
    return _report(hashlib.sha256(data).hexdigest(), run, hosts)


def _known(element: Element, parent: str) -> None:
    if element.tag not in _CHILDREN.get(parent, ()):
        raise ReportError(f"<{element.tag}> has no place in {f'<{parent}>' if parent else 'a report'}")
    wanted, found = _ATTRIBUTES[element.tag], set(element.attrib)
    if found - wanted or wanted - found - _OPTIONAL:
        raise ReportError(f"<{element.tag}> has the attributes {sorted(found)} instead of {sorted(wanted)}")


def _suite(suite: Element, hosts: dict[str, HostCells], run: dict[str, str]) -> Counter[str]:
    """Take one host into `hosts`; how many cases it has, and how many of each kind."""
    host = suite.attrib["hostname"]
    cases = suite.findall("testcase")
    if [case.attrib["name"] for case in cases] == [NOBODY_CASE]:
        raise ReportError("the run judged no host: " + "; ".join(e.attrib["message"] for e in suite.iter("error")))
    if not host or suite.attrib["name"] != host:
        raise ReportError(f"a suite has the name {suite.attrib['name']!r} and the host {host!r}")
    if host in hosts:
        raise ReportError(f"{host} has two suites")
    known = _properties(suite, host)
    about = {name: known.pop(name) for name in _ABOUT_THE_RUN & known.keys()}
    for name in _TIMES:  # how long it took tells nothing of which node it is
        known.pop(name, None)
    if run and about != run:
        raise ReportError(f"{host} is of another run than the suites before it")
    run.update(about)
    cells: dict[str, Cell] = {}
    counts: Counter[str] = Counter(tests=len(cases))
    for case in cases:
        check, cell, kind = _cell(case, host)
        if check in cells:
            raise ReportError(f"{host}: {check} is there twice")
        cells[check] = cell
        counts[kind] += 1
    if not cells:
        raise ReportError(f"{host} has no case")
    _counted(suite, counts, ("tests", "failures", "errors", "skipped"), host)
    hosts[host] = HostCells(known, cells)
    return counts


def _properties(suite: Element, host: str) -> dict[str, str]:
    listed = [(each.attrib["name"], each.attrib["value"]) for each in suite.iterfind("properties/property")]
    if len(suite.findall("properties")) != 1 or len(dict(listed)) != len(listed):
        raise ReportError(f"{host} has not one list of properties, each of them once")
    return dict(listed)


def _cell(case: Element, host: str) -> tuple[str, Cell, str]:
    name, family = case.attrib["name"], case.attrib["classname"]
    check = f"{family.removeprefix(CLASS_PREFIX)}.{name.removesuffix(f'[{host}]')}"
    if case_name(host, check) != (family, name) or not _CHECK.fullmatch(check):
        raise ReportError(f"{host}: the case {family} {name} is not named as a check of this host")
    verdicts = [child for child in case if child.tag != "system-out"]
    if len(verdicts) > 1:
        raise ReportError(f"{host}: {check} contradicts itself: {' and '.join(child.tag for child in verdicts)}")
    if not verdicts:
        return check, _PASS, "passed"
    [verdict] = verdicts
    outcome = _OUTCOMES.get((verdict.tag, verdict.attrib["type"]))
    if outcome is None:
        raise ReportError(f"{host}: {check}: a {verdict.tag} of the type {verdict.attrib['type']!r} is unknown")
    return check, Cell(outcome, verdict.attrib["message"]), _KINDS[verdict.tag]


def _counted(element: Element, counts: Counter[str], names: tuple[str, ...], where: str) -> None:
    for name in names:
        if element.attrib[name] != str(counts[name]):
            raise ReportError(f"{where} says that it has {element.attrib[name]} {name}, and has {counts[name]}")


def _report(sha256: str, run: dict[str, str], hosts: dict[str, HostCells]) -> Report:
    if run.get("schema") != SCHEMA:
        raise ReportError(f"it says that its schema is {run.get('schema')!r}; this gate reads {SCHEMA!r}")
    profile, scope, because = run.get("profile"), run.get("scope"), run.get("partial_because", "")
    if profile not in get_args(Profile) or scope not in get_args(Scope) or (scope == "partial") != bool(because):
        raise ReportError(f"its profile is {profile!r} and its scope {scope!r} (because {because!r})")
    run_id, written = run.get("run_id", ""), run.get("started", "")
    try:
        started = datetime.fromisoformat(written)
    except ValueError as error:
        raise ReportError(f"its start {written!r} is no time") from error
    if started.tzinfo is None or not RUN_ID.fullmatch(run_id):
        raise ReportError(f"its start {written!r} has no time zone, or {run_id!r} is no run id")
    return Report(sha256, run_id, started, cast(Profile, profile), cast(Scope, scope), because, hosts)
