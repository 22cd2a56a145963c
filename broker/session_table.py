"""Persistent MQTT sessions on this device's disk, beside the mesh's memory.

Decides how the changes that `broker.embedded.session_journal` describes become rows. Assumes that it is called within
the store's transactions. On failure: a transaction that fails leaves what was there, and the store has it still.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby
from typing import TYPE_CHECKING, Final

from broker.embedded.session_journal import StoredMessage, StoredSession

if TYPE_CHECKING:
    import sqlite3

    from broker.embedded.session_journal import SessionChanges

__all__ = ["SessionTable"]

_TABLES: Final = ("session", "session_filter", "session_message", "session_incoming")

_VERBS: Final = {
    "open": "INSERT OR REPLACE INTO session VALUES (?, 0)",
    "replaying": "UPDATE session SET replaying = ?2 WHERE client_id = ?1",
    "subscribe": "INSERT OR REPLACE INTO session_filter VALUES (?, ?, ?)",
    "unsubscribe": "DELETE FROM session_filter WHERE client_id = ? AND filter = ?",
    "queue": "INSERT OR REPLACE INTO session_message VALUES (?, ?, ?, ?, ?, ?, ?)",
    "sent": "UPDATE session_message SET packet_id = ?3, sent = ?4 WHERE client_id = ?1 AND serial = ?2",
    "received": "UPDATE session_message SET flags = 0, topic = x'', payload = x'' WHERE client_id = ? AND serial = ?",
    "done": "DELETE FROM session_message WHERE client_id = ? AND serial = ?",
    "take": "INSERT OR IGNORE INTO session_incoming VALUES (?, ?)",
    "release": "DELETE FROM session_incoming WHERE client_id = ? AND packet_id = ?",
}


class SessionTable:
    """The rows of all persistent sessions."""

    SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS session (client_id TEXT PRIMARY KEY, replaying INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS session_filter (
    client_id TEXT, filter TEXT, qos INTEGER NOT NULL, PRIMARY KEY (client_id, filter)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS session_message (
    client_id TEXT, serial INTEGER, packet_id INTEGER NOT NULL, sent INTEGER NOT NULL, flags INTEGER NOT NULL,
    topic BLOB NOT NULL, payload BLOB NOT NULL, PRIMARY KEY (client_id, serial)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS session_incoming (
    client_id TEXT, packet_id INTEGER, PRIMARY KEY (client_id, packet_id)) WITHOUT ROWID;
"""

    def load(self, database: sqlite3.Connection) -> list[StoredSession]:
        """All sessions."""
        filters: dict[str, dict[str, int]] = defaultdict(dict)
        for client_id, topic_filter, qos in database.execute("SELECT * FROM session_filter"):
            filters[client_id][topic_filter] = qos
        messages: dict[str, list[StoredMessage]] = defaultdict(list)
        # What waits in many sessions is held once, as before the restart.
        shared: dict[bytes, bytes] = {}
        for client_id, serial, packet_id, flags, topic, payload in database.execute(
            "SELECT client_id, serial, packet_id, flags, topic, payload FROM session_message"
            " ORDER BY sent = 0, sent, serial"
        ):
            one = shared.setdefault(topic, topic), shared.setdefault(payload, payload)
            messages[client_id].append(StoredMessage(serial, packet_id, flags, *one))
        incoming: dict[str, set[int]] = defaultdict(set)
        for client_id, packet_id in database.execute("SELECT * FROM session_incoming"):
            incoming[client_id].add(packet_id)
        return [
            StoredSession(
                client_id,
                bool(replaying),
                filters[client_id],
                messages[client_id],
                incoming[client_id],
            )
            for client_id, replaying in database.execute("SELECT * FROM session")
        ]

    def write(self, database: sqlite3.Connection, changes: SessionChanges) -> None:
        """Store the changes of a turn."""
        if changes.whole:
            for table in _TABLES:
                database.execute(f"DELETE FROM {table}")  # noqa: S608 - names from above
        for verb, group in groupby(changes.changes, lambda change: change[0]):
            rows = [values for _, values in group]
            if verb == "forget":
                for table in _TABLES:
                    database.executemany(f"DELETE FROM {table} WHERE client_id = ?", rows)  # noqa: S608 - names from above
            else:
                database.executemany(_VERBS[verb], rows)
