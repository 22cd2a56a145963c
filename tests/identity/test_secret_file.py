"""Small files that are replaced as a whole."""

import os
import stat

from broker.secret_file import write_file


def test_what_took_the_place_of_a_file_has_it_after_a_power_cut(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    synced, fsync = [], os.fsync

    def note(descriptor):
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.read_bytes()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    write_file(path, b"new")
    assert synced == [(False, b"old"), (True, b"new")]
