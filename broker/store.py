"""What survives a restart, in one SQLite file.

That is incarnation, clock bound, positions, retained map, own publishes that no neighbour is known to hold, and, where
it is wanted, what this device relays.

Decides how a commit becomes durable. The file is in WAL mode with `synchronous=NORMAL`: a commit is a write to the
page cache (tens of microseconds, no wait for the disk), so it survives the process being killed. `sync` makes all
commits before it survive a power cut: the log's frames carry checksums and are taken up in order, so it is enough to
sync the log. `checkpoint` syncs too, and folds the log into the file. Both block, and are made to be called in threads.
One transaction per turn of the event loop holds whatever the turn changed. When to sync is for `commits.py` to say.

A sync that has failed says nothing of what it was to write, and the next one would not either (the kernel has dropped
it); what was committed is taken as durable again when a checkpoint has copied all of it.

A file that is not a database, or a damaged one, is put aside under the name `.damaged` and the device starts without
memory, as a new one would. Only one process may use a state directory at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import sqlite3
from typing import TYPE_CHECKING, Final

from broker.errors import StateInUse, StoreFailed
from broker.mesh.events import Changes, OwnBundle, Restored
from broker.mesh.retained import Entry
from broker.relay_table import RelayTable

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Store"]

logger = logging.getLogger(__name__)

FILE: Final = "mesh.sqlite"
VERSION: Final = 1
PAGE_BYTES: Final = 1024
"""A commit writes whole pages to the log. Measured, against SQLite's 4096: half as much for an own publish, a quarter
for what is relayed; bundles of 60 KB take 0.1 ms longer."""
FIRST_INCARNATION_MAX: Final = 1 << 24
"""Where a device without memory begins, at random; leaves 4 billion boots above."""

_sync: Final = getattr(os, "fdatasync", os.fsync)

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS number (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS own (
    lane INTEGER, incarnation INTEGER, sequence INTEGER, head BLOB NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (lane, incarnation, sequence)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS passed (
    origin TEXT, lane INTEGER, incarnation INTEGER NOT NULL, sequence INTEGER NOT NULL,
    PRIMARY KEY (origin, lane)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS retained (
    topic TEXT PRIMARY KEY, rank INTEGER NOT NULL, clock INTEGER NOT NULL, origin TEXT NOT NULL,
    payload BLOB NOT NULL, qos INTEGER NOT NULL) WITHOUT ROWID;
"""


class Store:
    """The memory of one device.

    Args:
        directory: The state directory; made if it is missing.
        relay_log_on_disk: Whether what this device relays survives its restart, too.

    Raises:
        StateInUse: Another process uses the directory.
        StoreFailed: The directory cannot be written to.
    """

    def __init__(self, directory: Path, *, relay_log_on_disk: bool = False) -> None:
        self._relayed = RelayTable()
        self._relay_log_on_disk = relay_log_on_disk
        self._path = directory / FILE
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreFailed(
                f"the state directory {directory} cannot be used: {error.strerror}"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise StateInUse(directory) from None
        self._database = self._open()
        self._log: int | None = None
        self._dirty = False
        self._distrusted = False

    def boot(self) -> Restored:
        """Begin a new incarnation, stored before this returns, and give back what is remembered.

        Raises:
            StoreFailed: The database cannot be written.
        """
        try:
            return self._boot()
        except sqlite3.OperationalError as error:
            raise StoreFailed(f"{self._path} cannot be written: {error}") from None
        except (sqlite3.DatabaseError, TypeError, ValueError) as error:
            self._database.close()
            self._put_aside(error)
            self._database = self._open()
            return self._boot()

    def _boot(self) -> Restored:
        database = self._database
        numbers = dict(database.execute("SELECT name, value FROM number"))
        first_boot = "incarnation" not in numbers
        # A device that lost its disk must not take up a number that it has used before.
        incarnation = (
            secrets.randbelow(FIRST_INCARNATION_MAX) + 1
            if first_boot
            else numbers["incarnation"] + 1
        )
        restored = Restored(
            incarnation=incarnation,
            clock_bound=numbers.get("clock_bound", 0),
            known_since=numbers.get("known_since"),
            own=[
                OwnBundle(lane, (incarnation_of, sequence), head, body)
                for lane, incarnation_of, sequence, head, body in database.execute(
                    "SELECT * FROM own ORDER BY lane, incarnation, sequence"
                )
            ],
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
            relayed=self._relayed.load(database) if self._relay_log_on_disk else [],
            keeps_relayed=self._relay_log_on_disk,
        )
        with database:
            self._set(database, "incarnation", incarnation)
            if not self._relay_log_on_disk:
                self._relayed.clear(database)
        self._dirty = True
        self.checkpoint()
        return restored

    def commit(self, changes: Changes) -> None:
        """Store what a turn changed, all or nothing.

        Raises:
            StoreFailed: Nothing was stored (the disk is full, or gone).
        """
        try:
            with self._database as database:
                self._write(database, changes)
        except (sqlite3.Error, OverflowError) as error:
            self._relayed.failed()
            raise StoreFailed(f"{self._path} cannot be written: {error}") from None
        self._dirty = True

    def _write(self, database: sqlite3.Connection, changes: Changes) -> None:
        if changes.incarnation is not None:
            self._set(database, "incarnation", changes.incarnation)
        if changes.clock_bound is not None:
            self._set(database, "clock_bound", changes.clock_bound)
        if changes.known_since is not None:
            self._set(database, "known_since", changes.known_since)
        if changes.own_replaced:
            database.execute("DELETE FROM own")
        if changes.own:
            database.executemany(
                "INSERT OR REPLACE INTO own VALUES (?, ?, ?, ?, ?)",
                [(own.lane, *own.position, own.head, own.body) for own in changes.own],
            )
        for lane, upto in changes.own_held.items():
            database.execute(
                "DELETE FROM own WHERE lane = ? AND (incarnation, sequence) <= (?, ?)",
                (lane, *upto),
            )
        if changes.passed:
            database.executemany(
                "INSERT OR REPLACE INTO passed VALUES (?, ?, ?, ?)",
                [(*stream, *position) for stream, position in changes.passed.items()],
            )
        if changes.relayed:
            self._relayed.add(database, changes.relayed)
        for topic, entry in changes.retained.items():
            if entry is None:
                database.execute("DELETE FROM retained WHERE topic = ?", (topic,))
            else:
                database.execute(
                    "INSERT OR REPLACE INTO retained VALUES (?, ?, ?, ?, ?, ?)", (topic, *entry)
                )

    def sync(self) -> None:
        """Make what was committed survive a power cut. Blocks for as long as the disk takes.

        Raises:
            StoreFailed: It may not survive one.
        """
        if self._distrusted:
            self.checkpoint()
            return
        try:
            if self._log is None:
                self._log = os.open(self._path.with_name(FILE + "-wal"), os.O_RDWR)
            _sync(self._log)
        except OSError as error:
            self._distrusted = self._dirty = True
            raise StoreFailed(f"{self._path} cannot be synced: {error.strerror}") from None

    def checkpoint(self) -> None:
        """Sync what was committed and fold it into the file. Blocks for as long as the disk takes.

        Raises:
            StoreFailed: It may not survive a power cut.
        """
        if not self._dirty:
            return
        self._dirty = False
        try:
            with contextlib.closing(sqlite3.connect(self._path, timeout=1.0)) as database:
                row = database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            busy, in_log, folded = row
        except sqlite3.Error as error:
            self._dirty = True
            raise StoreFailed(f"{self._path} cannot be synced: {error}") from None
        if busy or folded < in_log:
            self._dirty = True
            if self._distrusted:
                raise StoreFailed(f"{self._path} cannot be synced: its log is in use")
            return
        self._distrusted = False

    def close(self) -> None:
        """Let go of the file and the directory."""
        self._database.close()
        if self._log is not None:
            os.close(self._log)
        os.close(self._lock)

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.OperationalError as error:
            raise StoreFailed(f"{self._path} cannot be opened: {error}") from None
        except sqlite3.DatabaseError as error:
            self._put_aside(error)
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=1.0)
        try:
            database.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute("PRAGMA wal_autocheckpoint = 0")
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, VERSION):
                raise sqlite3.DatabaseError(f"it has version {version}, this program {VERSION}")
            database.executescript(
                _SCHEMA + RelayTable.SCHEMA + f"PRAGMA user_version = {VERSION};"
            )
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _put_aside(self, error: Exception) -> None:
        """A device with a damaged memory is better than none: it starts as a new one."""
        aside = self._path.with_suffix(".damaged")
        logger.error(
            "%s is damaged (%s); kept as %s, starting without memory", self._path, error, aside
        )
        self._path.replace(aside)
        for suffix in ("-wal", "-shm"):
            self._path.with_name(FILE + suffix).unlink(missing_ok=True)

    @staticmethod
    def _set(database: sqlite3.Connection, name: str, value: int) -> None:
        database.execute("INSERT OR REPLACE INTO number VALUES (?, ?)", (name, value))
