"""`gpugate why`: one screen about one node, for the person on call."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ..admission.standing import Standing
from ..admission.told import Told
from ..admission.words import words_of
from ..errors import AdmissionError, GpugateError, InventoryError, ReportError
from ..report.runs import newest_with
from ..report.store import LATEST
from ..report.text import fold, one_line, shortened
from . import site

IN_AND_GREEN, NOT_SO, CANNOT_TELL = 0, 1, 2
LINES, COLUMNS = 24, 100
_LABEL, _STEP = 12, "next"
_EPILOG = f"""exit codes:
  {IN_AND_GREEN}    in service, and green by the report
  {NOT_SO}    anything else
  {CANNOT_TELL}    cannot tell: no such node, no report, or the back end, the state store or the audit cannot be asked
"""


def add(commands: Any) -> None:
    """Put the command among `commands`."""
    words = "tell where one node stands, whose it is, what is red, and what to do next"
    parser = commands.add_parser(
        "why", help=words, description=f"{words[0].upper()}{words[1:]}.", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    site.add(parser)
    parser.add_argument("host", metavar="HOST", help="one node, as the inventory calls it")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    gate = site.gate(options, [options.host], look_only=True)
    if len(gate.hosts) > 1:
        raise InventoryError(f"{options.host} means {len(gate.hosts)} nodes ({fold(gate.hosts)[:200]}): name one")
    gate = _about(gate, gate.hosts[0])
    told, problems = _told(gate)
    columns = min(COLUMNS, max(40, shutil.get_terminal_size((COLUMNS, LINES)).columns))
    print("\n".join(screen(told, gate, problems, columns)))
    if problems or isinstance(told.standing, AdmissionError) or isinstance(told.report, ReportError):
        return CANNOT_TELL
    return IN_AND_GREEN if told.inside and told.green else NOT_SO


def _about(gate: site.Gate, host: str) -> site.Gate:
    """The gate, with the newest report that has the node where the latest one is about others."""
    latest = gate.settled.report
    if isinstance(gate.report, ReportError) or host in gate.report.hosts or latest.parent.name != LATEST:
        return gate
    try:
        if (folder := newest_with(latest.parent.parent, host)) is None:
            return gate
        settled = replace(gate.settled, report=folder / latest.name)
        return replace(gate, settled=settled, report=settled.read())
    except ReportError:
        return gate


def _told(gate: site.Gate) -> tuple[Told, list[str]]:
    """What is known of the node, and what of the gate's own records cannot be read."""
    [target] = gate.targets
    problems, remembered, word = [], None, None
    try:
        remembered = gate.memory.nodes().get(target.name)
        word = words_of(gate.memory, gate.audit, gate.now).get(target.name)
    except GpugateError as error:
        problems.append(str(error))
    return gate.told(target, _standing(gate, target.name), remembered, word), problems


def _standing(gate: site.Gate, host: str) -> Standing | AdmissionError:
    try:
        return gate.backend().standings([host])[host]
    except GpugateError as error:
        return AdmissionError(str(error))


def screen(told: Told, gate: site.Gate, problems: list[str], columns: int = COLUMNS) -> list[str]:
    """At most `LINES` lines; where there is more that is red than room for it, the weightiest is there."""
    head = _wrapped(_here(_head(told, gate.settled.site.backend)), columns, 2)
    above = [
        ("cannot tell", "; ".join(problems)),
        ("whose", _whose(told)),
        ("word", str(told.word or "")),
        ("decided", "" if problems else _decided(told, gate.settled.store)),
        *(("because" if n == 0 else "", note) for n, note in enumerate(told.notes[:2])),
    ]
    below = [
        ("last green", "" if problems else _last_green(told)),
        ("greens", "" if problems else _greens(told)),
        (_STEP, told.step),
        ("report", _report(told, gate.settled.report)),
        ("audit", str(gate.audit.path)),
    ]
    upper = [*head, *_rows(above, columns)]
    lower = _rows(below, columns)
    return [*upper, *_cells(told, LINES - len(upper) - len(lower), columns), *lower]


def _head(told: Told, backend: str) -> str:
    words = {True: "IN service", False: "OUT of service", None: "NOBODY KNOWS whether it is in service"}[told.inside]
    if isinstance(told.standing, AdmissionError):
        at = f"as last decided, {_when(told.remembered.decided, told.now)}" if told.remembered else "never decided"
        return f"{told.host}: {words} ({at}); {backend} cannot tell now: {told.standing}"
    return f"{told.host}: {words} (as {backend} says now)"


def _whose(told: Told) -> str:
    known = told.remembered
    if isinstance(told.standing, Standing):
        if told.standing.owner:
            return f"not gpugate's: {told.standing.owner}"
        if told.standing.busy:
            return f"not now: {told.standing.busy}"
    if told.inside:
        return "nobody has taken it out"
    if told.removed:
        since = (known.removed if known else None) or (
            told.standing.since if isinstance(told.standing, Standing) else None
        )
        at = f" {_when(since, told.now)}" if since else ""
        checks = f", for {', '.join(known.removed_for)}" if known and known.removed_for else ""
        return f"gpugate's, which took it out{at}{checks}"
    return "nobody knows" if told.inside is None else "gpugate's to let in: it did not take this node out"


def _decided(told: Told, store: Path) -> str:
    known = told.remembered
    if known is None:
        return "never" if store.exists() else f"never: there is no state store yet at {store}"
    newer = ""
    if not isinstance(told.report, ReportError) and told.report.run_id > known.history.last_run:
        newer = "; by the report below not yet (admit.yml)"
    return (
        f"{known.action} since {_when(known.since, told.now)}, the last time {_when(known.decided, told.now)} by run "
        f"{known.history.last_run}{newer}"
    )


def _last_green(told: Told) -> str:
    known = told.remembered
    return f"run {known.green_run}, {_when(known.green, told.now)}" if known and known.green else "never"


def _greens(told: Told) -> str:
    if told.inside:
        return f"{told.greens} in a row"
    return f"{told.greens} of {told.policy.greens_to_return if told.removed else 1} in a row that it needs to come in"


def _report(told: Told, path: Path) -> str:
    if isinstance(told.report, ReportError):
        return str(told.report)
    signer = f", signed by {told.report.signer}" if told.report.signer else ""
    return f"{path} (run {told.report.run_id}, {told.report.profile}, {_when(told.report.started, told.now)}{signer})"


def _cells(told: Told, room: int, columns: int) -> list[str]:
    """What is red, in so many lines."""
    if not told.red:
        return []
    by = "" if told.decision else ", as last decided: there is no report to read"
    lines = _rows([("red", f"{len(told.red)} of {told.counted} checks that count{by}")], columns)
    cells = [_wrapped(f"  {one_line(cell)}", columns, 4, indent="    ") for cell in told.red]
    for n, cell in enumerate(cells):
        left, last = room - len(lines), n == len(cells) - 1
        if len(cell) > left - (not last):
            more = len(cells) - n
            return [*lines, f"  and {more} more: the report has them"][:room] if left > 0 else lines[:room]
        lines += cell
    return lines


def _rows(rows: Iterable[tuple[str, str]], columns: int) -> list[str]:
    """Each as a label and its text, on few lines, what is empty is left out."""
    indent = " " * (_LABEL + 2)
    return [
        line
        for label, text in rows
        if text
        for line in _wrapped(f"  {label:<{_LABEL}}{_here(text)}", columns, 3 if label == _STEP else 2, indent=indent)
    ]


def _here(text: str) -> str:
    """On one line, with paths from the folder that the command was started in."""
    return one_line(text).replace(f"{Path.cwd()}/", "")


def _wrapped(text: str, columns: int, most: int, indent: str = "    ") -> list[str]:
    lead = text[: len(text) - len(text.lstrip())]
    lines = textwrap.wrap(text, columns, subsequent_indent=indent, break_on_hyphens=False, drop_whitespace=True)
    if len(lines) > most:
        lines = [*lines[: most - 1], shortened(" ".join(lines[most - 1 :]), columns)]
    return lines or [lead]


def _when(time: datetime, now: datetime) -> str:
    """`2026-03-01 12:00 (5.3 h ago)`, on this controller's clock."""
    hours = (now - time).total_seconds() / 3600
    age = f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.0f} min"
    return f"{time.astimezone():%Y-%m-%d %H:%M} ({age} ago)"
