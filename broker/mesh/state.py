"""Everything that one mesh knows, in one place that its parts share.

`Intake` changes what bundles change, `Dialogue` what neighbours say of themselves, `Mesh` what the driver does. What a
device knows of streams, values and neighbours stands here, from top to bottom; a part keeps to itself only what nobody
else asks for (`Tree` its lazy sets, `Mesh` what is open in this turn).
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from broker.mesh.acquaintances import Acquaintances
from broker.mesh.bundle import PRIORITIES
from broker.mesh.clock import HybridClock
from broker.mesh.events import (
    Changes,
    CloseLink,
    Deliver,
    Event,
    Misbehaved,
    RelayedBundle,
    Restored,
)
from broker.mesh.flights import Flights
from broker.mesh.horizon import Horizon
from broker.mesh.limits import (
    INCARNATION_KNOWN_MAX,
    MS,
    PRESSED_BUNDLES,
    PRESSED_BYTES,
    REBUILD_MS,
    STREAMS_MAX,
)
from broker.mesh.log import Log
from broker.mesh.origin import Origin
from broker.mesh.rebuild import Rebuild
from broker.mesh.refusals import Refusals
from broker.mesh.repair import Repair
from broker.mesh.retained import Proof, RetainedMap
from broker.mesh.routes import Routes
from broker.mesh.streams import FreshStream, KeptStream
from broker.mesh.vector import Vector
from broker.mesh.vouching import Vouching

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.mesh.bundle import Message, Position, Stream
    from broker.mesh.log import Stored
    from broker.mesh.peer import Peer, PeerStatistics
    from broker.mesh.tags import Seals
    from broker.mesh.unicast import Passing
    from broker.mesh.window import Window

__all__ = ["Choice", "State", "Statistics"]

_BYTES_PER_BUNDLE: Final = PRESSED_BYTES // PRESSED_BUNDLES
"""Many small bundles press as a few large ones do."""


class Choice(Protocol):
    """The only randomness of the mesh; `random.Random(seed)` fits."""

    def choice(self, seq: Sequence[str]) -> str:
        """One of them."""
        ...


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a mesh has counted since its start."""

    device: str
    incarnation: int
    joining: bool
    counters: dict[str, int]
    refused_tags: dict[str, int]
    """By reason: bundles whose tags do not count here, brought by neighbours that could not know."""
    refused_messages: dict[str, int]
    """By origin: messages that were not its to say."""
    last_refused_message: str
    flights: int
    """Own unicast bundles under way."""
    streams: int
    log_bundles: int
    log_bytes: int
    retained: int
    peers: tuple[PeerStatistics, ...]


class State:
    """The knowledge of one device's mesh."""

    def __init__(
        self,
        device: str,
        choice: Choice,
        restored: Restored,
        now_ns: int,
        seals: Seals | None = None,
    ) -> None:
        self.device = device
        self.seals = seals
        """Makes and checks integrity tags; None: there are none."""
        self.vouching = Vouching(seals)
        self.choice = choice
        self.clock = HybridClock(restored.clock_bound)
        self.horizon = Horizon(restored.known_since, restored.clock_bound, now_ns)
        self.origin = Origin(device, restored.incarnation, seals)
        self.log = Log()
        self.kept: dict[Stream, KeptStream] = {}
        self.fresh: dict[Stream, FreshStream] = {}
        self.newest: OrderedDict[str, tuple[int, str]] = OrderedDict()
        """By topic: clock and origin of the newest fresh message that was delivered."""
        self.incarnations: dict[str, int] = {}
        """By origin: the highest that was heard of."""
        self.retained = RetainedMap()
        self.local = RetainedMap()
        """Retained values of `local/` topics, which never leave."""
        self.peers: dict[str, Peer] = {}
        self.acquaintances = Acquaintances()
        self.stream_names: dict[Stream, Stream] = {}
        """Names of streams, so that what all neighbours say of one is held once."""
        self.vector = Vector(self.kept, self.log)
        self.repair = Repair(self.kept, self.peers)
        self.rebuild = Rebuild(self.kept, self.log)
        self.routes = Routes(self.peers)
        self.flights = Flights()
        self.windows: OrderedDict[tuple[str, int], Window] = OrderedDict()
        """By origin and incarnation: which of its unicast bundles for this device have arrived."""
        self.passing: OrderedDict[tuple[str, int, str, int], Passing] = OrderedDict()
        """Unicast bundles on their way through this device."""
        self.events: deque[Event] = deque()
        self.changes = Changes()
        self.keeps_relayed = restored.keeps_relayed
        """Whether bundles of others are stored, too."""
        self.counters: Counter[str] = Counter()
        self.refused_tags: Counter[str] = Counter()
        """By reason: bundles that were dropped for their tags, where no neighbour was to blame."""
        self.refusals = Refusals()
        self.waiting_bytes = 0
        self.backlog_bytes = 0
        """Queued for the slowest neighbour that still reads."""
        self.spoken = False
        """Whether a neighbour may have heard of this incarnation."""
        self.joining = restored.first_boot
        self.join_until_ns: int | None = None
        self.rebuilding = True
        """Whether lost memory is still asked for; ends REBUILD_MS after the first link."""
        self.rebuild_until_ns: int | None = None

    def age(self, now_ns: int) -> None:
        """Forget the deletions that are too old by now."""
        floor = self.horizon.floor(self.clock.read(now_ns), now_ns)
        for topic in self.retained.purge(floor):
            self.changes.retained[topic] = None

    def settle(self, stream: Stream, position: Position) -> None:
        """Start a stream at a position whose past is memory, to be asked for as `rebuild`."""
        self.kept[stream] = KeptStream(position, rebuild=self.rebuilding)
        if self.rebuilding:
            self.rebuild.note(stream)
        # What waited may have left the log already.
        self.log.held_after[stream] = max(position, self.log.held_after.get(stream, position))
        self.hear_of(stream[0], position[0])
        self.mark_passed(stream)

    def mark_passed(self, stream: Stream) -> None:
        """A stream's position has changed."""
        self.vector.touch(stream)
        self.changes.passed[stream] = self.kept[stream].position

    def established(self, now_ns: int) -> None:
        """A neighbour has introduced itself."""
        self.spoken = True
        if self.rebuilding and self.rebuild_until_ns is None:
            self.rebuild_until_ns = now_ns + REBUILD_MS * MS

    def has_room(self, stream: Stream) -> bool:
        """Whether a stream is known, or another one may be."""
        return (
            stream in self.kept
            or stream in self.fresh
            or len(self.kept) + len(self.fresh) < STREAMS_MAX
        )

    def hear_of(self, origin: str, incarnation: int) -> None:
        """Note an origin's incarnation; the origin known for longest gives way, since its streams tell it too."""
        if incarnation > self.incarnations.get(origin, 0):
            if origin not in self.incarnations and len(self.incarnations) >= STREAMS_MAX:
                del self.incarnations[next(iter(self.incarnations))]
            self.incarnations[origin] = incarnation

    def knows(self, origin: str) -> bool:
        """Whether anything was heard of an origin, or it is this device."""
        if origin in self.incarnations or origin == self.device:
            return True
        return self.known_incarnation(origin) > 0

    def begin(self, incarnation: int) -> None:
        """Go on as after a boot: in a higher incarnation, which closes this one where it stands."""
        self.counters["incarnation_raised"] += 1
        self.origin.begin(incarnation)
        self.hear_of(self.device, incarnation)
        self.changes.incarnation = incarnation

    def known_incarnation(self, origin: str) -> int:
        """The highest incarnation of an origin that was heard of, as far as a hello may say it; 0: none."""
        known = self.incarnations.get(origin, 0)
        for lane in range(2 * PRIORITIES):
            kept, fresh = self.kept.get((origin, lane)), self.fresh.get((origin, lane))
            known = max(known, kept.position[0] if kept else 0, fresh.incarnation if fresh else 0)
        return min(known, INCARNATION_KNOWN_MAX)

    def blame(self, peer: Peer, reason: str, now_ns: int) -> None:
        """Count a bad frame of a neighbour and tell of it; too many close its link."""
        self.counters["bad_frames"] += 1
        self.events.append(Misbehaved(peer.name, reason))
        if peer.count_bad(now_ns):
            self.close_link(peer, f"too many bad frames, the last: {reason}")

    def close_link(self, peer: Peer, reason: str) -> None:
        """Have the driver close a link; nothing more is taken from it."""
        if not peer.closing:
            peer.closing = True
            self.counters["links_closed"] += 1
            self.events.append(CloseLink(peer.name, reason))

    def log_add(self, stored: Stored) -> None:
        """Log a kept bundle; streams that lose an old one for it have another floor."""
        for stream in self.log.add(stored):
            if stream in self.kept:
                self.vector.touch(stream)
        if self.keeps_relayed and stored.header.origin != self.device:
            expires = 0 if stored.expires_ns is None else self.clock.read(stored.expires_ns)
            self.changes.relayed.append(RelayedBundle(stored.head, stored.body, expires))

    def note_proofs(self, stored: Stored, messages: list[Message]) -> None:
        """Keep a bundle that says a retained value which nobody would believe without it.

        One that says more is not kept: it would cost what all in it weighs. Origins know that (`origin.py`).
        """
        header = stored.header
        if self.seals is None or header.messages > 1 or header.lifetime_ms:
            return
        if not self.seals.proves(header.lane):
            return
        proof = Proof(stored.head, stored.body)
        for message in messages:
            if message.retained:
                version = (message.rank, message.clock, header.origin)
                if self.retained.prove(message.topic, version, proof):
                    self.changes.proofs[message.topic] = proof

    def measure_backlog(self) -> None:
        """Note how much is queued for the neighbour that is furthest behind, of those that still read."""
        most_bytes = 0
        for peer in self.peers.values():
            bundles = len(peer.outbox)
            if bundles and not peer.suspended:
                size_bytes = max(peer.outbox.size_bytes, bundles * _BYTES_PER_BUNDLE)
                most_bytes = max(most_bytes, size_bytes)
        self.backlog_bytes = most_bytes

    def deliver(
        self, origin: str, incarnation: int, messages: list[Message], *, rebuild: bool = False
    ) -> None:
        """Hand messages to this device's subscribers."""
        if messages:
            self.counters["rebuilt" if rebuild else "delivered"] += len(messages)
            self.events.append(Deliver(origin, incarnation, messages, rebuild))

    def statistics(self) -> Statistics:
        """What was counted so far."""
        return Statistics(
            device=self.device,
            incarnation=self.origin.incarnation,
            joining=self.joining,
            counters={**dict(sorted(self.counters.items())), "wants": self.repair.wants},
            refused_tags=dict(sorted(self.refused_tags.items())),
            refused_messages=dict(sorted(self.refusals.by_origin.items())),
            last_refused_message=self.refusals.last,
            flights=len(self.flights),
            streams=len(self.kept) + len(self.fresh),
            log_bundles=len(self.log),
            log_bytes=self.log.size_bytes,
            retained=self.retained.live,
            peers=tuple(self.peers[name].statistics() for name in sorted(self.peers)),
        )
