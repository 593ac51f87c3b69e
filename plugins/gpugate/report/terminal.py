"""The end of a run, for people: causes rather than cells, worst first, hosts folded, lines of bounded length.

A cause is what makes two cells one: the outcome, what was measured against which rule and what to do next, or the
reason; without what only differs from host to host (names, addresses, numbers, identifiers).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from heapq import nlargest
from itertools import groupby, islice
from pathlib import Path

from ..verdict import Finding, Outcome, Verdict
from .causes import without_host, without_varying
from .model import HostReport, Run
from .store import JUNIT
from .text import fold, natural, one_line, shortened

CAUSES = 25  # so many causes are told; the others are counted
_OF_EACH = 4  # so many of each rank are told in any case; ranks are six
_NAMED = 4  # so many single findings are told in full; above it, a cause is told once
_SLOWEST = 3
_HOSTS_WIDTH, _TEXT_WIDTH, _VALUE_WIDTH = 160, 600, 120  # characters

# Outcomes, worst first; a FAIL that may evict stands before all of them.
_ORDER = [Outcome.FAIL, Outcome.ERROR, Outcome.MISSING, Outcome.WAIVED, Outcome.PASS]


@dataclass(frozen=True)
class _Cause:
    """What makes two cells one line; `rank` is how bad it is, the smaller the worse."""

    rank: int
    text: str


_Seen = list[tuple[Verdict, Finding | None]]


def summary_lines(run: Run, folder: Path | None = None) -> list[str]:
    """The lines that tell a run: each cause with its hosts, GPUs, measured values, bound and next step; then the count.

    Plain text, safe for a terminal. `folder` is where the report was written.
    """
    groups = [(cause, seen, len({verdict.host for verdict, _ in seen})) for cause, seen in _causes(run).items()]
    groups.sort(key=lambda group: (group[0].rank, -group[2], group[0].text))
    told = _chosen([cause for cause, _, _ in groups])
    lines = [line for cause, seen, hosts in groups if cause in told for line in _told(seen, hosts)]
    if left := [seen for cause, seen, _ in groups if cause not in told]:
        lines.append(_left(left, folder))
    return [*lines, *_closing(run), *_slowest(run), *([f"report: {folder / JUNIT}"] if folder else [])]


def _causes(run: Run) -> dict[_Cause, _Seen]:
    """Every red, waived or marginal finding under its cause. An ERROR that many checks share is one cause."""
    causes: dict[_Cause, _Seen] = defaultdict(list)
    for host in run.hosts:
        reasons: dict[str, str] = {}  # most often one, shared by all checks of the host
        for verdict in host.verdicts:
            for finding in _worth_telling(verdict):
                if finding is not None:
                    text = _finding_key(verdict, finding)
                elif (known := reasons.get(verdict.reason)) is not None:
                    text = known
                else:
                    text = reasons[verdict.reason] = without_host(verdict.host, verdict.reason)
                causes[_Cause(_rank(verdict), f"{text}{verdict.waiver or ''}")].append((verdict, finding))
    return causes


def _chosen(causes: list[_Cause]) -> set[_Cause]:
    """Which of the sorted causes are told: the worst, and of each rank the first few, so that hundreds of failures do
    not hide why other hosts are missing."""
    of_each: set[_Cause] = set()
    for _, ranked in groupby(causes, key=lambda cause: cause.rank):
        of_each.update(islice(ranked, _OF_EACH))
    others = [cause for cause in causes if cause not in of_each]
    return of_each.union(others[: CAUSES - len(of_each)])


def _worth_telling(verdict: Verdict) -> Collection[Finding | None]:
    if verdict.outcome is Outcome.PASS:
        return [finding for finding in verdict.findings if finding.marginal]
    found: list[Finding | None] = [*verdict.bad]
    return found if found and not verdict.reason else [*found, None]


def _rank(verdict: Verdict) -> int:
    return 0 if verdict.outcome is Outcome.FAIL and verdict.level == "evict" else 1 + _ORDER.index(verdict.outcome)


def _finding_key(verdict: Verdict, finding: Finding) -> str:
    rule = without_varying(finding.rule), without_varying(finding.origin)
    return "\n".join((verdict.check, finding.what, *rule, finding.next))


def _told(seen: _Seen, hosts: int) -> list[str]:
    first, finding = seen[0]
    head = _head(seen, hosts)
    if finding is None:
        step = f"; next: {first.next}" if first.next else ""
        example = one_line(f" (as {first.host} says it)") if len({verdict.reason for verdict, _ in seen}) > 1 else ""
        return [head, _line(f"{first.reason}{step}") + example]
    if len(seen) <= _NAMED:
        return [head, *(_line(f"{'' if hosts == 1 else f'{v.host} '}{f}") for v, f in seen)]
    return [head, _line(_range([finding for _, finding in seen if finding is not None]))]


def _head(seen: _Seen, hosts: int) -> str:
    first, _ = seen[0]
    checks = sorted({verdict.check for verdict, _ in seen})
    what = checks[0] if len(checks) == 1 else f"{len(checks)} checks"
    marginal = first.outcome is Outcome.PASS
    about = [f"{hosts} hosts"] if hosts > 1 else []
    about += [] if marginal else [f"level {', '.join(sorted({verdict.level for verdict, _ in seen}))}"]
    head = f"{'marginal' if marginal else first.outcome.value} {what} on {_hosts(v.host for v, _ in seen)}"
    head += f" ({', '.join(about)})" if about else ""
    if first.waiver is not None:
        w = first.waiver
        head += f", {first.waived} waived until {w.expires} by {w.who} ({w.ticket}): {w.why}"
    return shortened(one_line(head), _TEXT_WIDTH)


def _range(findings: list[Finding]) -> str:
    """Many findings of one cause in one sentence: how many GPUs, from which value to which, and the rule."""
    first = findings[0]
    numbers = [
        f.measured for f in findings if isinstance(f.measured, (int, float)) and not isinstance(f.measured, bool)
    ]
    unit = f" {first.unit}" if first.unit else ""
    if len(numbers) == len(findings):
        low, high = min(numbers), max(numbers)
        measured = f"{low:.6g}{unit}" if low == high else f"{low:.6g} to {high:.6g}{unit}"
    else:
        measured = _most_common([f"{finding.measured}" for finding in findings])
    gpus = sum(finding.gpu is not None for finding in findings)
    where = f"{gpus} GPUs: " if gpus else f"{len(findings)} times: "
    rule, origin = _most_common([f.rule for f in findings]), _most_common([f.origin for f in findings])
    step = f"; next: {first.next}" if first.next and not first.ok else ""
    return f"{where}{first.what} is {measured}: has to be {rule} [{origin}]{step}"


def _most_common(values: list[str]) -> str:
    """The values that are there most often, and how many others there are."""
    counts = sorted(Counter(values).items(), key=lambda item: (-item[1], natural(item[0])))
    told = ", ".join(shortened(value, _VALUE_WIDTH) for value, _ in counts[:_NAMED])
    return told + (f" and {len(counts) - _NAMED} others" if len(counts) > _NAMED else "")


def _left(left: list[_Seen], folder: Path | None) -> str:
    """What is not told: how many causes of which outcome, on whom, and where they stand."""
    kinds = Counter("marginal" if seen[0][0].outcome is Outcome.PASS else seen[0][0].outcome.value for seen in left)
    counts = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    hosts = _hosts(verdict.host for seen in left for verdict, _ in seen)
    return f"{len(left)} more causes ({counts}) on {hosts}: they stand in {folder / JUNIT if folder else JUNIT}"


def _closing(run: Run) -> list[str]:
    if not run.hosts:
        return [one_line(f"no host was judged: {run.partial_because}")]
    green = [host.host for host in run.hosts if host.green]
    red = [host.host for host in run.hosts if not host.green]
    counts = ", ".join(f"{number} {name}" for name, number in run.counts.items() if number)
    lines = [f"{len(run.hosts)} host{'s' if len(run.hosts) > 1 else ''}, profile {run.profile}: {counts}"]
    if run.scope == "partial":
        lines.append(one_line(f"partial run ({run.partial_because}): the gate admits nothing by it"))
    for colour, hosts in (("red", red), ("green", green)):
        if hosts:
            lines.append(f"{colour}: {_hosts(hosts)}" + (f" ({len(hosts)} hosts)" if len(hosts) > 1 else ""))
    return lines


def _slowest(run: Run) -> list[str]:
    """How long the gather took and who was slowest; nothing where the documents came without receipts."""
    timed = [(host.times.gather_s, host) for host in run.hosts if host.times.gather_s is not None]
    ends = [host.times.received_unix_s for host in run.hosts if host.times.received_unix_s is not None]
    if not timed or not ends:
        return []
    took = max(0.0, max(ends) - run.started.timestamp())
    slowest = [f"{one_line(host.host)} {seconds:.1f} s{_of_it(host)}" for seconds, host in
               nlargest(_SLOWEST, timed, key=lambda each: each[0])]  # fmt: skip
    return [f"gathering took {took:.1f} s; slowest: {', '.join(slowest)}"]


def _of_it(host: HostReport) -> str:
    return f" (of it the probe {host.times.probe_s:.1f} s)" if host.times.probe_s is not None else " (no evidence)"


def _hosts(hosts: Iterable[str]) -> str:
    return shortened(fold(hosts), _HOSTS_WIDTH)


def _line(text: str) -> str:
    return f"    {shortened(one_line(text), _TEXT_WIDTH)}"
