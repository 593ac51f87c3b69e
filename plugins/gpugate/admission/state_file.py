"""The state file: a JSON object that says which nodes are in service, for sites that read it themselves.

    {"schema": 1, "hosts": {"gpu0": {"in_service": true, "since": "2026-01-31T12:00:00+00:00", "by": "root",
                                     "why": "...", "run_id": "...", "report_sha256": "..."}}}

A host that is not in it is outside. A file that is there and cannot be read is an error, never a state. So is a file
that is gone: the first decisions leave an audit beside it, and an audit without a state file means that it was lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime, ConfigDict, TypeAdapter, ValidationError

from ..errors import AdmissionError
from . import files
from .decision import Action, Decision
from .standing import Standing

SCHEMA = 1
_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class Entry:
    """One node: its state, since when, by whom, why, and by which report."""

    __pydantic_config__ = _STRICT

    in_service: bool
    since: AwareDatetime
    by: str
    why: str
    run_id: str
    report_sha256: str


@dataclass(frozen=True)
class State:
    """The whole file."""

    __pydantic_config__ = _STRICT

    schema: int
    hosts: dict[str, Entry]


_STATE = TypeAdapter(State)


class StateFile:
    """Back end over one file. `audit` is the file whose presence says that there was a state before.

    `by`, `run_id` and `report_sha256` go into each entry that this run writes. Raises AdmissionError at once where the
    file is lost or cannot be read.
    """

    def __init__(self, path: Path, audit: Path, *, by: str, run_id: str, report_sha256: str) -> None:
        self._path, self._audit = path, audit
        self._by, self._run_id, self._sha256 = by, run_id, report_sha256
        self._hosts = self._read().hosts

    def standings(self, hosts: Sequence[str]) -> dict[str, Standing | AdmissionError]:
        """What the file said when this run began."""
        return {host: _standing(self._hosts.get(host)) for host in hosts}

    def begin(self) -> None:
        """Make the file where there never was one, so that the audit may say from now on that there was."""
        try:
            with files.locked(self._path):
                if not self._path.exists():
                    self._write(self._read())
        except OSError as error:
            raise AdmissionError(f"the state file {self._path} cannot be made: {error.strerror or error}") from error

    def carry_out(self, decisions: Sequence[Decision]) -> dict[str, AdmissionError | None]:
        """Write all of them down at once; refuses a host whose entry was changed since this run began."""
        results: dict[str, AdmissionError | None] = {}
        try:
            with files.locked(self._path):
                state = self._read()
                for decision in decisions:
                    results[decision.host] = self._enter(state, decision)
                self._write(state)
        except OSError as error:
            raise AdmissionError(f"the state file {self._path} cannot be written: {error.strerror or error}") from error
        return results

    def tell(self, decisions: Sequence[Decision]) -> dict[str, AdmissionError]:
        """Nothing to show: the file holds who is in service, and no more."""
        return {}

    def _enter(self, state: State, decision: Decision) -> AdmissionError | None:
        host = decision.host
        if state.hosts.get(host) != self._hosts.get(host) or _standing(state.hosts.get(host)) != decision.standing:
            return AdmissionError(
                f"{host}: somebody changed its entry in {self._path} while this run decided; run admit.yml again"
            )
        since = datetime.now().astimezone().replace(microsecond=0)
        why, inside = "; ".join(decision.reasons), decision.action is Action.ADMIT
        state.hosts[host] = Entry(inside, since, self._by, why, self._run_id, self._sha256)
        return None

    def _write(self, state: State) -> None:
        files.replace(self._path, _STATE.dump_json(state, indent=2) + b"\n")

    def _read(self) -> State:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            if self._audit.exists():
                raise AdmissionError(
                    f"the state file {self._path} is gone, and its audit {self._audit} says that there was one: put it "
                    "back from a backup, or move the audit away to begin again with every node outside"
                ) from None
            return State(SCHEMA, {})
        except OSError as error:
            raise AdmissionError(f"the state file {self._path} cannot be read: {error.strerror or error}") from error
        try:
            state = _STATE.validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the whole of it"
            raise AdmissionError(
                f"the state file {self._path} is not valid ({where}: {first['msg']}): put it back from a backup; until "
                "then no node is admitted or removed"
            ) from error
        if state.schema != SCHEMA:
            raise AdmissionError(
                f"the state file {self._path} has the schema {state.schema}; this gpugate reads {SCHEMA}"
            )
        return state


def _standing(entry: Entry | None) -> Standing:
    """A host that is not in the file is new; one that is in it and outside was removed."""
    if entry is None:
        return Standing(False)
    return Standing(entry.in_service, removed=not entry.in_service, since=entry.since)
