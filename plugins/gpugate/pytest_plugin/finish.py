"""The end of a session: verdicts against the expected matrix, the report, and the summary."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from ..errors import ReportError
from ..gather.folder import document_path
from ..report import HostReport, Run, Store, Times, identity_of, new_run_id, times_of
from ..verdict import Verdict, missing
from .live import reports_folder
from .state import State


def write_report(config: pytest.Config, session: pytest.Session, state: State) -> tuple[Run, Path]:
    """Complete the matrix, write the report, and make the exit status red when the report is.

    Raises ReportError where it cannot be written.
    """
    owed = [(host, check) for host in state.targets for check in state.expected(host)]
    absent = [cell for cell in owed if cell not in state.verdicts]
    because = _why_partial(config, session, state) if absent or state.collection_errors else ""
    if absent and not because:
        for host, check in absent:
            where = state.defined.get(check)
            told = f"{where.name} defines it, but it was not run" if where else "no collected file defines it"
            if state.distributed:
                told = "no worker judged it: a file that defines it was not collected, or the worker crashed"
            state.verdicts[host, check] = missing(
                host, check, state.targets[host].policy, f"{check} is missing: {told}"
            )
    documents: dict[str, bytes] = {}
    hosts = []
    judged: dict[str, list[Verdict]] = {}
    for (host, _), verdict in state.verdicts.items():
        judged.setdefault(host, []).append(verdict)
    for host in state.targets:
        verdicts = judged.get(host)
        if not verdicts:
            continue
        policy, evidence, document, times = state.targets[host].policy, None, None, Times()
        if state.folder is not None:
            gathered = state.gathered(host)
            evidence, times = gathered.evidence, times_of(gathered)
            path = document_path(state.folder, host)
            if path.is_file():
                document = documents[host] = path.read_bytes()
        hosts.append(HostReport(host, identity_of(policy, evidence, document), verdicts, times))
    log = state.folder / "gathered.json" if state.folder is not None else None
    if log is not None and log.is_file():
        documents["gathered"] = log.read_bytes()
    started = state.started
    if state.log is not None:
        started = datetime.fromtimestamp(state.log.started_unix_s, UTC)
    elif state.folder is not None:
        known = [g.evidence.started_unix_s for h in state.targets if (g := state.gathered(h)).evidence is not None]
        started = datetime.fromtimestamp(min(known), UTC) if known else state.started
    run = Run(
        run_id=new_run_id(state.started),
        started=started,
        profile=state.profile,
        scope="partial" if because or not hosts else "whole",
        partial_because=because or ("" if hosts else "no host was judged"),
        hosts=hosts,
    )
    folder = Store(reports_folder(config)).write(run, documents)
    if not run.green and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    return run, folder


def write_refusal(config: pytest.Config, reason: str) -> Path | None:
    """The report of a run that could not begin: no host, one error. None where not even that can be written."""
    now = datetime.now(UTC)
    run = Run(run_id=new_run_id(now), started=now, profile="admission", scope="partial", partial_because=reason)
    try:
        return Store(reports_folder(config)).write(run)
    except ReportError:
        return None  # the reason itself is about to end pytest with its own sentence


def _why_partial(config: pytest.Config, session: pytest.Session, state: State) -> str:
    option = config.option
    if state.collection_errors:
        return "collection failed"
    if session.exitstatus == pytest.ExitCode.INTERRUPTED:
        return "it was interrupted"
    for name, flag in (("keyword", "-k"), ("markexpr", "-m"), ("deselect", "--deselect"), ("ignore", "--ignore"),
                       ("ignore_glob", "--ignore-glob")):  # fmt: skip
        if value := getattr(option, name, None):
            return f"{flag} {value if isinstance(value, str) else ' '.join(value)} selected less"
    for name, flag in (("lf", "--lf"), ("stepwise", "--stepwise"), ("setuponly", "--setup-only")):
        if getattr(option, name, False):
            return f"{flag} selected less"
    if session.shouldfail or session.shouldstop:
        return str(session.shouldfail or session.shouldstop)
    if state.deselected:
        return f"{state.deselected} checks were deselected"
    if config.args_source is pytest.Config.ArgsSource.ARGS:
        return f"only {' '.join(config.args)} was asked for"
    return ""
