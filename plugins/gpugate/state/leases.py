"""Leases on power domains: who burns, and who waits for it.

A ticket `waits`, is `granted`, then `burns`. The first two lapse when nobody renews them for `LAPSE_S`: their
controller is gone, and nothing burns. A burning one lasts as long as its burn can, whatever becomes of the controller,
because the node ends the burn by itself at its deadline.
"""

from __future__ import annotations

import getpass
import os
import socket
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..errors import StateError
from . import clock
from .clock import Stamp
from .queue import Cap, Ticket, Wish, decide
from .store import Store

LAPSE_S = 60.0


@dataclass(frozen=True)
class Holder:
    """Whose leases these are, for a person who reads them."""

    user: str
    host: str
    pid: int
    run: str

    @classmethod
    def here(cls, run: str) -> Holder:
        """This process."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # no name for this number, as in many containers
            user = str(os.getuid())
        return cls(user, socket.gethostname(), os.getpid(), run)


class Leases:
    """The leases in a store, as one holder sees them. Every method is one transaction and raises StateError."""

    def __init__(self, store: Store, holder: Holder, now: Callable[[], Stamp] = clock.read) -> None:
        self._store, self._holder, self._now = store, holder, now

    def ask(self, wishes: Iterable[Wish]) -> dict[str, str]:
        """For each wish, by its key: empty where the node may burn now, else a text that says what it waits for.

        The first time writes a ticket down, each later time renews it, also a granted one whose burn has not begun.
        One that burns, by a gather that was interrupted, goes on burning.
        """
        wishes = list(wishes)
        with self._store.transaction() as db:
            now = self._now()
            tickets = _load(db, now)
            known = {ticket.wish.key for ticket in tickets}
            for wish in wishes:
                if wish.key in known:
                    db.execute(
                        "UPDATE leases SET stamp_unix_s = ?, stamp_boot = ?, stamp_boot_s = ?"
                        " WHERE key = ? AND state <> 'burns'",
                        (now.unix_s, now.boot, now.boot_s, wish.key),
                    )
                else:
                    self._write(db, wish, now)
                    tickets.append(Ticket(wish, self._name, waits=True, left_s=LAPSE_S))
            waits = decide(tickets, {wish.key for wish in wishes})
            granted = [(key,) for key, why in waits.items() if not why]
            db.executemany("UPDATE leases SET state = 'granted' WHERE key = ?", granted)
            return {wish.key: waits.get(wish.key, "") for wish in wishes}

    def begin(self, wish: Wish, lasts_s: float) -> None:
        """The burn begins now, or goes on, and is over in `lasts_s` whatever happens.

        Raises StateError for a lease that lapsed.
        """
        with self._store.transaction() as db:
            now = self._now()
            changed = db.execute(
                "UPDATE leases SET state = 'burns', lasts_s = ?, stamp_unix_s = ?, stamp_boot = ?, stamp_boot_s = ?"
                " WHERE key = ? AND state <> 'waits'",
                (lasts_s, now.unix_s, now.boot, now.boot_s, wish.key),
            ).rowcount
        if not changed:
            raise StateError(
                f"{wish.node} did not burn: its lease of {', '.join(wish.domains)} in {self._store.path} lapsed, "
                f"because nothing renewed it for {LAPSE_S:g} s"
            )

    def release(self, wishes: Iterable[Wish]) -> None:
        """Give leases or places in the queue back; those that are gone already are no error."""
        with self._store.transaction() as db:
            db.executemany("DELETE FROM leases WHERE key = ?", [(wish.key,) for wish in wishes])

    @property
    def _name(self) -> str:
        return f"{self._holder.user}@{self._holder.host}"

    def _write(self, db: sqlite3.Connection, wish: Wish, now: Stamp) -> None:
        holder = self._holder
        ticket = db.execute(
            "INSERT INTO leases (key, node, gpus, watts, user, host, pid, run, state, lasts_s, stamp_unix_s,"
            " stamp_boot, stamp_boot_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'waits', ?, ?, ?, ?)",
            (wish.key, wish.node, wish.gpus, wish.watts, holder.user, holder.host, holder.pid, holder.run, LAPSE_S,
             now.unix_s, now.boot, now.boot_s),
        ).lastrowid  # fmt: skip
        db.executemany(
            "INSERT INTO lease_domains VALUES (?, ?, ?, ?, ?)",
            [(ticket, domain, cap.nodes, cap.gpus, cap.watts) for domain, cap in wish.domains.items()],
        )


def _load(db: sqlite3.Connection, now: Stamp) -> list[Ticket]:
    """The tickets that live, in the order of asking; those that ended are deleted.

    A stamp from the future means that a clock was set back, and nobody knows when the lease began: it begins again
    now, so that it is neither freed too early nor held for ever.
    """
    domains: dict[int, dict[str, Cap]] = defaultdict(dict)
    for ticket, domain, *most in db.execute("SELECT * FROM lease_domains"):
        domains[ticket][domain] = Cap(*most)
    tickets = []
    rows = db.execute(
        "SELECT ticket, key, node, gpus, watts, user, host, state, lasts_s, stamp_unix_s, stamp_boot, stamp_boot_s"
        " FROM leases ORDER BY ticket"
    ).fetchall()
    for ticket, key, node, gpus, watts, user, host, state, lasts_s, *stamp in rows:
        age_s = Stamp(*stamp).age_s(now)
        if age_s is None:
            db.execute(
                "UPDATE leases SET stamp_unix_s = ?, stamp_boot = ?, stamp_boot_s = ? WHERE ticket = ?",
                (now.unix_s, now.boot, now.boot_s, ticket),
            )
            age_s = 0.0
        if age_s >= lasts_s:
            db.execute("DELETE FROM leases WHERE ticket = ?", (ticket,))
        else:
            wish = Wish(key, node, gpus, watts, domains[ticket])
            tickets.append(Ticket(wish, f"{user}@{host}", state == "waits", lasts_s - age_s))
    return tickets
