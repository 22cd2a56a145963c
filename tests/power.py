"""Disks that lose power or fill up: what they hold afterwards."""

import errno
import os
from contextlib import closing
from pathlib import Path

from broker.store import Store


class Disk:
    """What a power cut leaves: the files as they were when the last good sync began, and what happens to the rest."""

    def __init__(self, monkeypatch, directory):
        self.directory = directory
        self.synced = {}
        self.failing = False
        monkeypatch.setattr("broker.journal._sync", self._sync)

    def _sync(self, file):
        if self.failing:
            raise OSError(errno.EIO, "Input/output error")
        self.snapshot()
        os.fsync(file)

    def snapshot(self):
        paths = sorted(self.directory.glob("mesh.*"))
        self.synced = {path.name: path.read_bytes() for path in paths}

    def cut_power(self, to, *, torn=0):
        """The disk afterwards; `torn` bytes of what was written later have reached it, too."""
        to.mkdir()
        for name, data in self.synced.items():
            later = b""
            if name.startswith("mesh.journal") and (self.directory / name).exists():
                later = (self.directory / name).read_bytes()[len(data) :][:torn]
            (to / name).write_bytes(data + later)
        return closing(Store(to))


class FullDisk:
    """A disk that takes `room` bytes more of the journals in a directory, then none; None: as many as there come."""

    def __init__(self, monkeypatch, directory):
        self.directory = directory
        self.room = None
        monkeypatch.setattr("broker.journal._write", self._write)

    def _write(self, file, data, at):
        path = Path(f"/proc/self/fd/{file}").readlink()
        if self.room is None or not path.is_relative_to(self.directory):
            return os.pwrite(file, data, at)
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = os.pwrite(file, data[: self.room], at)
        self.room -= written
        return written
