"""Cheap cells: one item a host x check that judges evidence without fixtures, setup or teardown.

Measured for 1000 hosts x 40 checks, pytest's own parametrised functions take several times as long; the node ids
are the same. A check that asks for anything but node, policy and expect is an ordinary pytest function.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from _pytest._code.code import ReprFileLocation, TerminalRepr
from _pytest._io import TerminalWriter

from ..report.text import one_line
from ..verdict import Verdict, judge
from .ahead import Ahead
from .state import CHECK_PREFIX, STATE, State, check_id

CHEAP = {"node", "policy", "expect"}
AHEAD = pytest.StashKey[Ahead | None]()  # who judges some of the hosts beside this process
UNJUDGED = pytest.StashKey[dict[str, list["Cell"]]]()  # the selected cells of each host, judged with the first of them


class CheckFailed(Exception):
    """A red verdict, on its way through pytest."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(f"{verdict.host}: {verdict.headline}")
        self.verdict = verdict


class Sentences(TerminalRepr):
    """A red verdict as pytest shows it: sentences instead of a traceback."""

    def __init__(self, verdict: Verdict, path: str, line: int) -> None:
        self.verdict = verdict
        self.reprcrash = ReprFileLocation(path, line, one_line(f"{verdict.host}: {verdict.headline}"))

    def toterminal(self, tw: TerminalWriter) -> None:
        """Write the outcome and every bad finding."""
        verdict = self.verdict
        tw.line(f"{verdict.outcome} {verdict.check} on {verdict.host}", bold=True, red=not verdict.outcome.green)
        for line in [*map(str, verdict.bad), verdict.reason]:
            if line:
                tw.line(f"  {one_line(line)}")
        if verdict.next:
            tw.line(f"  next: {verdict.next}")


@dataclass(frozen=True)
class Check:
    """A check as all its cells share it.

    `call` takes node, policy and expect, and calls `function` with what it asks for; `place` is the file, as pytest
    tells it, and the line, counted from 0.
    """

    id: str
    function: Callable[..., None]
    call: Callable[..., None]
    marks: Sequence[pytest.Mark]
    place: tuple[str, int]

    @staticmethod
    def of(id: str, function: Callable[..., None], module: pytest.Module) -> Check:
        """The check that a function of a module is."""
        wants, checked = tuple(inspect.signature(function).parameters), returns_nothing(function)

        def call(node: Any, policy: Any, expect: Any) -> None:
            given = {"node": node, "policy": policy, "expect": expect}
            checked(**{name: given[name] for name in wants})

        family: pytest.MarkDecorator = getattr(pytest.mark, id.split(".")[0])
        marks = [*getattr(function, "pytestmark", []), family.mark]
        path = os.path.relpath(module.path, module.config.rootpath)
        return Check(id, function, call, marks, (path, function.__code__.co_firstlineno - 1))


class Cell(pytest.Item):
    """One check on one host. A fleet has hundreds of thousands, so that each holds little of its own."""

    def __init__(self, *, check: Check, host: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.checked, self.host = check, host
        self.judged: Verdict | None = None
        self.own_markers.extend(check.marks)
        self.keywords.update((mark.name, mark) for mark in check.marks)
        self.extra_keyword_matches.update((host, check.id))

    __hash__ = object.__hash__  # pytest's own hashes the node id every time

    @property
    def location(self) -> tuple[str, int, str]:
        """File, line and name."""
        return *self.checked.place, self.name

    @property
    def check(self) -> str:
        """The check's id."""
        return self.checked.id

    @property
    def obj(self) -> Callable[..., None]:
        """The check's function, where pytest's own plugins look for it."""
        return self.checked.function

    function = obj  # where `-k` looks for it

    def runtest(self) -> None:
        """Judge; raises CheckFailed for a red verdict."""
        verdict = self.verdict()
        if not verdict.outcome.green:
            raise CheckFailed(verdict)

    def verdict(self) -> Verdict:
        """Judge once, and remember. With a host's first cell all its selected ones are judged, so that its evidence
        is read once and need not be kept; an xdist worker, which does not know what it will be given, judges one."""
        state = self.config.stash[STATE]
        if self.judged is None:
            cells = self.config.stash.get(UNJUDGED, {}).pop(self.host, [self])
            ahead = self.config.stash.get(AHEAD, None)
            taken = ahead.take(self.host) if ahead is not None else None
            if taken is not None and state.adopt(self.host, taken[0]):
                verdicts = taken[1]
            else:
                verdicts = judge_host(state, self.host, cells)
            for cell, verdict in zip(cells, verdicts, strict=True):
                cell.judged = verdict
            if self.judged is None:
                raise RuntimeError(f"{self.nodeid} is none of the selected cells")
        state.verdicts[self.host, self.check] = self.judged
        return self.judged

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """Sentences for a red verdict, pytest's own view of anything else."""
        if isinstance(excinfo.value, CheckFailed):
            return self.sentences(excinfo.value.verdict)
        return super().repr_failure(excinfo, style)

    def sentences(self, verdict: Verdict) -> Sentences | None:
        """What to show of a red verdict; None of a green one."""
        return None if verdict.outcome.green else Sentences(verdict, str(self.path), self.checked.place[1] + 1)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where the check stands."""
        return self.path, self.checked.place[1], self.name


def judge_host(state: State, host: str, cells: Sequence[Cell]) -> list[Verdict]:
    """The verdicts of these cells of a host, kept as the session keeps them."""
    gathered, policy = state.gathered(host), state.targets[host].policy
    return [state.keep(judge(cell.check, cell.checked.call, gathered, policy, state.today)) for cell in cells]


def make_items(state: State, collector: pytest.Module, name: str, function: Callable[..., None]) -> list[pytest.Item]:
    """The items of one check: a cell a host, or ordinary functions where it asks for other fixtures."""
    check = check_id(collector.path, name)
    hosts = state.hosts_for(check, collector.path)
    marks = [*collector.iter_markers(), *getattr(function, "pytestmark", [])]
    if found := {"skip", "skipif", "xfail"} & {mark.name for mark in marks}:
        raise pytest.Collector.CollectError(
            f"{collector.path}: {name} is marked {', '.join(sorted(found))}, and there is no silent skip: say "
            f"'{check}: absent' under gpugate_checks where it does not apply, or waive it"
        )
    if set(inspect.signature(function).parameters) <= CHEAP:
        return list(_cells(collector, name, function, check, hosts))
    return _ordinary(collector, name, function, check, hosts) if hosts else []


def _ordinary(
    collector: pytest.Module, name: str, function: Callable[..., None], check: str, hosts: list[str]
) -> list[pytest.Item]:
    """One function a host, made in pytest's own way."""
    items: list[pytest.Function] = list(collector._genfunctions(name, function))
    given = [getattr(item, "callspec", None) and item.callspec.params for item in items]
    if given != [{"gpugate_host": host} for host in hosts]:
        raise pytest.Collector.CollectError(
            f"{collector.path}: {name} does not give one verdict a host: it has to ask for host, node, policy or "
            "expect, and to loop over other parameters itself"
        )
    for item in items:
        item.obj = returns_nothing(function)
        item.add_marker(check.split(".")[0])
    return [*items]


def returns_nothing(function: Callable[..., Any]) -> Callable[..., None]:
    """The check, which breaks where it returns something: a truth value, or a generator or coroutine that never ran."""

    @functools.wraps(function)
    def run(**given: Any) -> None:
        returned = function(**given)
        if returned is not None:
            raise TypeError(f"it returned {returned!r}, and a check speaks by expect or assert")

    return run


def _cells(
    collector: pytest.Module, name: str, function: Callable[..., None], check: str, hosts: list[str]
) -> Iterator[Cell]:
    shared = Check.of(check, function, collector)
    for host in hosts:
        full = f"{name}[{host}]"
        # Said outright, so that pytest sees the brackets as a parameter: --lf compares ids in parts since 9.2.
        nodeid = f"{collector.nodeid}::{full}"
        cell: Cell = Cell.from_parent(collector, name=full, nodeid=nodeid, check=shared, host=host)
        yield cell


def is_check(name: str, obj: object) -> bool:
    """Whether a name of a module is a check."""
    return name.startswith(CHECK_PREFIX) and inspect.isfunction(obj)
