"""Where a device keeps the bytes of models, by their digest.

A directory holds `{sha256}` for each whole content, `{sha256}.part` for one that is on its way, `{sha256}.json` for how
either is cut into chunks, and `kept`, what is never given up: the files of the version that runs and of the one before.

Decides that content is visible only when all of it has the right digest and is on the disk; that what was used longest
ago goes first when the limit is reached, and what is kept never; that a file which has decayed becomes a partial one,
so only its bad chunks are fetched again. Assumes one process (the device's state directory is locked). On failure: an
error of `agent.models.errors`; no failure removes good bytes. What is digested or synced blocks: call `add`, `read`,
`open` and `finish` in a thread. From `open` to `leave` nothing else is called for that content, which `add` sees to
among its own; the table of what there is, is under a lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from agent.models.content import Content, content_of, sha256_of
from agent.models.errors import (
    ContentDamaged,
    ContentMissing,
    DiskFailed,
    StoreFull,
    TooLarge,
)
from agent.models.limits import MODEL_BYTES_MAX, STORE_BYTES_MAX
from agent.models.partial import Partial
from broker.journal import sync_directory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["ContentStore", "StoreStatistics"]

KEPT: Final = "kept"
_NAME: Final = re.compile(r"([0-9a-f]{64})(\.part)?")


class StoreStatistics(NamedTuple):
    """What is in the store."""

    contents: int
    partial: int
    size_bytes: int
    evicted: int
    damaged: int
    """Files, or chunks of them, that did not have their digest any more."""


class _Entry(NamedTuple):
    size_bytes: int
    whole: bool
    used_ns: int
    """When it was last read or written, by the file's own time."""


class ContentStore:
    """The content on one device.

    Args:
        directory: Where; made if it is missing.
        limit_bytes: What it may hold.

    Raises:
        DiskFailed: The directory cannot be read or written.
    """

    def __init__(self, directory: Path, limit_bytes: int = STORE_BYTES_MAX) -> None:
        self._directory = directory
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._adding = threading.Lock()
        """Of who adds: two may come by the same bytes at once."""
        self._entries: dict[str, _Entry] = {}
        self._contents: dict[str, Content] = {}
        self._open: set[str] = set()
        self._kept: tuple[tuple[str, ...], ...] = ()
        self._evicted = self._damaged = 0
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._look()
        except OSError as error:
            raise self._failed(error) from None

    # What is there.

    def holds(self, sha256: str) -> bool:
        """Whether the whole content is there."""
        entry = self._entries.get(sha256)
        return entry is not None and entry.whole

    def content(self, sha256: str) -> Content | None:
        """How content that is there, whole, is cut; None if it is not, or nobody wrote it down."""
        return self._contents.get(sha256) if self.holds(sha256) else None

    @property
    def kept(self) -> tuple[tuple[str, ...], ...]:
        """What is never evicted, version by version, as `keep` was told."""
        return self._kept

    def statistics(self) -> StoreStatistics:
        """What there is, and what became of the rest."""
        with self._lock:
            entries = list(self._entries.values())
        return StoreStatistics(
            sum(entry.whole for entry in entries),
            sum(not entry.whole for entry in entries),
            sum(entry.size_bytes for entry in entries),
            self._evicted,
            self._damaged,
        )

    def read(self, sha256: str) -> bytes:
        """All bytes of content, checked.

        Raises:
            ContentMissing: It is not there.
            ContentDamaged: It has decayed; `open` finds what is still good.
            DiskFailed: It cannot be read.
        """
        if not self.holds(sha256):
            raise ContentMissing(f"no content {sha256[:12]} in {self._directory}")
        path = self._directory / sha256
        try:
            data = path.read_bytes()
            os.utime(path)
        except FileNotFoundError:
            data = b""  # somebody has deleted it
        except OSError as error:
            raise self._failed(error) from None
        if sha256_of(data) != sha256:
            self._demote(sha256)
            raise ContentDamaged(f"{path} has decayed, or is gone; what is bad is fetched again")
        self._note(sha256, whole=True)
        if sha256 not in self._contents:
            self._describe(content_of(data))
        return data

    def chunk(self, sha256: str, index: int) -> bytes | None:
        """A chunk of whole content, checked; None if it is not there, or has decayed.

        Raises:
            DiskFailed: It cannot be read.
        """
        content = self.content(sha256)
        if content is None or not 0 <= index < content.count:
            return None
        begin, length = content.span(index)
        try:
            with (self._directory / sha256).open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), length, begin)
        except FileNotFoundError:
            data = b""
        except OSError as error:
            raise self._failed(error) from None
        if hashlib.sha256(data).digest() != content.digest(index):
            self._demote(sha256)
            return None
        return data

    # What is to be there.

    def check(self, content: Content) -> None:
        """Whether this content could ever be kept here.

        Raises:
            TooLarge: It could not.
        """
        limit_bytes = min(self._limit_bytes, MODEL_BYTES_MAX)
        if content.size_bytes > limit_bytes:
            raise TooLarge(f"{content.size_bytes} bytes, where at most {limit_bytes} are kept")

    def open(self, content: Content) -> Partial:
        """Begin content, or go on where it was left. `leave` ends it.

        Raises:
            TooLarge: It could never be kept here.
            StoreFull: What must stay leaves no room.
            DiskFailed: The disk has no room, or cannot be written.
        """
        self.check(content)
        name = content.sha256
        path = self._directory / f"{name}.part"
        try:
            self._make_room(content)
            self._write_down(content)
            with contextlib.suppress(FileNotFoundError):
                (self._directory / name).replace(path)  # it has decayed
            partial = Partial(path, content)
        except (OSError, DiskFailed) as error:
            if name not in self._entries:
                with contextlib.suppress(OSError):
                    self._unlink(f"{name}.json")
            if isinstance(error, OSError):
                raise self._failed(error) from None
            raise
        with self._lock:
            self._contents[name] = content
            self._open.add(name)
        self._note(name, whole=False)
        return partial

    def leave(self, partial: Partial) -> None:
        """Stop filling it; what is there is kept for the next time."""
        partial.close()
        with self._lock:
            self._open.discard(partial.content.sha256)

    def finish(self, partial: Partial) -> None:
        """Make content visible whose chunks are all there; `leave` closes the file.

        Raises:
            ContentDamaged: The whole has another digest, so chunks and digest contradict each other; it is removed.
            DiskFailed: The disk does not take it; it stays as it is.
        """
        name = partial.content.sha256
        try:
            partial.sync()
            found = partial.sha256()
            if found != name:
                self._unlink(f"{name}.part")
                self._unlink(f"{name}.json")
                self._forget(name)
                raise ContentDamaged(
                    f"the chunks of {name[:12]} make {found[:12]}; its manifest contradicts itself"
                )
            partial.path.replace(self._directory / name)
            sync_directory(self._directory)
        except OSError as error:
            raise self._failed(error) from None
        self._note(name, whole=True)

    def add(self, data: bytes, chunk_bytes: int = 0) -> Content:
        """Put bytes that this device made or was given into the store.

        Args:
            data: The bytes.
            chunk_bytes: How they are cut, where a manifest says so; 0: as is best.

        Raises:
            ValueError: They are none, or too many for any content.
            TransferError: As `open` and `finish`.
        """
        content = content_of(data, chunk_bytes)
        with self._adding:
            if self.holds(content.sha256):
                return content
            partial = self.open(content)
            try:
                for index in range(content.count):
                    begin, length = content.span(index)
                    partial.write(index, data[begin : begin + length])
                self.finish(partial)
            finally:
                self.leave(partial)
        return content

    def keep(self, versions: Sequence[Sequence[str]]) -> None:
        """Never give up this content from now on, across restarts; what was kept before and is not named may go.

        Args:
            versions: The digests of each version's files.

        Raises:
            DiskFailed: It cannot be written down; what was kept stays kept.
        """
        kept = tuple(tuple(names) for names in versions)
        if kept == self._kept:
            return
        try:
            self._replace(KEPT, msgspec.json.encode(kept))
        except OSError as error:
            raise self._failed(error) from None
        self._kept = kept

    # Inside.

    def _look(self) -> None:
        """Find what earlier boots left."""
        for path in self._directory.iterdir():
            match = _NAME.fullmatch(path.name)
            if match and not (match[2] and (self._directory / match[1]).exists()):
                status = path.stat()
                self._entries[match[1]] = _Entry(status.st_size, not match[2], status.st_mtime_ns)
            elif match or path.name.endswith(".new"):
                path.unlink()
        for name in self._entries:
            with contextlib.suppress(OSError, ValueError, RecursionError):
                written = (self._directory / f"{name}.json").read_bytes()
                content = msgspec.json.decode(written, type=Content)
                if content.sha256 == name:
                    self._contents[name] = content
        for path in self._directory.glob("*.json"):
            if path.stem not in self._entries:
                path.unlink()
        with contextlib.suppress(FileNotFoundError, ValueError, RecursionError):
            written = (self._directory / KEPT).read_bytes()
            self._kept = msgspec.json.decode(written, type=tuple[tuple[str, ...], ...])

    def _make_room(self, content: Content) -> None:
        """Evict until the content fits: what was used longest ago first, whole or partial."""
        with self._lock:
            stays = self._open.union({content.sha256}, *self._kept)
            used = sum(e.size_bytes for name, e in self._entries.items() if name != content.sha256)
            spare = sorted(
                (entry.used_ns, name) for name, entry in self._entries.items() if name not in stays
            )
            over_bytes = used + content.size_bytes - self._limit_bytes
            going = []
            for _, name in spare:
                if over_bytes <= 0:
                    break
                going.append(name)
                over_bytes -= self._entries[name].size_bytes
        if over_bytes > 0:
            raise StoreFull(
                f"{content.size_bytes} bytes do not fit beside what must stay; {over_bytes} are missing, so raise the "
                f"limit of {self._limit_bytes}"
            )
        for name in going:
            self._evict(name)

    def _describe(self, content: Content) -> None:
        """Write down anew how content is cut, where that was lost; the chunks are served again from now on."""
        with contextlib.suppress(OSError):
            self._write_down(content)
        with self._lock:
            self._contents[content.sha256] = content

    def _evict(self, name: str) -> None:
        for suffix in ("", ".part", ".json"):
            self._unlink(f"{name}{suffix}")
        self._forget(name)
        self._evicted += 1

    def _demote(self, name: str) -> None:
        """A file has decayed, or is gone: `open` finds what is good of it."""
        self._damaged += 1
        with self._lock:
            if name in self._entries:
                self._entries[name] = self._entries[name]._replace(whole=False)

    def _note(self, name: str, *, whole: bool) -> None:
        with contextlib.suppress(OSError):
            status = (self._directory / (name if whole else f"{name}.part")).stat()
            with self._lock:
                self._entries[name] = _Entry(status.st_size, whole, status.st_mtime_ns)

    def _forget(self, name: str) -> None:
        with self._lock:
            self._entries.pop(name, None)
            self._contents.pop(name, None)

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self._directory / name).unlink()

    def _write_down(self, content: Content) -> None:
        """How content is cut; not synced, since it can be found out again."""
        (self._directory / f"{content.sha256}.json").write_bytes(msgspec.json.encode(content))

    def _replace(self, name: str, data: bytes) -> None:
        """Put a small file in the place of the one that is there, all of it or nothing, also when the power goes."""
        beside = self._directory / f"{name}.new"
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._directory / name)
        sync_directory(self._directory)

    def _failed(self, error: OSError) -> DiskFailed:
        return DiskFailed(f"{self._directory}: {error.strerror}; make room or mend the disk")
