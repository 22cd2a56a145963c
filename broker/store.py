"""What survives a restart: a journal that each turn appends to, folded now and then into one SQLite file.

That is incarnation, clock bound, positions, retained map, own publishes that no neighbour is known to hold, persistent
MQTT sessions, and, where it is wanted, what this device relays.

Decides how a commit becomes durable. A commit is one write to the journal, into the page cache (10 us, no wait for the
disk), so it survives the process being killed. `sync` makes all commits before it survive a power cut. `checkpoint`
begins a new journal, puts what the old one says into the database, durably and in one transaction together with the
old one's number, and deletes it; most of what was journalled is obsolete by then and never reaches the database, which
is what spares an SD card. `sync` and `checkpoint` block, and are made to be called in threads. One record holds
whatever a turn changed. When to sync is for `commits.py` to say.

A checkpoint that has failed is finished before the next one begins: there are two journals at most, a descriptor each.

A boot folds the journals that it finds, in their order and up to the first record that is not whole.

A sync that has failed says nothing of what it was to write, and the next one would not either (the kernel has dropped
it); what was committed is taken as durable again when a checkpoint has copied all of it from memory.

A database that is none, or a damaged one, is put aside under the name `.damaged`, the journals with it, and the device
starts without memory, as a new one would. Only one process may use a state directory at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
from typing import TYPE_CHECKING, Final

import msgspec

from broker.embedded.session_journal import SessionChanges
from broker.errors import StateInUse, StoreFailed
from broker.journal import Journal, read_journal, sync_directory, sync_file
from broker.mesh.events import Changes
from broker.mesh_table import MeshTable
from broker.relay_table import RelayTable
from broker.session_changes import PendingSessions
from broker.session_table import SessionTable

if TYPE_CHECKING:
    from pathlib import Path

    from broker.embedded.session_journal import StoredSession
    from broker.mesh.events import Restored

__all__ = ["Store"]

logger = logging.getLogger(__name__)

FILE: Final = "mesh.sqlite"
JOURNAL: Final = "mesh.journal."
VERSION: Final = 2
JOURNAL_BYTES_MIN: Final = 4 * 1024 * 1024
"""With so much in the journal a checkpoint is due, and need not wait for its time. As much again is held in memory."""
JOURNAL_BYTES_MAX: Final = 64 * 1024 * 1024
"""While checkpoints fail the journal grows up to here; then nothing is committed any more. Guess."""
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(tuple[Changes, SessionChanges | None]).decode


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
        self._mesh_table = MeshTable()
        self._relayed = RelayTable()
        self._session_table = SessionTable()
        self.sessions: list[StoredSession] = []
        """The persistent MQTT sessions as `boot` found them."""
        self._relay_log_on_disk = relay_log_on_disk
        self._path = directory / FILE
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreFailed(
                f"the state directory {directory} cannot be used: {error.strerror}; name one that this user may "
                "write to"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise StateInUse(directory) from None
        self._database = self._open()
        self._turns = threading.Lock()
        """Held for as long as a commit takes: who changes journals waits for the turn."""
        self._folding = threading.Lock()
        self._journals: list[Journal] = []
        """The last is written to; the one before it, if any, is being folded."""
        self._pending, self._pending_sessions = Changes(), PendingSessions()
        """What the last journal says."""
        self._unfolded: tuple[Changes, PendingSessions] | None = None
        """What the one before it says."""
        self._distrusted = False

    def boot(self) -> Restored:
        """Begin a new incarnation, stored before this returns, and give back what is remembered.

        Raises:
            StoreFailed: The database or the journal cannot be written.
        """
        try:
            return self._boot()
        except (sqlite3.OperationalError, OSError) as error:
            raise StoreFailed(f"{self._path} cannot be written: {error}") from None
        except (sqlite3.DatabaseError, TypeError, ValueError) as error:
            self._database.close()
            self._put_aside(error)
            self._database = self._open()
            return self._boot()

    def _boot(self) -> Restored:
        database = self._database
        last = self._fold_left()
        restored = self._mesh_table.load(database)
        if self._relay_log_on_disk:
            restored.relayed = self._relayed.load(database)
            restored.keeps_relayed = True
        self.sessions = self._session_table.load(database)
        with database:
            self._mesh_table.set_number(database, "incarnation", restored.incarnation)
            if not self._relay_log_on_disk:
                self._relayed.clear(database)
        self._begin_journal(last + 1)
        return restored

    def commit(self, changes: Changes, sessions: SessionChanges | None = None) -> None:
        """Store what a turn changed, in the mesh and in MQTT sessions, all or nothing.

        Raises:
            StoreFailed: Nothing was stored (the disk is full, or gone).
        """
        record = _encode((changes, sessions))
        with self._turns:
            journal = self._journals[-1]
            if sum(each.size_bytes for each in self._journals) > JOURNAL_BYTES_MAX:
                raise StoreFailed(f"{journal.path} is full, and {self._path} cannot be written")
            try:
                journal.append(record)
            except OSError as error:
                raise StoreFailed(f"{journal.path} cannot be written: {error.strerror}") from None
            self._pending.absorb(changes)
            if sessions is not None:
                self._pending_sessions.absorb(sessions)

    @property
    def crowded(self) -> bool:
        """Whether a checkpoint had better not wait."""
        return self._journals[-1].size_bytes > JOURNAL_BYTES_MIN

    def sync(self) -> None:
        """Make what was committed survive a power cut. Blocks for as long as the disk takes.

        Raises:
            StoreFailed: It may not survive one.
        """
        if self._distrusted:
            self.checkpoint()
            return
        files: list[int] = []
        try:
            with self._turns:
                files.extend(journal.duplicate() for journal in self._journals)
            while files:
                sync_file(files.pop(0))
        except OSError as error:
            self._distrusted = True
            raise StoreFailed(f"{self._path} cannot be synced: {error.strerror}") from None
        finally:
            for file in files:
                os.close(file)

    def checkpoint(self) -> None:
        """Make what was committed survive a power cut, by folding it into the database. Blocks as `sync` does.

        Raises:
            StoreFailed: It may not survive one.
        """
        with self._folding:
            if self._unfolded is not None:
                self._fold_one(*self._unfolded)  # the last checkpoint has failed
            if not self._journals[-1].empty:
                self._unfolded = self._begin_journal(self._journals[-1].number + 1)
                self._fold_one(*self._unfolded)
            self._distrusted = False

    def _fold_one(self, changes: Changes, sessions: PendingSessions) -> None:
        """Fold what the journal before the last one says, and delete it.

        Raises:
            StoreFailed: It stays, for the next checkpoint.
        """
        done = self._journals[0]
        try:
            self._fold(changes, sessions, done.number)
        except (sqlite3.Error, OverflowError) as error:
            self._relayed.failed()
            raise StoreFailed(f"{self._path} cannot be written: {error}") from None
        self._unfolded = None
        with self._turns:
            self._journals = self._journals[1:]
        with contextlib.suppress(OSError):  # the next boot passes over it, and deletes it
            done.close()
            done.path.unlink()

    def _begin_journal(self, number: int) -> tuple[Changes, PendingSessions]:
        """Have turns go to a new journal from now on; returns what those before it say.

        Raises:
            StoreFailed: It cannot be made.
        """
        path = self._path.with_name(f"{JOURNAL}{number:08}")
        try:
            journal = Journal(path, number)
            try:
                sync_directory(path.parent)
                with self._turns:
                    journal.begin(self._journals[-1].checksum if self._journals else 0)
                    self._journals.append(journal)
                    said = self._pending, self._pending_sessions
                    self._pending, self._pending_sessions = Changes(), PendingSessions()
            except OSError:
                journal.close()
                path.unlink()
                raise
        except OSError as error:
            raise StoreFailed(f"{path} cannot be written: {error.strerror}") from None
        return said

    def _fold(self, changes: Changes, sessions: PendingSessions, upto: int) -> None:
        """Put changes into the database, durably, and note up to which journal they go."""
        with self._database as database:
            self._mesh_table.write(database, changes, upto)
            if changes.relayed:
                self._relayed.add(database, changes.relayed)
            self._session_table.write(database, sessions.changes())
            self._mesh_table.set_number(database, "folded", upto)

    def _fold_left(self) -> int:
        """Fold the journals that the last process left, and delete them; returns the number of the last."""
        row = self._database.execute("SELECT value FROM number WHERE name = 'folded'").fetchone()
        folded = row[0] if row else 0
        said, sessions, checksum = Changes(), PendingSessions(), None
        paths = self._journal_paths()
        last = max([folded, *paths])
        for number, path in sorted(paths.items()):
            if number <= folded:
                continue
            found = read_journal(path, checksum)
            if found is None:
                break  # what came before it is not whole
            records, checksum = found
            for record in records:
                changes, changed = _decode(record)
                said.absorb(changes)
                if changed is not None:
                    sessions.absorb(changed)
        self._fold(said, sessions, last)
        for path in paths.values():
            path.unlink()
        return last

    def _journal_paths(self) -> dict[int, Path]:
        """The journals in the directory, by number."""
        return {
            int(path.suffix[1:]): path
            for path in self._path.parent.glob(f"{JOURNAL}*")
            if path.suffix[1:].isdecimal()
        }

    def close(self) -> None:
        """Let go of the files and the directory."""
        self._database.close()
        for journal in self._journals:
            journal.close()
        os.close(self._lock)

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except (sqlite3.OperationalError, OSError) as error:
            raise StoreFailed(
                f"{self._path} cannot be opened: {error}; it wants room on a disk that this user may write to"
            ) from None
        except sqlite3.DatabaseError as error:
            self._put_aside(error)
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        # For this user only, as the journals; SQLite gives the files beside it the same mode.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        database = sqlite3.connect(self._path, timeout=1.0, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, VERSION):
                raise sqlite3.DatabaseError(f"it has version {version}, this program {VERSION}")
            database.executescript(
                MeshTable.SCHEMA
                + RelayTable.SCHEMA
                + SessionTable.SCHEMA
                + f"PRAGMA user_version = {VERSION};"
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
        for path in self._journal_paths().values():
            path.replace(path.with_name(path.name + ".damaged"))
