"""Where this device stands in all streams, as it tells its neighbours.

Theory of operation. Each device keeps, per stream, one position (all passed up to here) and one floor (`held_after`:
complete in the log from there on). A digest tells a neighbour those entries that changed since it was last told; at
link-up all of them. With each digest goes a hash over all entries, a sum that a changed entry moves by itself, so a
neighbour that missed one asks for all.

Assumes that whoever changes a stream's position or floor says so by `touch`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from broker.mesh.bundle import START
from broker.mesh.control import Digest
from broker.mesh.hashes import HASH_MASK, text_hash
from broker.mesh.limits import DIGEST_ENTRIES_MAX, ENTRY_HASHES_MAX

if TYPE_CHECKING:
    from broker.mesh.bundle import Position, Stream
    from broker.mesh.control import DigestEntry
    from broker.mesh.log import Log
    from broker.mesh.peer import Peer
    from broker.mesh.retained import RetainedMap
    from broker.mesh.streams import KeptStream

__all__ = ["Vector", "entry_hash"]


@lru_cache(ENTRY_HASHES_MAX)
def entry_hash(stream: Stream, position: Position, held_after: Position) -> int:
    """64 bits that stand for one entry of a digest."""
    return text_hash(f"{stream[0]}\0{stream[1]}\0{position}\0{held_after}")


class Vector:
    """This device's own entries, in the order in which they last changed."""

    __slots__ = ("_changed", "_dirty", "_hashes", "_log", "_streams", "hash", "stamp")

    def __init__(self, streams: dict[Stream, KeptStream], log: Log) -> None:
        self._streams = streams
        self._log = log
        self._changed: dict[Stream, int] = {}
        self._dirty: set[Stream] = set()
        self._hashes: dict[Stream, int] = {}
        self.hash = 0
        self.stamp = 1

    def touch(self, stream: Stream) -> None:
        """A stream's position or floor has changed."""
        self.stamp += 1
        self._changed.pop(stream, None)
        self._changed[stream] = self.stamp
        self._dirty.add(stream)

    def entry(self, stream: Stream) -> tuple[Position, Position]:
        """Position and floor of a stream."""
        return self._streams[stream].position, self._log.held_after.get(stream, START)

    def since(self, stamp: int) -> list[DigestEntry]:
        """The entries that changed after `stamp`."""
        rows: list[DigestEntry] = []
        for stream in reversed(self._changed):
            if self._changed[stream] <= stamp:
                break
            held_after = self._log.held_after.get(stream, START)
            rows.append((*stream, *self._streams[stream].position, *held_after))
        return rows

    def settle_hash(self) -> int:
        """The hash over all entries, brought up to date."""
        for stream in self._dirty:
            new = entry_hash(stream, *self.entry(stream))
            self.hash = (self.hash - self._hashes.get(stream, 0) + new) & HASH_MASK
            self._hashes[stream] = new
        self._dirty.clear()
        return self.hash

    def digests(self, peer: Peer, retained: RetainedMap, *, settled: bool) -> list[Digest]:
        """What to tell a neighbour now; marks it as told."""
        full = peer.progress.told_stamp == 0
        rows = self.since(peer.progress.told_stamp)
        peer.progress.note_told(self.stamp)
        vector_hash = self.settle_hash()
        pages = [
            rows[at : at + DIGEST_ENTRIES_MAX]
            for at in range(0, max(len(rows), 1), DIGEST_ENTRIES_MAX)
        ]
        return [
            Digest(
                full and number == 0,
                settled,
                number + 1 < len(pages),
                vector_hash,
                retained.hash,
                retained.floor,
                page,
            )
            for number, page in enumerate(pages)
        ]
