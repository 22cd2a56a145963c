"""Other devices' kept bundles on this device's disk, where the relay log is kept there: a bounded queue in SQLite.

Decides what is still there: the newest bundles of together RELAYED_BYTES_MAX and at most RELAYED_BUNDLES_MAX, which is
what the log in memory would take up after a boot. They leave in the order in which they came. Assumes that it is
called within the store's transactions, and told when one has failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.mesh.events import RelayedBundle
from broker.mesh.limits import LOG_BUNDLES_MAX, LOG_BYTES_MAX

if TYPE_CHECKING:
    import sqlite3

__all__ = ["RelayTable"]

RELAYED_BYTES_MAX: Final = LOG_BYTES_MAX
"""More would not fit into the log of the next boot."""
RELAYED_BUNDLES_MAX: Final = LOG_BUNDLES_MAX
"""The same."""
_BATCH: Final = 64
"""Rows that are looked at to make room; a turn seldom brings more."""


class RelayTable:
    """The rows, and how much they hold."""

    SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS relayed (
    serial INTEGER PRIMARY KEY, head BLOB NOT NULL, body BLOB NOT NULL, expires INTEGER NOT NULL);
"""

    def __init__(self) -> None:
        self._held: tuple[int, int] | None = None
        """Bytes and bundles; None: to be counted."""

    def load(self, database: sqlite3.Connection) -> list[RelayedBundle]:
        """All rows, the oldest first."""
        rows = database.execute("SELECT head, body, expires FROM relayed ORDER BY serial")
        return [RelayedBundle(*row) for row in rows]

    def clear(self, database: sqlite3.Connection) -> None:
        """Forget all rows: the log is in memory now."""
        self._held = None
        database.execute("DELETE FROM relayed")

    def add(self, database: sqlite3.Connection, bundles: list[RelayedBundle]) -> None:
        """Put bundles behind the others, and let go of the oldest beyond the bounds."""
        held_bytes, held = self._held or self._count(database)
        database.executemany("INSERT INTO relayed (head, body, expires) VALUES (?, ?, ?)", bundles)
        held_bytes += sum(len(bundle.head) + len(bundle.body) for bundle in bundles)
        held += len(bundles)
        while held_bytes > RELAYED_BYTES_MAX or held > RELAYED_BUNDLES_MAX:
            oldest = database.execute(
                "SELECT serial, length(head) + length(body) FROM relayed ORDER BY serial LIMIT ?",
                (_BATCH,),
            ).fetchall()
            last = 0
            for serial, size_bytes in oldest:
                if held_bytes <= RELAYED_BYTES_MAX and held <= RELAYED_BUNDLES_MAX:
                    break
                last, held_bytes, held = serial, held_bytes - size_bytes, held - 1
            database.execute("DELETE FROM relayed WHERE serial <= ?", (last,))
        self._held = held_bytes, held

    def failed(self) -> None:
        """A transaction was rolled back: count anew."""
        self._held = None

    @staticmethod
    def _count(database: sqlite3.Connection) -> tuple[int, int]:
        row: tuple[int, int] = database.execute(
            "SELECT coalesce(sum(length(head) + length(body)), 0), count(*) FROM relayed"
        ).fetchone()
        return row
