"""How cells run: without setup and teardown, and without hooks around what is judged already.

Registered only in sessions that judge hosts.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Generator
from typing import Any

import pytest

from ..report.aside import Cases
from .cells import UNJUDGED, Cell, Sentences
from .live import reports_folder
from .state import STATE, send


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, Any, Any]:
    """Know the selected cells of every host, and look for no garbage: verdicts are many, live to the end and hold no
    cycles, so that looking for some again and again costs a quarter, and once more at the end."""
    state = session.config.stash[STATE]
    if not state.worker:
        state.cases = Cases(reports_folder(session.config))
        unjudged = session.config.stash.setdefault(UNJUDGED, {})
        for item in session.items:
            if isinstance(item, Cell):
                unjudged.setdefault(item.host, []).append(item)
    usual = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(100 * usual[0], *usual[1:])
    try:
        return (yield)
    finally:
        gc.set_threshold(*usual)
        gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Cells run without setup and teardown, unless somebody wants to look inside."""
    option = item.config.option
    if not isinstance(item, Cell) or option.usepdb or option.setupshow or option.setuponly or option.trace:
        return None
    run_cell(item)
    return True


def run_cell(item: Cell) -> None:
    """The whole protocol of a cell: start, one report, finish."""
    hook, location = item.ihook, item.location
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=location)
    began = time.time()
    verdict = item.verdict()
    green = verdict.outcome.green
    report = pytest.TestReport(
        nodeid=getattr(item, "id", item.nodeid), location=location, keywords={item.name: 1},
        outcome="passed" if green else "failed",
        longrepr=None if green else Sentences(verdict, str(item.path), item.checked.line + 1),
        when="call", duration=verdict.seconds, start=began, stop=began + verdict.seconds,
    )  # fmt: skip
    send(item.config, report, verdict)
    hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=location)
