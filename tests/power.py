"""Power cuts: what a disk holds afterwards."""

import errno
import os
from contextlib import closing

from broker.store import Store


class Disk:
    """What a power cut leaves: the files as they were when the last good sync began, and what happens to the rest."""

    def __init__(self, monkeypatch, directory):
        self.directory = directory
        self.synced = {}
        self.failing = False
        monkeypatch.setattr("broker.store._sync", self._sync)

    def _sync(self, file):
        if self.failing:
            raise OSError(errno.EIO, "Input/output error")
        self.snapshot()
        os.fsync(file)

    def snapshot(self):
        names = ("mesh.sqlite", "mesh.sqlite-wal")
        self.synced = {name: (self.directory / name).read_bytes() for name in names}

    def cut_power(self, to, *, torn=0):
        """The disk afterwards; `torn` bytes of what was written later have reached it, too."""
        to.mkdir()
        for name, data in self.synced.items():
            later = (self.directory / name).read_bytes()
            kept = data + later[len(data) : len(data) + torn] if name.endswith("wal") else data
            (to / name).write_bytes(kept)
        return closing(Store(to))
