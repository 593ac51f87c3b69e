"""One SQLite file that every controller of a fleet opens, on one host or on a shared file system.

The journal is the rollback journal, never WAL: WAL keeps its index in memory that only processes of one host share, so
that two hosts on a network file system would ruin the file. Every transaction begins as a writer (BEGIN IMMEDIATE):
what it read is still so when it writes. Nothing in here is ever guessed: a file that cannot be used is a StateError.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import StateBusy, StateError

SCHEMA = 2
BUSY_S = 30.0
_APPLICATION = 0x67707567  # "gpug", in SQLite's header: this is no other program's database

_TABLES = """
CREATE TABLE leases (
    ticket INTEGER PRIMARY KEY AUTOINCREMENT,  -- in the order of asking
    key TEXT NOT NULL UNIQUE,
    node TEXT NOT NULL,
    gpus INTEGER NOT NULL,
    watts INTEGER NOT NULL,
    user TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    run TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waits', 'granted', 'burns')),
    lasts_s REAL NOT NULL,       -- from the stamp on
    stamp_unix_s REAL NOT NULL,
    stamp_boot TEXT NOT NULL,
    stamp_boot_s REAL NOT NULL
);
CREATE TABLE lease_domains (
    ticket INTEGER NOT NULL REFERENCES leases ON DELETE CASCADE,
    domain TEXT NOT NULL,
    most_nodes INTEGER,          -- NULL: this node's policy names no such cap
    most_gpus INTEGER,
    most_watts INTEGER,
    PRIMARY KEY (ticket, domain)
);
"""
_TABLES_2 = """
CREATE TABLE gate_nodes (            -- what the gate knows of each node that it ever decided on
    host TEXT PRIMARY KEY,
    run TEXT NOT NULL,               -- the newest run decided on
    greens INTEGER NOT NULL,
    unproven INTEGER NOT NULL,
    inside INTEGER,                  -- NULL: the back end could not tell
    owner TEXT NOT NULL,
    action TEXT NOT NULL,
    reasons TEXT NOT NULL,           -- JSON list
    decided_unix_s REAL NOT NULL,
    since_unix_s REAL NOT NULL,      -- when this action was decided first, in a row
    green_run TEXT NOT NULL,
    green_unix_s REAL,
    removed_unix_s REAL,             -- NULL: in service by the gate's word, or never let in
    removed_for TEXT NOT NULL,       -- JSON list of checks
    domains TEXT NOT NULL,           -- JSON list
    driver TEXT NOT NULL
);
CREATE TABLE gate_owned (            -- what a back end did to a node, so that it undoes nothing of anybody else's
    backend TEXT NOT NULL,
    host TEXT NOT NULL,
    token TEXT NOT NULL,
    since_unix_s REAL NOT NULL,
    PRIMARY KEY (backend, host)
);
CREATE TABLE gate_words (            -- people's words about nodes; one of a kind may be open for a node
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    host TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('hold', 'release')),
    who TEXT NOT NULL,
    why TEXT NOT NULL,
    ticket TEXT NOT NULL,
    since_unix_s REAL NOT NULL,
    until_unix_s REAL NOT NULL
);
"""
_SCHEMAS = (_TABLES, _TABLES_2)  # what each schema adds to the one before it


class Store:
    """The file at `path`; made at the first use, its folder never: a share that is not mounted must not look empty."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checked = False

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction that nobody else writes beside; committed at the end, rolled back by an exception.

        Raises StateBusy where others kept the file locked for `BUSY_S`, else StateError.
        """
        if not self.path.parent.is_dir():
            raise StateError(
                f"the state store {self.path} cannot be made: {self.path.parent} is no folder: mount it, or make "
                "it once"
            )
        try:
            db = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=rwc", uri=True, timeout=BUSY_S, isolation_level=None
            )
            try:
                self._prepare(db)
                with db:  # commits, or rolls back
                    yield db
            finally:
                db.close()
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def _prepare(self, db: sqlite3.Connection) -> None:
        """Begin a transaction on a file that is sound and of our schema."""
        (journal,) = db.execute("PRAGMA journal_mode = DELETE").fetchone()
        if journal != "delete":
            raise StateError(f"the state store {self.path} keeps its {journal} journal: close what else has it open")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("BEGIN IMMEDIATE")
        application, schema = _pragma(db, "application_id"), _pragma(db, "user_version")
        fresh = (application, schema) == (0, 0) and not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application != _APPLICATION and not fresh:
            raise StateError(f"{self.path} is the database of another program, not gpugate's state store")
        if not (fresh or 1 <= schema <= SCHEMA):
            raise StateError(
                f"the state store {self.path} has the schema {schema}; this gpugate reads {SCHEMA}: use the same "
                "version of gpugate on every controller"
            )
        if schema < SCHEMA:
            for statement in ";\n".join(_SCHEMAS[schema:]).split(";\n"):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {_APPLICATION}")
            db.execute(f"PRAGMA user_version = {SCHEMA}")
        if not self._checked:
            verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise self._corrupt(str(verdict))
            self._checked = True

    def _explained(self, error: sqlite3.Error) -> StateError:
        kind = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary code
        if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StateBusy(f"the state store {self.path} has been locked by another process for {BUSY_S:g} s")
        if kind in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return self._corrupt(str(error))
        if kind in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
            return StateError(
                f"the state store {self.path} cannot be written ({error}): every user who runs gpugate needs to "
                "write this file and its folder"
            )
        return StateError(f"the state store {self.path} cannot be used: {error}")

    def _corrupt(self, what: str) -> StateError:
        return StateError(
            f"the state store {self.path} is corrupt ({what}): move it away when no node burns, and a new one is made"
        )


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])
