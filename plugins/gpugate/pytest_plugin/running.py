"""How cells run: without setup and teardown, and without hooks around what is judged already.

Registered only in sessions that judge hosts.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ..report.aside import Cases
from ..verdict import Verdict
from .ahead import Ahead, worthwhile
from .cells import AHEAD, UNJUDGED, Cell, judge_host
from .live import reports_folder
from .state import STATE, About, State, send


@contextmanager
def without_search_for_garbage() -> Iterator[None]:
    """For what makes many things that live to the end and hold no cycles, as hosts, cells and verdicts: to look for
    some among them again and again costs a quarter, and once more at the end."""
    usual = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(100 * usual[0], *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.freeze()


@contextmanager
def prepared(session: pytest.Session) -> Iterator[None]:
    """Know the selected cells of every host, and have every other host of a large fleet judged ahead."""
    config = session.config
    state = config.stash[STATE]
    if not state.worker:
        state.cases = Cases(reports_folder(config))
        unjudged = config.stash.setdefault(UNJUDGED, {})
        for item in session.items:
            if isinstance(item, Cell):
                unjudged.setdefault(item.host, []).append(item)
    with without_search_for_garbage(), _judged_ahead(config, state):
        yield


@contextmanager
def _judged_ahead(config: pytest.Config, state: State) -> Iterator[None]:
    """With a second process where that is worthwhile, which is ended whatever happens."""
    unjudged = config.stash.get(UNJUDGED, {})
    alone = config.option.collectonly or _looks_inside(config) or _others(config) or not worthwhile(len(unjudged))
    ahead = None if alone else _ahead(state, unjudged, reports_folder(config))
    config.stash[AHEAD] = ahead
    try:
        yield
    finally:
        if ahead is not None:
            ahead.end()


def _ahead(state: State, unjudged: dict[str, list[Cell]], folder: Path) -> Ahead | None:
    """The second process; None where its findings cannot be put aside."""
    cases = Cases(folder)
    if not cases.written():  # opens the file, which both processes have then
        return None

    def judged(host: str) -> tuple[About, list[Verdict]]:
        state.cases = cases  # in the second process, where nobody else keeps anything
        verdicts = judge_host(state, host, unjudged[host])
        return state.about(host), verdicts

    return Ahead(list(unjudged)[1::2], cases, judged)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Resolve the inventory and collect."""
    with without_search_for_garbage():
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """pytest's own loop, but for cells that are judged already: they only report, and no hook goes around that.

    The first cell of a host, with which all are judged, has the hooks: warnings and time limits are theirs. Where
    somebody else's plugin has one, and where xdist or nobody runs the tests, the loop stays as it was.
    """
    config = session.config
    starts = _heard(config, config.hook.pytest_runtest_logstart)
    finishes = _heard(config, config.hook.pytest_runtest_logfinish)
    if session.testsfailed or config.option.collectonly or _looks_inside(config) or _others(config):
        return None
    for item, following in itertools.zip_longest(session.items, session.items[1:]):
        if isinstance(item, Cell) and item.judged is not None:
            run_cell(item, starts, finishes)
        else:
            config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Cells run without setup and teardown, unless somebody wants to look inside."""
    if not isinstance(item, Cell) or _looks_inside(item.config):
        return None
    run_cell(item)
    return True


def run_cell(item: Cell, starts: bool = True, finishes: bool = True) -> None:
    """The whole protocol of a cell: start, one report, finish; start and finish only where somebody hears of them."""
    if starts:
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    verdict = item.verdict()
    report: pytest.TestReport = CellReport(item, verdict)
    if hasattr(item.config, "workerinput"):
        report = report.plain()
        send(item.config, report, verdict)
    item.ihook.pytest_runtest_logreport(report=report)
    if finishes:
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


class CellReport(pytest.TestReport):
    """A report that asks its cell: pytest keeps every report to the end, and those of a fleet are many."""

    when = "call"
    sections: Any = ()
    user_properties: Any = ()

    def __init__(self, cell: Cell, verdict: Verdict) -> None:
        self._cell, self._verdict, self.stop = cell, verdict, time.time()

    def plain(self) -> pytest.TestReport:
        """The same as a report of pytest's own, which can be sent."""
        return pytest.TestReport(
            self.nodeid, self.location, self.keywords, self.outcome, self.longrepr, "call",
            duration=self.duration, start=self.start, stop=self.stop,
        )  # fmt: skip

    def _to_json(self) -> dict[str, Any]:
        return self.plain()._to_json()

    # What pytest has as attributes.
    nodeid = property(lambda self: self._cell.nodeid)
    _id = property(lambda self: self._cell.id)
    location = property(lambda self: self._cell.location)
    keywords = property(lambda self: {self._cell.name: 1})
    outcome = property(lambda self: "passed" if self._verdict.outcome.green else "failed")
    longrepr = property(lambda self: self._cell.sentences(self._verdict))
    duration = property(lambda self: self._verdict.seconds)
    start = property(lambda self: self.stop - self.duration)


def _heard(config: pytest.Config, hook: Any) -> bool:
    """Whether anybody does something by this hook: logging has nothing to begin anew where it shows nothing, and the
    terminal names no file under -q."""
    idle = set()
    if not (config.getini("log_cli") or config.option.log_cli_level):
        idle.add("_pytest.logging")
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None or not (terminal.showfspath or terminal.showlongtestinfo):
        idle.add("_pytest.terminal")
    return bool({impl.function.__module__ for impl in hook.get_hookimpls()} - idle)


def _looks_inside(config: pytest.Config) -> bool:
    option = config.option
    return bool(option.usepdb or option.setupshow or option.setuponly or option.trace)


def _others(config: pytest.Config) -> bool:
    """Whether tests are run by others than pytest and us, or have hooks of others around them."""
    hooks = [*config.hook.pytest_runtestloop.get_hookimpls(), *config.hook.pytest_runtest_protocol.get_hookimpls()]
    modules = {getattr(hook.function, "__module__", "") for hook in hooks}
    return any(module.split(".")[0] not in ("_pytest", __package__.split(".")[0]) for module in modules)
