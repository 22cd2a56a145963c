"""Content that is not whole yet: a file in which chunks arrive in any order.

Decides which chunks are there. There is no list of them beside the file: whoever opens it digests each chunk, 1 ms a
megabyte, and counts those that are right. So no kill, torn write or power cut makes it believe in bytes that are not
there, and nothing that reached the disk is fetched twice. Assumes one writer. On failure: `DiskFailed`, and what was
written before is kept.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from typing import TYPE_CHECKING

from agent.models.errors import DiskFailed
from agent.models.limits import SLICE_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    from agent.models.content import Content

__all__ = ["Partial"]


class Partial:
    """A file that fills up. Opening it reads what is there: for large content, do it in a thread.

    Args:
        path: The file; made if it is missing, with its space reserved.
        content: What it is to become.

    Raises:
        DiskFailed: There is no room on the disk, or it cannot be read or written.
    """

    def __init__(self, path: Path, content: Content) -> None:
        self.path = path
        self.content = content
        self.have = 0
        """Chunks that are there, a bit each."""
        self._digests = content.digests()
        new = not path.exists()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _failed(path, error) from None
        try:
            self._reserve()
            if not new:
                self._look()
        except OSError as error:
            self.close()
            if new:
                with contextlib.suppress(OSError):
                    path.unlink()
            raise _failed(path, error) from None

    @property
    def whole(self) -> bool:
        """Whether no chunk is missing."""
        return self.have == (1 << self.content.count) - 1

    def write(self, index: int, data: bytes) -> None:
        """Put a chunk in its place; its digest has been checked.

        Raises:
            DiskFailed: It cannot be written; the chunk counts as missing.
        """
        begin, length = self.content.span(index)
        assert len(data) == length, "a chunk of another length has another digest"
        try:
            written = os.pwrite(self._file, data, begin)
        except OSError as error:
            raise _failed(self.path, error) from None
        if written != length:
            raise DiskFailed(f"{self.path}: the disk took {written} of {length} bytes; make room")
        self.have |= 1 << index

    def read(self, index: int) -> bytes | None:
        """A chunk that is there, checked; None if it is not, or not any more.

        Raises:
            DiskFailed: It cannot be read.
        """
        if not self.have >> index & 1:
            return None
        begin, length = self.content.span(index)
        try:
            data = os.pread(self._file, length, begin)
        except OSError as error:
            raise _failed(self.path, error) from None
        if hashlib.sha256(data).digest() != self._digests[index]:
            self.have &= ~(1 << index)
            return None
        return data

    def sync(self) -> None:
        """Have what was written survive a power cut; nothing once it is closed. Blocks: for a thread.

        Raises:
            DiskFailed: It cannot be written.
        """
        file = self._file
        if file < 0:
            return
        try:
            os.fdatasync(file)
        except OSError as error:
            # Otherwise it was closed just now, and who opens it again digests each chunk.
            if self._file >= 0:
                raise _failed(self.path, error) from None

    def sha256(self) -> str:
        """Digest of the whole file, in hex. Blocks: for a thread.

        Raises:
            DiskFailed: It cannot be read.
        """
        digest = hashlib.sha256()
        try:
            for begin in range(0, self.content.size_bytes, SLICE_BYTES):
                left_bytes = self.content.size_bytes - begin
                digest.update(os.pread(self._file, min(SLICE_BYTES, left_bytes), begin))
        except OSError as error:
            raise _failed(self.path, error) from None
        return digest.hexdigest()

    def close(self) -> None:
        """Let go of the file; nothing is lost."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _reserve(self) -> None:
        """Take the space now, so that a full disk is told before anything is fetched."""
        size_bytes = self.content.size_bytes
        try:
            os.posix_fallocate(self._file, 0, size_bytes)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:
                raise
        os.ftruncate(self._file, size_bytes)

    def _look(self) -> None:
        for index, digest in enumerate(self._digests):
            begin, length = self.content.span(index)
            data = os.pread(self._file, length, begin)
            if hashlib.sha256(data).digest() == digest:
                self.have |= 1 << index


def _failed(path: Path, error: OSError) -> DiskFailed:
    return DiskFailed(f"{path}: {error.strerror}; make room or mend the disk")
