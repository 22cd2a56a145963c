"""The mesh's memory on this device's disk: incarnation, clock bound, positions, retained map, own publishes.

Decides how what a turn changed becomes rows, what a boot gets back of them, and how many own publishes are kept while
nobody else holds them. Assumes that it is called within the store's transactions. On failure: a transaction that fails
leaves what was there, and the store has it still.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

import msgspec

from broker.mesh.events import OwnBundle, Restored
from broker.mesh.limits import LOG_BYTES_MAX
from broker.mesh.retained import Entry, Proof

if TYPE_CHECKING:
    import sqlite3

    from broker.mesh.events import Changes

__all__ = ["MeshTable"]

FIRST_INCARNATION_MAX: Final = 1 << 24
"""Where a device without memory begins, at random; leaves 4 billion boots above."""

OWN_BYTES_MAX: Final = LOG_BYTES_MAX
"""Own bundles that nobody else holds; more would not fit into the log of the next boot."""

_decode_own: Final = msgspec.msgpack.Decoder(list[OwnBundle]).decode
_encode: Final = msgspec.msgpack.Encoder().encode


class MeshTable:
    """The rows of one mesh."""

    SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS number (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS own (
    lane INTEGER, folded INTEGER, incarnation INTEGER NOT NULL, sequence INTEGER NOT NULL,
    bundles BLOB NOT NULL, PRIMARY KEY (lane, folded));
CREATE TABLE IF NOT EXISTS own_held (
    lane INTEGER PRIMARY KEY, incarnation INTEGER NOT NULL, sequence INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS passed (
    origin TEXT, lane INTEGER, incarnation INTEGER NOT NULL, sequence INTEGER NOT NULL,
    PRIMARY KEY (origin, lane)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS retained (
    topic TEXT PRIMARY KEY, rank INTEGER NOT NULL, clock INTEGER NOT NULL, origin TEXT NOT NULL,
    payload BLOB NOT NULL, qos INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS proof (
    topic TEXT PRIMARY KEY, head BLOB NOT NULL, body BLOB NOT NULL) WITHOUT ROWID;
"""

    def load(self, database: sqlite3.Connection) -> Restored:
        """What is remembered, with the incarnation that begins now."""
        numbers = dict(database.execute("SELECT name, value FROM number"))
        first_boot = "incarnation" not in numbers
        # A device that lost its disk must not take up a number that it has used before.
        incarnation = (
            secrets.randbelow(FIRST_INCARNATION_MAX) + 1
            if first_boot
            else numbers["incarnation"] + 1
        )
        return Restored(
            incarnation=incarnation,
            clock_bound=numbers.get("clock_bound", 0),
            known_since=numbers.get("known_since"),
            own=self._own(database),
            passed={
                (origin, lane): (incarnation_of, sequence)
                for origin, lane, incarnation_of, sequence in database.execute(
                    "SELECT * FROM passed"
                )
            },
            retained={
                topic: Entry(rank, clock, origin, payload, qos)
                for topic, rank, clock, origin, payload, qos in database.execute(
                    "SELECT * FROM retained"
                )
            },
            first_boot=first_boot,
            proofs={
                topic: Proof(head, body)
                for topic, head, body in database.execute("SELECT * FROM proof")
            },
        )

    @staticmethod
    def _own(database: sqlite3.Connection) -> list[OwnBundle]:
        """Own bundles that no neighbour is known to hold, in order."""
        held = {lane: upto for lane, *upto in database.execute("SELECT * FROM own_held")}
        rows = database.execute("SELECT bundles FROM own ORDER BY lane, folded")
        return [
            own
            for (bundles,) in rows
            for own in _decode_own(bundles)
            if list(own.position) > held.get(own.lane, [])
        ]

    def write(self, database: sqlite3.Connection, changes: Changes, upto: int) -> None:
        """Store what journals up to the number `upto` say."""
        if changes.incarnation is not None:
            self.set_number(database, "incarnation", changes.incarnation)
        if changes.clock_bound is not None:
            self.set_number(database, "clock_bound", changes.clock_bound)
        if changes.known_since is not None:
            self.set_number(database, "known_since", changes.known_since)
        if changes.own_replaced:
            database.execute("DELETE FROM own")
        by_lane: dict[int, list[OwnBundle]] = {}
        for own in changes.own:
            by_lane.setdefault(own.lane, []).append(own)
        # A row for each lane and not for each bundle: every row makes the thread ask for the interpreter's lock again,
        # and at 20,000 bundles a second that held the event loop up by 200 ms (measured).
        for lane, bundles in by_lane.items():
            database.execute(
                "INSERT INTO own VALUES (?, ?, ?, ?, ?)",
                (lane, upto, *bundles[-1].position, _encode(bundles)),
            )
        for lane, held in changes.own_held.items():
            database.execute(
                "DELETE FROM own WHERE lane = ? AND (incarnation, sequence) <= (?, ?)",
                (lane, *held),
            )
            database.execute("INSERT OR REPLACE INTO own_held VALUES (?, ?, ?)", (lane, *held))
        if changes.own:
            self._bound_own(database)
        if changes.passed:
            database.executemany(
                "INSERT OR REPLACE INTO passed VALUES (?, ?, ?, ?)",
                [(*stream, *position) for stream, position in changes.passed.items()],
            )
        for topic, entry in changes.retained.items():
            if entry is None:
                database.execute("DELETE FROM retained WHERE topic = ?", (topic,))
            else:
                database.execute(
                    "INSERT OR REPLACE INTO retained VALUES (?, ?, ?, ?, ?, ?)", (topic, *entry)
                )
            database.execute("DELETE FROM proof WHERE topic = ?", (topic,))
        database.executemany(
            "INSERT OR REPLACE INTO proof VALUES (?, ?, ?)",
            [(topic, *proof) for topic, proof in changes.proofs.items()],
        )

    @staticmethod
    def _bound_own(database: sqlite3.Connection) -> None:
        """Let go of the oldest own bundles beyond the bound, by whole rows."""
        rows = database.execute("SELECT folded, length(bundles) FROM own ORDER BY folded DESC")
        size_bytes = 0
        for folded, row_bytes in rows.fetchall():
            size_bytes += row_bytes
            if size_bytes > OWN_BYTES_MAX:
                database.execute("DELETE FROM own WHERE folded < ?", (folded,))
                return

    @staticmethod
    def set_number(database: sqlite3.Connection, name: str, value: int) -> None:
        """Remember a number by its name."""
        database.execute("INSERT OR REPLACE INTO number VALUES (?, ?)", (name, value))
