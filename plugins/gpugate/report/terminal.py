"""The end of a run, for people: causes rather than cells, worst first, hosts folded."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from ..verdict import Finding, Outcome, Verdict
from .model import Run
from .store import JUNIT
from .text import fold, natural, one_line

_RANK = {Outcome.FAIL: 0, Outcome.ERROR: 1, Outcome.MISSING: 2, Outcome.WAIVED: 3, Outcome.PASS: 4}
_NAMED = 4  # so many single findings are told in full; above it, a cause is told once
_NUMBER = re.compile(r"\d+(\.\d+)?")


@dataclass(frozen=True)
class _Cause:
    """What makes two red cells one line: the outcome, and a text without what differs from host to host."""

    outcome: Outcome
    text: str


def summary_lines(run: Run, folder: Path | None = None) -> list[str]:
    """The lines that tell a run: each cause with its hosts, GPUs, measured values, bound and next step; then the count.

    Plain text, safe for a terminal, of any width. `folder` is where the report was written.
    """
    lines: list[str] = []
    groups = [(cause, seen) for cause, seen in _causes(run).items()]
    for cause, seen in sorted(groups, key=lambda group: (_RANK[group[0].outcome], -_hosts(group[1]), group[0].text)):
        lines += _told(cause, seen)
    return [*lines, *_closing(run), *([f"report: {folder / JUNIT}"] if folder else [])]


_Seen = list[tuple[Verdict, Finding | None]]


def _causes(run: Run) -> dict[_Cause, _Seen]:
    """Every red, waived or marginal finding under its cause. An ERROR that many checks share is one cause."""
    causes: dict[_Cause, _Seen] = defaultdict(list)
    for host in run.hosts:
        for verdict in sorted(host.verdicts, key=lambda verdict: verdict.check):
            for finding in _worth_telling(verdict):
                text = _finding_key(verdict, finding) if finding else _reason_key(verdict)
                causes[_Cause(verdict.outcome, text)].append((verdict, finding))
    return causes


def _worth_telling(verdict: Verdict) -> list[Finding | None]:
    if verdict.outcome is Outcome.PASS:
        return [finding for finding in verdict.findings if finding.marginal]
    found: list[Finding | None] = [*verdict.bad]
    return found if found and not verdict.reason else [*found, None]


def _finding_key(verdict: Verdict, finding: Finding) -> str:
    waiver = str(verdict.waiver or "")
    return "\n".join((verdict.check, finding.what, finding.rule, finding.origin, finding.next, waiver))


def _reason_key(verdict: Verdict) -> str:
    return _NUMBER.sub("#", verdict.reason.replace(verdict.host, "HOST")) + str(verdict.waiver or "")


def _hosts(seen: _Seen) -> int:
    return len({verdict.host for verdict, _ in seen})


def _told(cause: _Cause, seen: _Seen) -> list[str]:
    first, finding = seen[0]
    name = "marginal" if cause.outcome is Outcome.PASS else cause.outcome.value
    checks = sorted({verdict.check for verdict, _ in seen})
    what = checks[0] if len(checks) == 1 else f"{len(checks)} checks"
    hosts = fold(verdict.host for verdict, _ in seen)
    head = f"{name} {what} on {hosts}"
    if cause.outcome is not Outcome.PASS:
        head += f" (level {', '.join(sorted({verdict.level for verdict, _ in seen}))})"
    if first.waiver is not None:
        w = first.waiver
        head += one_line(f", {first.waived} waived until {w.expires} by {w.who} ({w.ticket}): {w.why}")
    if finding is None:
        step = f"; next: {first.next}" if first.next else ""
        example = f" (as {first.host} says it)" if len({verdict.reason for verdict, _ in seen}) > 1 else ""
        return [head, f"    {one_line(first.reason + step)}{example}"]
    if len(seen) <= _NAMED:
        alone = _hosts(seen) == 1
        return [head, *(f"    {'' if alone else one_line(v.host) + ' '}{one_line(str(f))}" for v, f in seen)]
    return [head, f"    {one_line(_range(seen))}"]


def _range(seen: _Seen) -> str:
    """Many findings of one cause in one sentence: how many GPUs, from which value to which, and the rule."""
    findings = [finding for _, finding in seen if finding is not None]
    first = findings[0]
    numbers = [
        f.measured for f in findings if isinstance(f.measured, (int, float)) and not isinstance(f.measured, bool)
    ]
    unit = f" {first.unit}" if first.unit else ""
    if len(numbers) == len(findings):
        low, high = min(numbers), max(numbers)
        measured = f"{low:.6g}{unit}" if low == high else f"{low:.6g} to {high:.6g}{unit}"
    else:
        values = sorted({str(finding.measured) for finding in findings}, key=natural)
        measured = ", ".join(values[:_NAMED]) + (f" and {len(values) - _NAMED} others" if len(values) > _NAMED else "")
    gpus = sum(finding.gpu is not None for finding in findings)
    where = f"{gpus} GPUs: " if gpus else f"{len(findings)} times: "
    step = f"; next: {first.next}" if first.next and not first.ok else ""
    return f"{where}{first.what} is {measured}: has to be {first.rule} [{first.origin}]{step}"


def _closing(run: Run) -> list[str]:
    if not run.hosts:
        return [one_line(f"no host was judged: {run.partial_because}")]
    green = [host.host for host in run.hosts if host.green]
    red = [host.host for host in run.hosts if not host.green]
    counts = ", ".join(f"{number} {name}" for name, number in run.counts.items() if number)
    lines = [f"{len(run.hosts)} host{'s' if len(run.hosts) > 1 else ''}, profile {run.profile}: {counts}"]
    if run.scope == "partial":
        lines.append(one_line(f"partial run ({run.partial_because}): the gate admits nothing by it"))
    if red:
        lines.append(f"red: {fold(red)}")
    if green:
        lines.append(f"green: {fold(green)}")
    return lines
