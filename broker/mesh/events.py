"""What comes out of the mesh: events for the driver, and changes that must be stored before events leave."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from broker.mesh.bundle import START, Position, Stream  # msgspec reads the types of what is stored
from broker.mesh.limits import LOG_BUNDLES_MAX
from broker.mesh.retained import Entry, Proof  # noqa: TC001 - msgspec reads them, too

if TYPE_CHECKING:
    from broker.mesh.bundle import Message

__all__ = [
    "Changes",
    "CloseLink",
    "Deliver",
    "Event",
    "Gap",
    "MeshFull",
    "Misbehaved",
    "OwnBundle",
    "RelayedBundle",
    "Restored",
    "Undelivered",
]


class Deliver(NamedTuple):
    """Messages for this device's subscribers, in order."""

    origin: str
    incarnation: int
    messages: list[Message]
    rebuild: bool
    """Memory, not news: feeds the world, and is not delivered to MQTT subscribers or counted again."""


class Gap(NamedTuple):
    """Messages of a stream that are lost for this device, past everyone's retention."""

    origin: str
    lane: int
    after: Position
    upto: Position


class Misbehaved(NamedTuple):
    """A neighbour sent something that is not right. It was dropped and counted."""

    peer: str
    reason: str


class CloseLink(NamedTuple):
    """The driver must close the link; `link_down` follows when it has."""

    peer: str
    reason: str


class Undelivered(NamedTuple):
    """An own unicast message of which nobody knows that it arrived, at its deadline."""

    to: str
    topic: str
    clock: int
    reason: str
    """`unreachable`: the last word was that there is no way; `unanswered`: a neighbour took it and nothing was heard
    since; `expired`: it arrived too late. Only the last is sure: before the others a copy may have arrived."""


Event = Deliver | Gap | Misbehaved | CloseLink | Undelivered


class OwnBundle(NamedTuple):
    """One of this device's own kept bundles, as it is stored until a neighbour holds it and newer ones crowd it out."""

    lane: int
    position: Position
    head: bytes
    body: bytes


class RelayedBundle(NamedTuple):
    """A kept bundle of another device, as it is stored where the relay log is on disk."""

    head: bytes
    body: bytes
    expires: int
    """Hybrid clock at which it expires; 0: it does not."""


class Changes(msgspec.Struct, omit_defaults=True):
    """What the store must commit before this turn's deliveries leave."""

    incarnation: int | None = None
    clock_bound: int | None = None
    known_since: int | None = None
    """Since when this device has been there; see `horizon.py`."""
    own: list[OwnBundle] = []
    own_held: dict[int, Position] = {}
    """By lane: own bundles up to here need not be stored any longer: a neighbour holds them, newer ones are many."""
    own_replaced: bool = False
    """All stored own bundles are void; `own` holds their replacements (the incarnation was raised)."""
    passed: dict[Stream, Position] = {}
    retained: dict[str, Entry | None] = {}
    """By topic; None: forget it altogether."""
    proofs: dict[str, Proof] = {}
    """By topic: the bundle of the value that is retained now. Another value of the topic leaves none."""
    relayed: list[RelayedBundle] = []
    """In the order in which they came; only where the relay log is on disk."""

    def absorb(self, newer: Changes) -> None:
        """Take in what came after; for changes that are not in their place yet."""
        self.incarnation = newer.incarnation if newer.incarnation is not None else self.incarnation
        self.clock_bound = newer.clock_bound if newer.clock_bound is not None else self.clock_bound
        if newer.known_since is not None:
            self.known_since = newer.known_since
        if newer.own_replaced:
            self.own_replaced, self.own = True, []
        self.own += newer.own
        for lane, upto in newer.own_held.items():
            self.own_held[lane] = max(upto, self.own_held.get(lane, upto))
        if newer.own_held:
            held = self.own_held
            self.own = [own for own in self.own if own.position > held.get(own.lane, START)]
        self.passed.update(newer.passed)
        self.retained.update(newer.retained)
        for topic in newer.retained:
            self.proofs.pop(topic, None)
        self.proofs.update(newer.proofs)
        self.relayed += newer.relayed
        for bundles in (self.own, self.relayed):
            if len(bundles) > LOG_BUNDLES_MAX:
                del bundles[:-LOG_BUNDLES_MAX]

    @property
    def precede(self) -> bool:
        """Whether frames must wait too: an incarnation is never given twice, and what a digest claims is held."""
        return self.incarnation is not None or bool(self.relayed)

    def __bool__(self) -> bool:
        return bool(
            self.own
            or self.passed
            or self.retained
            or self.proofs
            or self.own_held
            or self.own_replaced
            or self.relayed
            or self.clock_bound is not None
            or self.incarnation is not None
        )


@dataclass(slots=True)
class Restored:
    """What the store gives back at boot. The defaults are those of a device without any memory."""

    incarnation: int = 1
    """This boot's: one more than the last, and stored already."""
    clock_bound: int = 0
    known_since: int | None = None
    own: list[OwnBundle] = field(default_factory=list)
    passed: dict[Stream, Position] = field(default_factory=dict)
    retained: dict[str, Entry] = field(default_factory=dict)
    first_boot: bool = True
    relayed: list[RelayedBundle] = field(default_factory=list)
    """What the relay log held, the oldest first."""
    keeps_relayed: bool = False
    """Whether the relay log is on disk."""
    proofs: dict[str, Proof] = field(default_factory=dict)
    """By topic: the bundles of retained values that are believed with a proof only."""


class MeshFull(Exception):
    """Raised by `publish` when a limit is reached. The text names it; the publisher tries again later."""
