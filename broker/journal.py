"""A file that only grows: one record for each turn, written at once, read back in order after a crash.

Decides what of it counts after a power cut: the records up to the first one that is not whole. Each carries a checksum
over itself and all before it, through one file after the other, so that what follows a hole is never taken up.

Assumes one writer. The next record takes the place of one that a full disk took half of, so there is none in the
middle; at the end, the checksums show it.

Layout: 8 bytes `flockmq1`, u32 checksum of the file before (0: none); then records, each u32 length, u32 checksum
(CRC-32 of the record, begun with the checksum before it), record. Big-endian.

Source: the log of ARIES (Mohan et al. 1992), of which redo alone is left; chained checksums as in SQLite's WAL.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from typing import TYPE_CHECKING, Final
from zlib import crc32

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Journal", "read_journal", "sync_directory", "sync_file"]

MAGIC: Final = b"flockmq1"
_HEAD: Final = struct.Struct(">8sI")
_RECORD: Final = struct.Struct(">II")

_sync: Final = getattr(os, "fdatasync", os.fsync)
_write: Final = os.pwrite


class Journal:
    """One file, open for writing.

    Args:
        path: Where; nothing may be there.
        number: Its place in the order of files.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self.number = number
        self.size_bytes = 0
        self.checksum = 0
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    @property
    def empty(self) -> bool:
        """Whether it holds no record."""
        return self.size_bytes <= _HEAD.size

    def begin(self, checksum: int) -> None:
        """Follow a file that ends with this checksum; before the first record.

        Raises:
            OSError: It cannot be written.
        """
        self._append(_HEAD.pack(MAGIC, checksum))
        self.checksum = checksum

    def append(self, record: bytes) -> None:
        """Write a record; no kill of this process takes it back.

        Raises:
            OSError: It was not written.
        """
        checksum = crc32(record, self.checksum)
        self._append(_RECORD.pack(len(record), checksum) + record)
        self.checksum = checksum

    def duplicate(self) -> int:
        """A descriptor to sync, which stays good when this file is closed."""
        return os.dup(self._file)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def _append(self, data: bytes) -> None:
        written = _write(self._file, data, self.size_bytes)
        if written != len(data):
            with contextlib.suppress(OSError):  # the next record overwrites it
                os.ftruncate(self._file, self.size_bytes)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size_bytes += written


def sync_file(file: int) -> None:
    """Sync and close a descriptor. Blocks for as long as the disk takes.

    Raises:
        OSError: What was written may not survive a power cut.
    """
    try:
        _sync(file)
    finally:
        os.close(file)


def sync_directory(path: Path) -> None:
    """Make the names of new files survive a power cut.

    Raises:
        OSError: They may not.
    """
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def read_journal(path: Path, checksum: int | None) -> tuple[list[bytes], int] | None:
    """The whole records of a file, and its last checksum; None if it does not follow `checksum` (None: anything)."""
    data = path.read_bytes()
    if len(data) < _HEAD.size:
        return None
    magic, before = _HEAD.unpack_from(data)
    if magic != MAGIC or checksum not in (None, before):
        return None
    records: list[bytes] = []
    at, last = _HEAD.size, before
    while at + _RECORD.size <= len(data):
        length, expected = _RECORD.unpack_from(data, at)
        record = data[at + _RECORD.size : at + _RECORD.size + length]
        if len(record) != length or crc32(record, last) != expected:
            break
        records.append(record)
        at, last = at + _RECORD.size + length, expected
    return records, last
