"""What this device itself publishes: one open bundle per lane, sealed at the end of each turn.

Decides incarnation and sequence of own bundles, and that a bundle is sealed early when it grows over its bound. The
first bundle of a stream in an incarnation names the position where the stream stood before, so receivers can close
the old incarnation.

Assumes that the incarnation was stored before the first bundle leaves. When a neighbour knows a higher one (the disk
was lost), `renumber` moves the bundles that nobody has heard yet into a new incarnation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.mesh.bundle import (
    START,
    Header,
    Message,
    Position,
    encode_body,
    is_kept,
)
from broker.mesh.hashes import text_hash
from broker.mesh.limits import BUNDLE_BYTES_MAX, BUNDLE_MESSAGES_MAX, MS
from broker.mesh.log import Stored
from broker.mesh.tags import sealed

if TYPE_CHECKING:
    from broker.mesh.tags import Seals

__all__ = ["Origin"]

Sealed = tuple[Stored, list[Message]]


class _Open:
    """The bundle that is being filled on one lane."""

    __slots__ = ("lifetime_ms", "messages", "size")

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.size = 0
        self.lifetime_ms = 0


class Origin:
    """Own lanes of one device."""

    __slots__ = ("_full", "_next", "_open", "_seals", "device", "incarnation", "lost")

    def __init__(self, device: str, incarnation: int, seals: Seals | None = None) -> None:
        self.device = device
        self._seals = seals
        self.incarnation = incarnation
        self.lost = False
        """Whether earlier incarnations are known to exist, but not how they ended."""
        self._open: dict[int, _Open] = {}
        self._full: list[tuple[int, _Open]] = []
        self._next: dict[int, int] = {}

    @property
    def pending(self) -> bool:
        """Whether there is anything to seal."""
        return bool(self._open or self._full)

    @property
    def starting(self) -> bool:
        """Whether a lane's next bundle is its first in this incarnation."""
        return any(
            lane not in self._next for lane in (*self._open, *(lane for lane, _ in self._full))
        )

    def last(self, lane: int) -> Position:
        """The last bundle of a lane in this incarnation."""
        return (self.incarnation, self._next.get(lane, 1) - 1)

    def add(self, lane: int, message: Message, size: int) -> None:
        """Put a message of about `size` bytes into its lane's open bundle.

        What expires and what does not never share a bundle. A retained value that needs a proof has one to itself: the
        bundle is handed on with the value for as long as it stands.
        """
        bundle = self._open.get(lane)
        lifetime_ms = message.lifetime_ms
        alone = message.retained and self._seals is not None and self._seals.proves(lane)
        if (
            bundle is None
            or alone
            or bundle.size + size > BUNDLE_BYTES_MAX
            or len(bundle.messages) >= BUNDLE_MESSAGES_MAX
            or (lifetime_ms > 0) is not (bundle.lifetime_ms > 0)
        ):
            if bundle is not None:
                self._full.append((lane, bundle))
            bundle = self._open[lane] = _Open()
        bundle.messages.append(message)
        bundle.size += size
        bundle.lifetime_ms = max(bundle.lifetime_ms, lifetime_ms)
        if alone:
            self._full.append((lane, self._open.pop(lane)))

    def seal(self, positions: dict[int, Position], now_ns: int) -> list[Sealed]:
        """Close all open bundles; `positions` says where each own stream stands."""
        bundles = self._full
        bundles += self._open.items()
        self._full, self._open = [], {}
        return [
            self._seal(lane, bundle, positions.get(lane, START), now_ns) for lane, bundle in bundles
        ]

    def _seal(self, lane: int, bundle: _Open, before: Position, now_ns: int) -> Sealed:
        messages = bundle.messages
        sequence = self._next.get(lane, 1)
        self._next[lane] = sequence + 1
        first = sequence == 1 and is_kept(lane)
        body, compressed = encode_body(messages)
        lifetime_ms = bundle.lifetime_ms
        header = Header(
            self.device,
            lane,
            self.incarnation,
            sequence,
            len(messages),
            messages[-1].clock,
            lifetime_ms,
            len(body),
            before if first and before > START else None,
            first and self.lost and before == START,
            () if is_kept(lane) else tuple({text_hash(m.topic): None for m in messages}),
            compressed=compressed,
        )
        expires_ns = now_ns + lifetime_ms * MS if lifetime_ms else None
        return Stored(*sealed(header, body, self._seals), body, expires_ns, 0), messages

    def begin(self, incarnation: int) -> None:
        """Go on in a higher incarnation."""
        self.incarnation = incarnation
        self._next = {}

    def renumber(self, incarnation: int, unheard: list[Stored]) -> list[Stored]:
        """Raise the incarnation; returns the unheard bundles under it, in the same order per lane."""
        self.incarnation = incarnation
        self.lost = True
        self._next = {}
        renumbered = []
        for stored in unheard:
            lane = stored.header.lane
            sequence = self._next.get(lane, 1)
            self._next[lane] = sequence + 1
            header = stored.header._replace(
                incarnation=incarnation,
                sequence=sequence,
                closes=None,
                closes_lost=sequence == 1,
            )
            head = sealed(header, stored.body, self._seals)
            renumbered.append(Stored(*head, stored.body, stored.expires_ns, 0))
        return renumbered
