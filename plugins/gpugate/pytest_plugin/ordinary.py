"""Checks that are ordinary pytest functions: those that ask for testinfra's `host` or fixtures of a site's own.

Registered only in sessions that judge hosts, so that `host` stays testinfra's own everywhere else.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from ..errors import NotGathered, Unavailable
from ..policy import Policy
from ..report.text import one_line
from ..verdict import Expect, Finding, Node, Verdict, because, conclude, missing, traced, uncovered, unjudged
from .cells import Cell, CheckFailed
from .state import CHECK_PREFIX, STATE, check_id, send

_EXPECT = pytest.StashKey[Expect]()
_NODE = pytest.StashKey[Node]()


@pytest.fixture
def gpugate_host(request: pytest.FixtureRequest) -> str:
    """The host that this item judges."""
    name: str = request.param
    return name


@pytest.fixture
def policy(request: pytest.FixtureRequest, gpugate_host: str) -> Policy:
    """The host's policy."""
    return traced(request.config.stash[STATE].targets[gpugate_host].policy)


@pytest.fixture
def node(request: pytest.FixtureRequest, gpugate_host: str) -> Node:
    """The host's evidence."""
    gathered = request.config.stash[STATE].gathered(gpugate_host)
    if gathered.evidence is None:
        raise gathered.problem or Unavailable("there is no evidence")
    known: Node = request.node.stash.setdefault(_NODE, Node(gathered, gathered.evidence))
    return known


@pytest.fixture
def expect(request: pytest.FixtureRequest, gpugate_host: str) -> Expect:
    """The recorder of findings."""
    recorder: Expect = request.node.stash.setdefault(_EXPECT, Expect())
    return recorder


@pytest.fixture
def host(request: pytest.FixtureRequest, gpugate_host: str) -> Any:
    """testinfra's host, over a connection of ours with a deadline."""
    from .live import hosts_of

    state = request.config.stash[STATE]
    gathered = state.gathered(gpugate_host)
    if isinstance(gathered.problem, NotGathered):
        raise gathered.problem
    return hosts_of(request.config).get(state.targets[gpugate_host])


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One item for every host that owes the check."""
    if "gpugate_host" not in metafunc.fixturenames:
        return
    state = metafunc.config.stash[STATE]
    path, name = metafunc.definition.path, metafunc.function.__name__
    if not name.startswith(CHECK_PREFIX) or metafunc.cls is not None:
        raise pytest.Collector.CollectError(
            f"{path}: {name} judges hosts, so it has to be a function of the module and called {CHECK_PREFIX}..."
        )
    check = check_id(path, name)
    metafunc.parametrize("gpugate_host", state.hosts_for(check, path), indirect=True)


def cell_of(item: pytest.Item) -> tuple[str, str] | None:
    """The host and check that an item judges, None for a test that judges none."""
    if isinstance(item, Cell):
        return item.host, item.check
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    function = getattr(item, "originalname", None)
    if "gpugate_host" in parameters and function:
        return parameters["gpugate_host"], check_id(item.path, function)
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Red findings of an ordinary check fail it, and so does finding nothing though it asked for `expect`."""
    yield
    cell = cell_of(item)
    if cell is None or isinstance(item, Cell):
        return
    verdict = _verdict(item, cell, None)
    if not verdict.outcome.green:
        raise CheckFailed(verdict)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the verdict of an ordinary check; a skip inside one is an ERROR, for there is no silent skip."""
    report = yield
    cell = cell_of(item)
    if cell is None or isinstance(item, Cell):
        return report
    known = item.config.stash[STATE].verdicts.get(cell)
    if call.when == "teardown" and known is not None and not known.outcome.green:
        return report  # what was measured outside its bounds stays said
    error = call.excinfo.value if call.excinfo is not None else None
    if call.when == "call" or error is not None:
        verdict = error.verdict if isinstance(error, CheckFailed) else _verdict(item, cell, error)
        item.config.stash[STATE].verdicts[cell] = verdict
        send(item.config, report, verdict)
        report.outcome = "passed" if verdict.outcome.green else "failed"
        if verdict.outcome.green:
            report.longrepr = None
        elif report.longrepr is None or isinstance(
            error, (CheckFailed, Unavailable, NotGathered, pytest.skip.Exception)
        ):
            report.longrepr = one_line(f"{verdict.outcome} {verdict.check} on {verdict.host}: {verdict.headline}")
    return report


def _verdict(item: pytest.Item, cell: tuple[str, str], error: BaseException | None) -> Verdict:
    state = item.config.stash[STATE]
    name, check = cell
    owner = state.targets[name].policy
    recorder, node = item.stash.get(_EXPECT, None), item.stash.get(_NODE, None)
    if isinstance(error, NotGathered):
        return missing(name, check, owner, str(error))
    if error is not None and state.gathered(name).problem is error:
        return unjudged(state.gathered(name), check, owner, state.today)
    reason = ""
    if recorder is None:
        recorder = Expect()
        if error is None and node is not None and node.looked_at_gpus and len(node.gpus) < owner.gpu_count:
            reason = f"only {len(node.gpus)} of the {owner.gpu_count} GPUs that policy expects were there to judge"
        if error is None or isinstance(error, AssertionError):
            said = str(error).splitlines()[0] if error is not None and str(error) else "failed" if error else "held"
            recorder.findings.append(
                Finding("its assertions", said, "", "true", "built into the check", error is None, False, None, "")
            )
            error = None
    elif error is None and node is not None:
        reason = uncovered(node, owner, recorder)
    if isinstance(error, pytest.skip.Exception):
        reason = f"the check was skipped ({error.msg}), and what was not measured is not green"
    elif error is not None:
        reason = because(error)
    return conclude(name, check, owner, recorder, reason, 0.0, state.today)
