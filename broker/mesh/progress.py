"""Where one neighbour stands in all streams, as far as it has said, and how far it was told where this device stands.

Theory of operation. A digest names the streams that changed since the one before, with a hash over all of them: where
the hash does not come out, one was lost. Between digests, what the neighbour announces or sends says more than the last
of them did. The other way round a stamp of this device's vector says up to where the neighbour was told; should that
not add up over there, the last digests are said again, and all of it if that was in vain.

Assumes nothing of what is claimed: it is bounded, and only ever asked for. Outlives the link (`acquaintances.py`).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from broker.mesh.bundle import START
from broker.mesh.hashes import HASH_MASK
from broker.mesh.limits import STREAMS_MAX, TOLD_BEFORE_MAX
from broker.mesh.vector import entry_hash

if TYPE_CHECKING:
    from broker.mesh.bundle import Position, Stream
    from broker.mesh.control import Digest
    from broker.mesh.streams import KeptStream

__all__ = ["Progress"]


class Progress:
    """Of one neighbour."""

    __slots__ = (
        "_heard",
        "_told_again",
        "digests_heard",
        "entries",
        "hash",
        "told_before",
        "told_stamp",
    )

    def __init__(self) -> None:
        self.entries: dict[Stream, tuple[Position, Position]] = {}
        """By its digests: what it has passed, and from where on it holds it."""
        self.hash = 0
        """Over them."""
        self._heard: dict[Stream, Position] = {}
        """What it announced or sent since its last digest, where that is more."""
        self.digests_heard = 0
        """Since the link came up."""
        self.told_stamp = 0
        self.told_before: deque[int] = deque(maxlen=TOLD_BEFORE_MAX)
        """The stamps up to which it had been told before each of the last digests."""
        self._told_again = False

    def link_lost(self) -> None:
        """Its link is down: only what digests have said still stands when it is back."""
        self._heard.clear()
        self.digests_heard = 0
        self._told_again = False

    # Where it stands.

    def position(self, stream: Stream) -> Position:
        """How far it is known to have come in a stream, by digest, announcement or what it sent."""
        known = self.entries.get(stream)
        heard = self._heard.get(stream, START)
        return heard if known is None or known[0] < heard else known[0]

    def note(self, stream: Stream, position: Position) -> None:
        """It has come this far. What it claims of more streams than there may be counts for nothing."""
        if position > self.position(stream) and (
            stream in self._heard or len(self._heard) < STREAMS_MAX
        ):
            self._heard[stream] = position

    def note_sent(self, stream: Stream, before: Position, position: Position) -> None:
        """It sent this bundle. It may itself wait for what comes before it, unless it is known to have come so far."""
        if before <= self.position(stream):
            self.note(stream, position)

    def hear(
        self, digest: Digest, streams: dict[Stream, KeptStream], names: dict[Stream, Stream]
    ) -> bool:
        """Take in its digest. False when it does not add up and all of it is needed again.

        Args:
            digest: What it says.
            streams: This device's own, whose positions are shared where they are the same.
            names: Names of streams, so that what all neighbours say of one is held once.
        """
        if digest.full:
            self.forget()
        if len(names) > STREAMS_MAX:
            names.clear()
        for origin, lane, inc, seq, held_inc, held_seq in digest.entries:
            stream, position = (origin, lane), (inc, seq)
            held = (held_inc, held_seq) if held_inc or held_seq else START
            known = self.entries.get(stream)
            if self._heard and self._heard.get(stream, position) <= position:
                self._heard.pop(stream, None)
            if known is not None:
                if known == (position, held):
                    continue
                self.hash -= entry_hash(stream, *known)
            mine = streams.get(stream)
            if mine is not None and mine.position == position:
                position = mine.position  # shared: most devices stand where this one does
            self.entries[names.setdefault(stream, stream)] = (position, held)
            self.hash = (self.hash + entry_hash(stream, position, held)) & HASH_MASK
        if digest.more:
            return True
        self.digests_heard += 1
        return self.hash & HASH_MASK == digest.vector_hash

    def forget(self) -> None:
        """Hold nothing of what its digests have said."""
        self.entries = {}
        self.hash = 0

    # What it was told.

    def note_told(self, stamp: int) -> None:
        """A digest tells it everything up to this stamp."""
        if self.told_before:
            self._told_again = False
        self.told_before.append(self.told_stamp)
        self.told_stamp = stamp

    def tell_again(self) -> None:
        """What it was told does not add up there: say again what the last digests said, or all if that was in vain."""
        in_vain = self._told_again or not self.told_before
        self.told_stamp = 0 if in_vain else self.told_before[0]
        self._told_again = not in_vain
        self.told_before.clear()
