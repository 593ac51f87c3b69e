"""`pytest --hosts=gpu_fleet`: gather evidence once, judge every host x check, write one report.

The order of a session: hosts are resolved before collection (a typo stops here), checks become one item for each
host that owes them, `-k -m --lf` and node ids select, then evidence of the selected hosts is gathered, all at once,
before the first item; items judge; the end compares with the expected matrix and writes the report.
"""

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ..errors import GpugateError, ReportError
from ..policy import CATALOGUE, Profile
from ..report.terminal import summary_lines
from . import finish, live, ordinary, running, signing
from .cells import is_check, make_items
from .state import STATE, State, verdict_of

_SUMMARY = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Our options; `--hosts` and `--ansible-inventory` are testinfra's, and mean what they mean there."""
    group = parser.getgroup("gpugate")
    group.addoption(
        "--profile", choices=("admission", "nightly", "quick"), help="which checks are owed (else policy's)"
    )
    group.addoption(
        "--evidence", metavar="DIR", action="append", default=[],
        help="judge the documents in DIR and touch no host; given again, several sets are judged as one",
    )  # fmt: skip
    group.addoption("--reports", metavar="DIR", help="where reports are written (default: reports/ in the project)")
    live.add_options(parser, group)
    signing.add_options(parser)
    parser.addini("gpugate", "this project's checks judge hosts: --hosts is needed", type="bool", default=False)


@pytest.hookimpl(trylast=True)
def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Of cells, what pytest itself would answer, without asking all of its own plugins. A site's conftest is asked
    before: this module is there earlier."""
    if not isinstance(report, running.CellReport):
        return None
    return ("passed", ".", "PASSED") if report.outcome == "passed" else ("failed", "F", "FAILED")


def pytest_configure(config: pytest.Config) -> None:
    """Switch on for sessions that judge hosts, and only there."""
    if not _judges(config):
        options = ("evidence", "profile", "reports", "resume")
        if given := [f"--{name}" for name in options if config.getoption(name) not in (None, [])]:
            raise pytest.UsageError(
                f"{given[0]} is for a gpugate project, and {config.rootpath} is none: start pytest in the project, or "
                f"name it with -c; and write {given[0]}=..., with the equals sign"
            )
        return
    if not __debug__:
        raise pytest.UsageError("gpugate does not run under python -O, which removes the assertions of site checks")
    config.option.importmode = "importlib"  # checks/site.py must not become the module `site`
    if config.args_source is not pytest.Config.ArgsSource.ARGS and (config.rootpath / "checks").is_dir():
        config.args[:] = [str(config.rootpath / "checks")]
    config.pluginmanager.register(ordinary, "gpugate-ordinary")
    config.pluginmanager.register(running, "gpugate-running")
    config.pluginmanager.register(_Session(config), "gpugate-session")


def _judges(config: pytest.Config) -> bool:
    asked = config.getoption("hosts", None) or config.getoption("evidence")
    return bool(config.getini("gpugate") or (asked and (config.rootpath / "checks").is_dir()))


class _Session:
    """The hooks of a session that judges hosts."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.worker = hasattr(config, "workerinput")

    @property
    def state(self) -> State:
        return self.config.stash[STATE]

    @property
    def distributes(self) -> bool:
        """Whether xdist's workers judge; asked late, because xdist may be configured after us."""
        return not self.worker and self.config.pluginmanager.hasplugin("dsession")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Under xdist the controller never collects: resolve and gather before its workers start."""
        if self.distributes:
            self._resolve()
            if not self.config.option.collectonly:
                self._provide_evidence(list(self.state.targets))

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell an xdist worker which profile this is, and where the evidence lies."""
        node.workerinput["gpugate_evidence"] = str(self.state.folder or "")
        node.workerinput["gpugate_profile"] = self.state.profile

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Take over what an xdist worker collected."""
        signing.receive_sources(self.state, getattr(node, "workeroutput", {}))

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> None:
        """Resolve the hosts before anything is collected for them."""
        if STATE not in self.config.stash:
            self._resolve()

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
        """Every Python file among the checks is a check file, whatever python_files says."""
        if file_path.suffix != ".py" or file_path.name in ("conftest.py", "__init__.py"):
            return None
        patterns = self.config.getini("python_files")
        if any(file_path.match(pattern) for pattern in patterns) or parent.session.isinitpath(file_path):
            return None  # pytest collects it itself
        module: pytest.Module = pytest.Module.from_parent(parent, path=file_path)
        return module

    def pytest_pycollect_makeitem(
        self, collector: pytest.Collector, name: str, obj: object
    ) -> list[pytest.Item] | None:
        """Checks become items; everything else is pytest's."""
        if not is_check(name, obj) or not isinstance(collector, pytest.Module):
            return None
        return make_items(self.state, collector, name, obj)  # type: ignore[arg-type]  # is_check made sure

    def pytest_collection_finish(self) -> None:
        """Remember by which files hosts are judged, as they are now."""
        signing.take_sources(self.config, self.state)

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        """Count what -k, -m, --lf and node ids left out."""
        self.state.deselected += len(items)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A check file that cannot be imported makes the run partial."""
        if report.failed:
            self.state.collection_errors.append(report.longreprtext)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, Any, Any]:
        """Gather, once, what the selected items need."""
        broken = session.testsfailed and not self.config.option.continue_on_collection_errors
        if not self.config.option.collectonly and not self.distributes and session.items and not broken:
            cells = [cell for item in session.items if (cell := ordinary.cell_of(item))]
            self._provide_evidence(list(dict.fromkeys(host for host, _ in cells)))
        with running.prepared(session):
            return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take over the verdicts of xdist workers."""
        verdict = None if self.worker else verdict_of(report)
        if verdict is not None:
            self.state.verdicts[verdict.host, verdict.check] = self.state.keep(verdict)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the report, whatever happened."""
        if self.worker and STATE in self.config.stash:
            signing.send_sources(self.config, self.state)
        if STATE in self.config.stash and not self.worker and not self.config.option.collectonly:
            try:
                run, folder = finish.write_report(self.config, session, self.state)
                self.config.stash[_SUMMARY] = summary_lines(run, folder)
                if session.exitstatus != pytest.ExitCode.INTERRUPTED:
                    live.finished(self.config)
            except ReportError as error:
                self.config.stash[_SUMMARY] = [f"ERROR: {error}"]
                session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    def pytest_unconfigure(self) -> None:
        """Leave nothing open or lying about, however the session ended."""
        live.close(self.config)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say who is green, who is not and why, and where the report is."""
        state = self.config.stash.get(STATE, None)
        for line in [*(state.collection_errors if state else []), *self.config.stash.get(_SUMMARY, [])]:
            terminalreporter.write_line(line)

    def _resolve(self) -> None:
        try:
            state = _state(self.config)
            state.distributed, state.worker = self.distributes, self.worker
            folder = None if self.worker else live.given_evidence(self.config)
            if folder is not None:
                state.use_folder(folder)
            if not (self.worker or self.config.option.collectonly):
                state.signer = signing.signer(self.config, state.targets.values())
            self.config.stash[STATE] = state
        except GpugateError as error:
            folder = (
                None if self.worker or self.config.option.collectonly else finish.write_refusal(self.config, str(error))
            )
            raise pytest.UsageError(
                f"{error}" + (f"\nthe report of this run: {folder / 'junit.xml'}" if folder else "")
            ) from error
        named = set(CATALOGUE).union(*(target.policy.checks for target in state.targets.values()))
        for family in sorted({check.split(".")[0] for check in named}):
            self.config.addinivalue_line("markers", f"{family}: checks of the family {family}")

    def _provide_evidence(self, hosts: list[str]) -> None:
        if self.worker:
            self.state.use_folder(Path(self.config.workerinput["gpugate_evidence"]))  # type: ignore[attr-defined]  # xdist's
        elif hosts and not self.config.getoption("evidence"):
            live.gather_now(self.config, self.state, hosts)


def _state(config: pytest.Config) -> State:
    from ..inventory import resolve, use_project

    pattern = config.getoption("hosts", None)
    if not pattern:
        raise GpugateError("say which hosts to judge, for example --hosts=gpu_fleet")
    use_project(config.rootpath)
    targets = resolve(pattern, config.getoption("ansible_inventory", None))
    told = getattr(config, "workerinput", None)  # xdist's
    profile: Profile | None = told["gpugate_profile"] if told else _asked_profile(config)
    if profile is None:
        profiles = {target.policy.profile for target in targets}
        if len(profiles) > 1:
            raise GpugateError(
                f"the hosts have different profiles ({', '.join(sorted(profiles))}): choose with --profile"
            )
        profile = profiles.pop()
    return State({target.name: target for target in targets}, profile, datetime.now(UTC))


def _asked_profile(config: pytest.Config) -> Profile | None:
    given: Profile | None = config.getoption("profile")
    resumed = live.resumed_profile(config)
    if given and resumed and given != resumed:
        raise GpugateError(f"--resume goes on with a gather of the profile {resumed}, not {given}")
    return given or resumed
