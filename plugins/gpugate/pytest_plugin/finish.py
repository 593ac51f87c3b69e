"""The end of a session: verdicts against the expected matrix, the report, and the summary."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ..errors import ReportError, SigningError
from ..evidence.codec import RECEIPTS
from ..gather.folder import LOG, document_path
from ..report import HostReport, Run, Store, Times, basis_of, identity_of, new_run_id
from ..report.store import JUNIT
from ..verdict import Verdict, missing
from .live import reports_folder
from .state import State


def write_report(config: pytest.Config, session: pytest.Session, state: State) -> tuple[Run, Path]:
    """Complete the matrix, write the report, and make the exit status red when the report is.

    Raises ReportError where it cannot be written.
    """
    cells = ((host, check) for host in state.targets for check in state.expected(host))
    absent = [cell for cell in cells if cell not in state.verdicts]
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
    judged: dict[str, list[Verdict]] = {}
    for (host, _), verdict in state.verdicts.items():
        judged.setdefault(host, []).append(verdict)
    hosts = []
    about = {host: state.about(host) for host in judged} if state.folder is not None else {}
    for host in filter(judged.get, state.targets):
        known = about.get(host)
        identity = known.identity if known else identity_of(state.targets[host].policy)
        hosts.append(HostReport(host, identity, judged[host], known.times if known else Times()))
    started = state.started.timestamp()
    if state.log is not None:
        started = state.log.started_unix_s
    elif measured := [each.started_unix_s for each in about.values() if each.started_unix_s is not None]:
        started = min(measured)
    run = Run(
        run_id=new_run_id(state.started),
        started=datetime.fromtimestamp(started, UTC),
        profile=state.profile,
        scope="partial" if because or not hosts else "whole",
        partial_because=because or ("" if hosts else "no host was judged"),
        hosts=hosts,
        basis=basis_of({host: target.policy for host, target in state.targets.items()}, state.profile, state.sources),
    )
    documents = (
        {} if state.folder is None else _Documents(state.folder, {h: known.sha256 for h, known in about.items()})
    )
    store = Store(reports_folder(config))
    try:
        folder = store.write(run, documents, state.signer)
    except SigningError as error:
        # Nothing is lost, and nobody is let in by it: what was judged can be read, and what was gathered is kept.
        because = "; ".join(filter(None, (run.partial_because, f"it could not be signed: {error}")))
        kept = store.write(replace(run, scope="partial", partial_because=because), documents)
        raise ReportError(f"{error}; the report is kept, unsigned and as a partial one, in {kept / JUNIT}") from error
    if not run.green and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    return run, folder


class _Documents(Mapping[str, bytes]):
    """The documents that were judged, by host, and the receipts; each is read when it is asked for.

    Raises ReportError for a document that is not the one that was judged any more. One that was never read whole, as
    over the cap, is none of them.
    """

    def __init__(self, folder: Path, sha256: dict[str, str]) -> None:
        self._paths = {host: document_path(folder, host) for host, digest in sha256.items() if digest}
        self._sha256 = sha256
        if (log := folder / LOG).is_file():
            self._paths[RECEIPTS] = log

    def __getitem__(self, host: str) -> bytes:
        path = self._paths[host]
        try:
            document = path.read_bytes()
        except OSError as error:
            raise ReportError(f"{path}, which was judged, cannot be read any more: {error.strerror}") from error
        if hashlib.sha256(document).hexdigest() != self._sha256.get(host) and host != RECEIPTS:
            raise ReportError(f"{path} was changed while it was judged: judge again")
        return document

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


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
