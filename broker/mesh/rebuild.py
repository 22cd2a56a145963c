"""Which lost memory is asked of whom, after a boot and on first joining.

Theory of operation. Before a stream's position lies what this device had passed and no longer holds. Each neighbour's
digest says which part of it that neighbour holds: from its floor up to where it stands, which may be less far than this
device does. Of that part the holes are asked for, those of a stream once within REBUILD_RETRY_MS; a neighbour that
holds more on either side is asked for the rest at once.

Assumes that answers may be lost; then the holes show when the next digest comes. What the log evicts meanwhile shows
as a hole, too, so each stream is asked for REBUILD_ASKS_MAX times at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from broker.mesh.bundle import START
from broker.mesh.limits import MS, REBUILD_ASKS_MAX, REBUILD_RETRY_MS, WANT_HOLES_MAX

if TYPE_CHECKING:
    from broker.mesh.bundle import Position, Stream
    from broker.mesh.control import WantRange
    from broker.mesh.log import Log
    from broker.mesh.peer import Peer
    from broker.mesh.streams import KeptStream

__all__ = ["Rebuild"]


class _Asked(NamedTuple):
    """What was looked at last of a stream's past."""

    at_ns: int
    peer: str
    after: Position
    upto: Position
    times: int
    """How often something was asked for."""


class Rebuild:
    """Finds the holes in this device's memory."""

    __slots__ = ("_asked", "_log", "_streams", "_wanted")

    def __init__(self, streams: dict[Stream, KeptStream], log: Log) -> None:
        self._streams = streams
        self._log = log
        self._wanted: dict[Stream, None] = {}
        self._asked: dict[Stream, _Asked] = {}

    def note(self, stream: Stream) -> None:
        """What is before this stream's position is lost memory."""
        self._wanted[stream] = None

    def forget_peer(self, name: str) -> None:
        """A link went down: what was asked of it may be asked of another."""
        self._asked = {s: asked for s, asked in self._asked.items() if asked.peer != name}

    def ranges(self, peer: Peer, now_ns: int) -> list[WantRange]:
        """What the neighbour holds of it and nobody was asked for yet."""
        rows: list[WantRange] = []
        for stream in self._wanted:
            position, after = peer.progress.entries.get(stream, (START, START))
            floor = self._log.held_after.get(stream, START)
            upto = min(position, floor, self._streams[stream].rebuild_upto)
            if after < upto:
                holes = self._holes(stream, peer, after, upto, now_ns)
                rows += [(*stream, *hole_after, *hole_upto) for hole_after, hole_upto in holes]
        return rows

    def _holes(
        self, stream: Stream, peer: Peer, after: Position, upto: Position, now_ns: int
    ) -> list[tuple[Position, Position]]:
        """What is missing of (after, upto] and was not asked for lately; notes it as asked for."""
        parts, asked = [(after, upto)], self._asked.get(stream)
        times = 0 if asked is None else asked.times
        if times >= REBUILD_ASKS_MAX:
            return []
        if asked is not None and now_ns - asked.at_ns < REBUILD_RETRY_MS * MS:
            parts = [(after, min(upto, asked.after)), (max(after, asked.upto), upto)]
            parts = [part for part in parts if part[0] < part[1]]
            if not parts:
                return []
            after, upto = min(after, asked.after), max(upto, asked.upto)
        holes = [hole for part in parts for hole in self._log.holes(stream, *part)]
        in_vain = peer.held_back and stream[0] == peer.name
        times += bool(holes) and not in_vain
        self._asked[stream] = _Asked(now_ns, peer.name, after, upto, times)
        return holes[-WANT_HOLES_MAX:]
