"""What the gate remembers of nodes from run to run, in the state store. None of it ever admits a node by itself.

Losing it costs hysteresis and ownership: a node that gpugate took out is then somebody else's to bring back.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from ..errors import AdmissionError
from ..state.clock import CLOCKS_AGREE_S
from ..state.store import Store
from .breaker import Member
from .decision import Action, Decision
from .standing import History, Kind, Word


@dataclass(frozen=True)
class Remembered:
    """One node as the gate last saw it; times are None where there was none."""

    host: str
    history: History
    inside: bool | None
    owner: str
    action: Action
    reasons: tuple[str, ...]
    decided: datetime
    since: datetime
    green_run: str
    green: datetime | None
    removed: datetime | None
    removed_for: tuple[str, ...]
    domains: tuple[str, ...]
    driver: str


class Memory:
    """The gate's tables of a state store. Every method is one transaction and raises StateError.

    Where `look_only` is true nothing is written, not even an empty store.
    """

    def __init__(self, store: Store, *, look_only: bool = False) -> None:
        self._store, self._look_only = store, look_only
        self.path = store.path

    def nodes(self) -> dict[str, Remembered]:
        """Every node that was ever decided on."""
        with self._reading() as db:
            return _all(db) if db else {}

    def words(self, now: datetime) -> dict[str, list[Word]]:
        """People's words that are good at `now`, by host, the newest first."""
        found: dict[str, list[Word]] = {}
        with self._reading() as db:
            query = "SELECT host, kind, who, why, ticket, since_unix_s, until_unix_s FROM gate_words ORDER BY id DESC"
            for host, kind, who, why, ticket, since, until in db.execute(query) if db else ():
                word = Word(cast(Kind, kind), who, why, ticket, _time(since), _time(until))
                if word.until > now:
                    found.setdefault(host, []).append(word)
        return found

    def say(self, hosts: Iterable[str], word: Word) -> dict[str, AdmissionError]:
        """Write a person's word down, in place of their earlier one; of which nodes another person's is still good, so
        that it was not."""
        taken: dict[str, AdmissionError] = {}
        with self._store.transaction() as db:
            for host in hosts:
                query = "SELECT who FROM gate_words WHERE host = ? AND until_unix_s > ? AND who != ?"
                if other := db.execute(query, (host, word.since.timestamp(), word.who)).fetchone():
                    taken[host] = AdmissionError(
                        f"{host}: {other[0]} has said something of it meanwhile: ask {other[0]}"
                    )
                    continue
                self._end(db, host, word.since)
                db.execute(
                    "INSERT INTO gate_words (host, kind, who, why, ticket, since_unix_s, until_unix_s)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (host, word.kind, word.who, word.why, word.ticket, word.since.timestamp(), word.until.timestamp()),
                )
        return taken

    def take_back(self, hosts: Iterable[str], now: datetime) -> None:
        """End whatever people said of nodes."""
        with self._store.transaction() as db:
            for host in hosts:
                self._end(db, host, now)

    def decided(self, decisions: Sequence[Decision], run: str, now: datetime, about: Mapping[str, Member]) -> None:
        """Remember decisions before they are carried out.

        Raises AdmissionError where another run decided on a newer report meanwhile, or the clock went back: whoever
        goes on then would act on what is no longer so.
        """
        with self._store.transaction() as db:
            known = _all(db)
            refuse_clock(known.values(), now)
            for each in decisions:
                before = known.get(each.host)
                if before and each.history.last_run < before.history.last_run:
                    raise AdmissionError(
                        f"another run of the gate decided on {each.host} by a newer report "
                        f"({before.history.last_run} instead of {run}) meanwhile: run admit.yml again"
                    )
                self._remember(db, each, before, run, now, about[each.host])

    def carried_out(self, decisions: Iterable[Decision], now: datetime) -> None:
        """Remember what was done: these nodes were admitted, or removed for their checks."""
        with self._store.transaction() as db:
            for each in decisions:
                removed = each.action is Action.REMOVE
                db.execute(
                    "UPDATE gate_nodes SET inside = ?, removed_unix_s = ?, removed_for = ?, greens = ?, unproven = 0"
                    " WHERE host = ?",
                    (not removed, now.timestamp() if removed else None, json.dumps(each.checks if removed else ()),
                     0 if removed else each.history.greens, each.host),
                )  # fmt: skip

    def owned(self, backend: str) -> dict[str, str]:
        """What this back end did to nodes and has not undone: its tokens, by host."""
        with self._reading() as db:
            rows = db.execute("SELECT host, token FROM gate_owned WHERE backend = ?", (backend,)) if db else ()
            return dict(list(rows))

    def own(self, backend: str, tokens: Mapping[str, str], now: datetime) -> None:
        """Remember what is about to be done to nodes, in place of what was done before."""
        with self._store.transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO gate_owned VALUES (?, ?, ?, ?)",
                [(backend, host, token, now.timestamp()) for host, token in tokens.items()],
            )

    def disown(self, backend: str, hosts: Iterable[str]) -> None:
        """Forget it: it was undone, or never done."""
        with self._store.transaction() as db:
            db.executemany("DELETE FROM gate_owned WHERE backend = ? AND host = ?", [(backend, host) for host in hosts])

    def _reading(self) -> AbstractContextManager[sqlite3.Connection | None]:
        if self._look_only and not self._store.path.exists():
            return nullcontext(None)
        return self._store.transaction()

    def _end(self, db: sqlite3.Connection, host: str, now: datetime) -> None:
        at = now.timestamp()
        db.execute("UPDATE gate_words SET until_unix_s = ? WHERE host = ? AND until_unix_s > ?", (at, host, at))

    def _remember(
        self, db: sqlite3.Connection, each: Decision, before: Remembered | None, run: str, now: datetime, about: Member
    ) -> None:
        at, green = now.timestamp(), each.action in (Action.ADMIT, Action.KEEP)
        same = before is not None and before.action is each.action
        values = {
            "host": each.host,
            "run": each.history.last_run,
            "greens": each.history.greens,
            "unproven": each.history.unproven,
            "inside": each.in_service,
            "owner": each.standing.owner if each.standing else "",
            "action": each.action.value,
            "reasons": json.dumps(each.reasons),
            "decided_unix_s": at,
            "since_unix_s": before.since.timestamp() if before and same else at,
            "green_run": run if green else before.green_run if before else "",
            "green_unix_s": at if green else before.green.timestamp() if before and before.green else None,
            "removed_unix_s": before.removed.timestamp() if before and before.removed and not each.in_service else None,
            "removed_for": json.dumps(before.removed_for if before and not each.in_service else ()),
            "domains": json.dumps(about.domains),
            "driver": about.driver,
        }
        db.execute(_REMEMBER, values)


def refuse_clock(known: Iterable[Remembered], now: datetime) -> None:
    """Raise AdmissionError where a decision was made in the future: this controller's clock was set back, or another's
    is ahead, and no age means anything."""
    latest = max(known, key=lambda each: each.decided, default=None)
    if latest and (latest.decided - now).total_seconds() > CLOCKS_AGREE_S:
        raise AdmissionError(
            f"the clock says {now.isoformat(timespec='seconds')}, and {latest.host} was decided on at "
            f"{latest.decided.astimezone(now.tzinfo).isoformat(timespec='seconds')}: set the clocks of the controllers "
            "right, then run admit.yml again; until then nobody is admitted or removed"
        )


_REMEMBER = (
    "INSERT OR REPLACE INTO gate_nodes VALUES (:host, :run, :greens, :unproven, :inside, :owner, :action, :reasons,"
    " :decided_unix_s, :since_unix_s, :green_run, :green_unix_s, :removed_unix_s, :removed_for, :domains, :driver)"
)


def _all(db: sqlite3.Connection) -> dict[str, Remembered]:
    """Every node, or AdmissionError: what somebody scribbled in here is no fact."""
    rows = db.execute("SELECT * FROM gate_nodes")
    names = [column[0] for column in rows.description]
    found = {}
    for row in rows:
        known = dict(zip(names, row, strict=True))
        try:
            found[str(known["host"])] = _remembered(known)
        except (ValueError, TypeError, OverflowError) as error:
            raise AdmissionError(
                f"the state store's record of {known['host']} cannot be read ({error}): nobody is decided on"
            ) from None
    return found


def _remembered(row: dict[str, Any]) -> Remembered:
    removed, green = row["removed_unix_s"], row["green_unix_s"]
    return Remembered(
        host=str(row["host"]),
        history=History(str(row["run"]), int(row["greens"]), int(row["unproven"]), removed is not None),
        inside=None if row["inside"] is None else bool(row["inside"]),
        owner=str(row["owner"]),
        action=Action(row["action"]),
        reasons=_texts(row["reasons"]),
        decided=_time(row["decided_unix_s"]),
        since=_time(row["since_unix_s"]),
        green_run=str(row["green_run"]),
        green=None if green is None else _time(green),
        removed=None if removed is None else _time(removed),
        removed_for=_texts(row["removed_for"]),
        domains=_texts(row["domains"]),
        driver=str(row["driver"]),
    )


def _texts(value: str) -> tuple[str, ...]:
    return tuple(map(str, json.loads(value)))


def _time(unix_s: float) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)
