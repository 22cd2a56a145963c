"""Who misses what: digests compared, holes asked for, losses declared.

Theory of operation. Each device keeps, per stream, one position (all passed up to here) and one floor (`held_after`:
complete in the log from there on). A digest tells a neighbour those entries that changed since it was last told; at
link-up all of them. With each digest goes a hash over all entries, so a neighbour that missed one asks for all.

A hole is a stream in which a neighbour stands further than we do, or in which a bundle waits for one before it. It is
asked for after WANT_DELAY_MS (it may be mere reordering), at once on a new link, and again from another neighbour
after WANT_RETRY_MS. What no neighbour can fill is declared lost after GAP_WAIT_MS if the origin is among them, which
is then sure, and after GAP_AWAY_MS if it is not: until then it may come back from behind a cut.

Assumes links deliver in order or go down; what a link loses all the same, the hash brings to light.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from broker.mesh.frame import Digest, Want
from broker.mesh.limits import (
    DIGEST_ENTRIES_MAX,
    GAP_AWAY_MS,
    GAP_WAIT_MS,
    MS,
    REBUILD_ASKS_MAX,
    REBUILD_RETRY_MS,
    WANT_DELAY_MS,
    WANT_HELD_BACK_MS,
    WANT_RANGES_MAX,
    WANT_RETRY_MS,
)
from broker.mesh.streams import START, KeptStream

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.mesh.bundle import Position
    from broker.mesh.log import Log, Stored
    from broker.mesh.peer import Peer
    from broker.mesh.retained import RetainedMap

__all__ = ["Repair", "Vector"]

Stream = tuple[str, int]
Range = tuple[str, int, int, int, int, int]
_MASK: Final = (1 << 64) - 1


def entry_hash(stream: Stream, position: Position, held_after: Position) -> int:
    """64 bits that stand for one entry of a digest."""
    text = f"{stream[0]}\0{stream[1]}\0{position}\0{held_after}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


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

    def since(self, stamp: int) -> list[Range]:
        """The entries that changed after `stamp`."""
        rows: list[Range] = []
        for stream in reversed(self._changed):
            if self._changed[stream] <= stamp:
                break
            position, held_after = self.entry(stream)
            rows.append((*stream, *position, *held_after))
        return rows

    def settle_hash(self) -> int:
        """The hash over all entries, brought up to date."""
        for stream in self._dirty:
            new = entry_hash(stream, *self.entry(stream))
            self.hash = (self.hash - self._hashes.get(stream, 0) + new) & _MASK
            self._hashes[stream] = new
        self._dirty.clear()
        return self.hash

    def digests(self, peer: Peer, retained: RetainedMap, *, settled: bool) -> list[Digest]:
        """What to tell a neighbour now; marks it as told."""
        full = peer.told_stamp == 0
        rows = self.since(peer.told_stamp)
        peer.told_stamp = self.stamp
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


class Repair:
    """Finds holes and asks for them."""

    __slots__ = (
        "_asked",
        "_holes",
        "_hopeless",
        "_peers",
        "_rebuild_asked",
        "_sources",
        "_streams",
        "wants",
    )

    def __init__(self, streams: dict[Stream, KeptStream], peers: dict[str, Peer]) -> None:
        self._streams = streams
        self._peers = peers
        self._holes: dict[Stream, int] = {}
        self._hopeless: dict[Stream, int] = {}
        self._asked: dict[Stream, tuple[int, str]] = {}
        self._sources: dict[Stream, str] = {}
        self._rebuild_asked: dict[Stream, tuple[int | None, str, Position, int]] = {}
        self.wants = 0

    def hear(self, peer: Peer, digest: Digest) -> bool:
        """Take in a neighbour's digest. False when it does not add up and all of it is needed again."""
        if digest.full:
            peer.theirs.clear()
            peer.theirs_hash = 0
        for origin, lane, inc, seq, held_inc, held_seq in digest.entries:
            stream, position, held = (origin, lane), (inc, seq), (held_inc, held_seq)
            known = peer.theirs.get(stream)
            if known is not None:
                peer.theirs_hash -= entry_hash(stream, *known)
            peer.theirs[stream] = (position, held)
            peer.theirs_hash = (peer.theirs_hash + entry_hash(stream, position, held)) & _MASK
        if digest.more:
            return True
        peer.digests_heard += 1
        return peer.theirs_hash & _MASK == digest.vector_hash

    def note_waiting(self, stream: Stream, source: str, now_ns: int) -> None:
        """A bundle of the stream came from `source` and could not be passed yet."""
        self._holes.setdefault(stream, now_ns + WANT_DELAY_MS * MS)
        self._sources[stream] = source

    def note_behind(
        self, peer: Peer, streams: Iterable[Stream], now_ns: int, *, at_once: bool
    ) -> None:
        """Look whether the neighbour stands further than we do in these streams."""
        due = now_ns if at_once else now_ns + WANT_DELAY_MS * MS
        for stream in streams:
            mine = self._streams.get(stream)
            if peer.theirs[stream][0] > (mine.position if mine else START):
                self._holes[stream] = min(due, self._holes.get(stream, due))

    def rebuild_ranges(self, peer: Peer, log: Log, now_ns: int) -> list[Range]:
        """What the neighbour holds of this device's lost memory and nobody was asked for yet."""
        rows: list[Range] = []
        for stream, (position, held) in peer.theirs.items():
            mine = self._streams.get(stream)
            floor = log.held_after.get(stream, START)
            if mine is None or mine.rebuild_upto == START or not held < floor <= position:
                continue
            asked_ns, _, asked_held, asks = self._rebuild_asked.get(stream, (None, "", floor, 0))
            recent = asked_ns is not None and now_ns - asked_ns < REBUILD_RETRY_MS * MS
            if (recent and held >= asked_held) or asks >= REBUILD_ASKS_MAX:
                continue
            upto = min(asked_held, floor) if recent else floor
            in_vain = peer.held_back and stream[0] == peer.name
            self._rebuild_asked[stream] = (now_ns, peer.name, held, asks + (not in_vain))
            rows.append((*stream, *held, *upto))
        return rows

    def forget_peer(self, name: str) -> None:
        """A link went down: what was asked of it must be asked of another."""
        self._asked = {s: ask for s, ask in self._asked.items() if ask[1] != name}
        self._rebuild_asked = {s: ask for s, ask in self._rebuild_asked.items() if ask[1] != name}

    def next_ns(self) -> int | None:
        """When `due` wants to be called."""
        if not self._holes or not self._peers:
            return None
        return min(self._holes.values())

    def due(self, now_ns: int) -> tuple[dict[str, list[Want]], list[tuple[Stream, Position]]]:
        """What to ask of whom now, and which streams must jump to which position because the rest is lost."""
        ranges: dict[str, list[Range]] = {}
        lost: list[tuple[Stream, Position]] = []
        for stream in [s for s, at_ns in self._holes.items() if at_ns <= now_ns]:
            mine = self._streams.get(stream)
            position = mine.position if mine else START
            ahead = self._ahead(stream, position)
            if not ahead and not (mine and mine.waiting):
                self._close(stream)
                continue
            self._holes[stream] = now_ns + WANT_RETRY_MS * MS
            first = mine.first_waiting() if mine else None
            loss = self._loss(stream, position, ahead, first, now_ns)
            if loss is not None:
                lost.append((stream, loss))
                self._holes[stream] = now_ns
                # Behind it there may be another hole, which a neighbour that gives up now can fill.
                self._hopeless[stream] = now_ns - (GAP_AWAY_MS - GAP_WAIT_MS) * MS
                continue
            asked = self._choose(stream, position, ahead)
            if asked is not None:
                upto = max((p for p, _ in ahead.values()), default=position)
                if first is not None:
                    upto = (first.header.incarnation, first.header.sequence - 1)
                if asked == stream[0] and self._peers[asked].held_back:
                    self._holes[stream] = now_ns + WANT_HELD_BACK_MS * MS
                self._asked[stream] = (now_ns, asked)
                ranges.setdefault(asked, []).append((*stream, *position, *upto))
        return {peer: self.pages(rows) for peer, rows in ranges.items()}, lost

    def pages(self, rows: list[Range]) -> list[Want]:
        """Ranges as records."""
        self.wants += len(rows)
        return [
            Want(rows[at : at + WANT_RANGES_MAX]) for at in range(0, len(rows), WANT_RANGES_MAX)
        ]

    def _ahead(self, stream: Stream, position: Position) -> dict[str, tuple[Position, Position]]:
        """The neighbours that stand further, by name."""
        return {
            name: peer.theirs[stream]
            for name, peer in self._peers.items()
            if stream in peer.theirs and peer.theirs[stream][0] > position
        }

    def _choose(
        self, stream: Stream, position: Position, ahead: dict[str, tuple[Position, Position]]
    ) -> str | None:
        """Whom to ask: not the one asked last, if there is another that can help."""
        able = sorted(name for name, (_, held) in ahead.items() if held <= position)
        source = self._sources.get(stream)
        if source in self._peers and source not in able:
            able.append(source)
        if not able:
            return None
        last = self._asked.get(stream)
        after_last = [name for name in able if last is not None and name > last[1]]
        return (after_last or able)[0]

    def _loss(
        self,
        stream: Stream,
        position: Position,
        ahead: dict[str, tuple[Position, Position]],
        first_waiting: Stored | None,
        now_ns: int,
    ) -> Position | None:
        """Where to go on when everything before is lost, or None."""
        if any(held <= position for _, held in ahead.values()):
            self._hopeless.pop(stream, None)
            return None
        patience_ms = GAP_WAIT_MS if stream[0] in ahead else GAP_AWAY_MS
        if now_ns - self._hopeless.setdefault(stream, now_ns) < patience_ms * MS:
            return None
        floors = [held for _, held in ahead.values()]
        if first_waiting is not None:
            floors.append(first_waiting.header.before)
        return min((floor for floor in floors if floor > position), default=None)

    def _close(self, stream: Stream) -> None:
        del self._holes[stream]
        self._asked.pop(stream, None)
        self._sources.pop(stream, None)
        self._hopeless.pop(stream, None)
