"""The mesh: publishes and frames in; deliveries, frames and changes to store out.

Theory of operation. The driver calls in turns. Whatever arrives in a turn (`publish`, `receive`) changes state at
once; at the end of the turn the driver calls `seal`, writes `frames_to_send` to each link, commits `take_changes()`,
hands on `next_event()` until None, and acknowledges. That order is the promise: nothing is delivered or acknowledged
before what must survive is stored.

Frames need not wait for the disk. Who dies between the two has told its neighbours of a bundle that it forgets: one of
its own was not acknowledged, and its next incarnation closes the one before where the disk says it stood, which those
who heard more have passed; one of another's is asked for again, since its position is stored with the delivery. Only
what `stores_first` names must be on the disk before anybody hears of it.

A bundle that is heard for the first time goes into the log (kept), to every other neighbour, and, when its turn in
its stream has come, to this device's subscribers. A neighbour that misbehaves yields an event and a count; an
exception from here is our own defect.

Assumes one driver, monotonic `now_ns`, and a `Choice` whose draws are the only randomness.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.mesh.bundle import (
    PRIVATE_INITIALS,
    QOS_SHIFT,
    VIA_SHIFT,
    Message,
    body_bytes_estimate,
    is_private,
    lane_of,
)
from broker.mesh.dialogue import Dialogue
from broker.mesh.events import Changes, Event, MeshFull, Restored
from broker.mesh.guard import Guard
from broker.mesh.intake import Intake
from broker.mesh.limits import (
    CROWDED_BYTES,
    INCARNATION_KNOWN_MAX,
    JOIN_WAIT_MS,
    MESSAGE_BYTES_MAX,
    MS,
    OPEN_BYTES_MAX,
    PRESSED_BYTES,
    REFUSED_BYTES,
    TOPIC_BYTES_MAX,
)
from broker.mesh.memory import remember
from broker.mesh.peer import Peer
from broker.mesh.reception import Reception
from broker.mesh.reconcile import Reconciler
from broker.mesh.retained import Entry, RetainedMap
from broker.mesh.state import State
from broker.mesh.timers import Timers
from broker.mesh.tree import Tree
from broker.mesh.unicast import Unicast, check_unicast

if TYPE_CHECKING:
    from broker.mesh.bundle import Position
    from broker.mesh.state import Choice, Statistics
    from broker.mesh.tags import Seals

__all__ = ["Mesh"]


class Mesh:
    """The mesh of one device.

    Args:
        device: This device's id, `[a-z0-9-]{1,32}`: neighbours take no other.
        choice: The source of chance, `random.Random(seed)`.
        now_ns: Monotonic time.
        wall_ms: What the wall clock shows, in milliseconds since 1970.
        restored: What the store gave back; without it a device without memory.
        seals: Makes and checks integrity tags; without it there are none.
    """

    def __init__(
        self,
        device: str,
        choice: Choice,
        *,
        now_ns: int,
        wall_ms: int,
        restored: Restored | None = None,
        seals: Seals | None = None,
    ) -> None:
        restored = restored or Restored()
        self._state = State(device, choice, restored, now_ns, seals)
        self._tree = Tree(self._state)
        guard = Guard(self._state)
        self._intake = Intake(self._state, self._tree, guard)
        self._reconciler = Reconciler(self._state, self._intake, guard)
        self._dialogue = Dialogue(self._state, self._intake, self._tree, guard, self._reconciler)
        self._unicast = Unicast(self._state, guard)
        self._reception = Reception(self._state, self._intake, self._dialogue, self._unicast)
        self._open_bytes = 0
        self._local_open: list[Message] = []
        self._timers = Timers(
            self._state,
            self._intake,
            self._dialogue,
            self._reconciler,
            self._unicast,
            self._tree,
            now_ns,
        )
        self.set_wall_clock(wall_ms, now_ns, synchronised=False)
        self._state.clock.pass_bound(now_ns)
        remember(self._state, self._intake, guard, restored, now_ns)

    # What the driver tells.

    def set_wall_clock(self, wall_ms: int, now_ns: int, *, synchronised: bool) -> None:
        """Say what the wall clock shows, and whether it is known to be right."""
        self._state.clock.set_wall(wall_ms, now_ns, synchronised=synchronised)

    def publish(
        self,
        topic: str,
        payload: bytes,
        now_ns: int,
        *,
        qos: int = 0,
        retained: bool = False,
        priority: int = 2,
        lifetime_ms: int = 0,
        rank: int = 0,
        local: bool = False,
        to: str = "",
        via: int = 0,
    ) -> int:
        """Publish a message; it leaves with this turn's `seal`.

        Args:
            topic: A valid topic name.
            payload: At most MESSAGE_BYTES_MAX; empty and retained: deletes the topic's value.
            now_ns: Monotonic time.
            qos: 0 is fresh, 1 and 2 are kept; at least 1 where `to` is given.
            retained: Whether it becomes the topic's value.
            priority: 0 control, 1 urgent, 2 normal, 3 telemetry, 4 bulk.
            lifetime_ms: 0: it does not expire.
            rank: Orders retained values before the clock does. A deletion takes the rank of what it deletes.
            local: It never leaves this device.
            to: The one device that it is for. It needs a lifetime then, is kept by nobody but this device, and
                ends as delivered there or as `Undelivered` here.
            via: Mark of the bridge that it came in through, 0 for none; below 2**28.

        Returns:
            The message's hybrid clock.

        Raises:
            MeshFull: A limit is reached; nothing was taken.
            ValueError: A topic that never leaves its device and is not `local`; unicast that is retained, or whose
                lifetime or destination is outside its limits.
        """
        state = self._state
        if not local and topic[:1] in PRIVATE_INITIALS and is_private(topic):
            raise ValueError(f"{topic!r} never leaves its device")
        size = body_bytes_estimate(topic, payload)
        open_bytes = self._open_bytes + size
        crowded = open_bytes > OPEN_BYTES_MAX or state.backlog_bytes >= REFUSED_BYTES
        if crowded or size > TOPIC_BYTES_MAX:  # below it neither topic nor payload can be too long
            self._check(topic, payload, size, leaves=qos > 0 and not local and not to)
        if to:
            check_unicast(to, lifetime_ms, retained=retained)
            qos = max(qos, 1)
        clock = state.clock.tick(now_ns)
        if retained:
            held = state.local if local else state.retained
            rank = _rank(held, topic, payload, rank)
        flags = via << VIA_SHIFT | qos << QOS_SHIFT | retained
        message = Message(clock, flags, lifetime_ms, rank, topic, payload)
        if to and to != state.device:
            state.flights.add(to, priority, message, now_ns)
            return clock
        self._open_bytes = open_bytes
        if local or to:
            if retained:
                state.local.merge(topic, Entry(rank, clock, state.device, payload, qos))
            self._local_open.append(message)
        elif not retained or self._intake.retain(state.device, message):
            if not qos and not retained:
                self._intake.note_own(message)
            state.origin.add(lane_of(priority, kept=qos > 0), message, size)
        return clock

    def _check(self, topic: str, payload: bytes, size: int, *, leaves: bool) -> None:
        """Whether there is room for a message of about `size` bytes; `leaves`: kept, and for others too."""
        if len(payload) > MESSAGE_BYTES_MAX or len(topic) > TOPIC_BYTES_MAX:
            raise MeshFull(
                f"a message of {len(payload)} bytes on a topic of {len(topic)} is over the limit of "
                f"{MESSAGE_BYTES_MAX} and {TOPIC_BYTES_MAX}; send large things in chunks"
            )
        if self._open_bytes + size > OPEN_BYTES_MAX:
            raise MeshFull(f"more than {OPEN_BYTES_MAX} bytes published in one turn")
        backlog_bytes = self._state.backlog_bytes
        if leaves and backlog_bytes >= REFUSED_BYTES:
            self._state.counters["refused"] += 1
            raise MeshFull(
                f"a neighbour is {backlog_bytes >> 10} KiB behind; publish when it has caught up"
            )

    def seal(self, now_ns: int) -> None:
        """End the turn: what was published becomes bundles, queued for the neighbours and delivered here."""
        state = self._state
        self._open_bytes = 0
        if self._local_open:
            state.deliver(state.device, state.origin.incarnation, self._local_open)
            self._local_open = []
        self._unicast.seal(now_ns)
        if state.origin.pending:
            for stored, messages in state.origin.seal(self._own_positions(), now_ns):
                self._intake.own(stored, messages, now_ns)
        state.measure_backlog()

    def _own_positions(self) -> dict[int, Position]:
        """By lane: where own streams stand, as far as a bundle that is sealed now must say it."""
        state = self._state
        if not state.origin.starting:
            return {}
        return {
            lane: stream.position
            for (origin, lane), stream in state.kept.items()
            if origin == state.device
        }

    def link_up(self, peer: str, now_ns: int) -> None:
        """A link to a neighbour is there; the mesh says hello first."""
        state = self._state
        if peer in state.peers:
            self.link_down(peer, now_ns)
        state.peers[peer] = Peer(peer, now_ns)
        self._dialogue.say_hello(state.peers[peer], now_ns)
        if state.joining and state.join_until_ns is None:
            state.join_until_ns = now_ns + JOIN_WAIT_MS * MS

    def link_down(self, peer: str, now_ns: int) -> None:
        """The link is gone."""
        link = self._state.peers.pop(peer, None)
        if link is not None:
            self._state.acquaintances.remember(link, self._state.repair.ahead_in(link))
            self._state.repair.forget_peer(peer)
            self._state.rebuild.forget_peer(peer)
            self._state.routes.forget_peer(peer)
            self._unicast.lost_by(peer, now_ns)
            self._tree.forget_peer(peer)

    def receive(self, peer: str, data: bytes, now_ns: int) -> None:
        """A frame came from a neighbour. Never raises: a bad frame is dropped, counted and told."""
        self._reception.frame(peer, data, now_ns)

    def rise_above(self, incarnation: int) -> None:
        """Begin a life above one that somebody speaks of, unless the present one is, or none can be."""
        if self.incarnation <= incarnation <= INCARNATION_KNOWN_MAX:
            self._state.begin(incarnation + 1)

    def handle_timer(self, now_ns: int) -> None:
        """Do what is due; the driver calls it at `next_timer`."""
        self._timers.handle(now_ns)

    # What the driver takes.

    def next_timer(self) -> int:
        """When `handle_timer` wants to be called next, in monotonic nanoseconds."""
        return self._timers.next_ns()

    @property
    def stores_first(self) -> bool:
        """Whether changes must be stored before this turn's frames leave, and not only before its events."""
        return self._state.changes.precede

    def take_changes(self) -> Changes:
        """What must be stored before this turn's events leave."""
        state = self._state
        changes, state.changes = state.changes, Changes()
        changes.clock_bound = state.clock.store(with_others=bool(changes))
        if changes.clock_bound is not None:
            changes.known_since = state.horizon.store()
        return changes

    def next_event(self) -> Event | None:
        """The next event, or None."""
        return self._state.events.popleft() if self._state.events else None

    def frames_to_send(self, peer: str, budget_bytes: int, now_ns: int) -> list[bytes]:
        """Frames for a neighbour, of together about `budget_bytes`; empty when there is nothing to say."""
        state = self._state
        link = state.peers.get(peer)
        if link is None:
            return []
        if link.look(budget_bytes, now_ns):
            state.counters["resumed"] += 1
        if budget_bytes <= 0:
            return []
        if not link.has_something(now_ns):
            return []
        self._tree.speak(link, now_ns)
        if link.digest_due and link.established:
            link.digest_due = False
            state.age(now_ns)
            digests = state.vector.digests(link, state.retained, settled=not state.joining)
            for digest in digests:
                link.say(digest)
        frames = link.outgoing.fill(budget_bytes, state.log, state.retained, now_ns)
        if state.backlog_bytes >= PRESSED_BYTES:
            state.measure_backlog()
        return frames

    @property
    def retained(self) -> RetainedMap:
        """The retained values that all devices share."""
        return self._state.retained

    @property
    def retained_local(self) -> RetainedMap:
        """The retained values of topics that stay on this device."""
        return self._state.local

    @property
    def incarnation(self) -> int:
        """This boot's incarnation."""
        return self._state.origin.incarnation

    @property
    def joining(self) -> bool:
        """Whether this device has no memory and has met nobody yet who has."""
        return self._state.joining

    @property
    def pressed(self) -> bool:
        """Whether a neighbour that still reads is so far behind that publishers had better wait."""
        return self._state.backlog_bytes >= PRESSED_BYTES

    def has_room_for_clients(self, *, kept: bool) -> bool:
        """Whether clients may publish: what is left beyond is for this device's own programs.

        Of what is not kept they hear nothing when it is lost, so it goes first.
        """
        limit_bytes = CROWDED_BYTES if kept else PRESSED_BYTES
        return self._state.backlog_bytes + self._open_bytes < limit_bytes

    def clock(self, now_ns: int) -> int:
        """The hybrid clock's present."""
        return self._state.clock.read(now_ns)

    def statistics(self) -> Statistics:
        """What was counted so far."""
        return self._state.statistics()


def _rank(held: RetainedMap, topic: str, payload: bytes, rank: int) -> int:
    """The rank of a retained publish, if there is room for it; a deletion's is that of what it deletes."""
    if not held.has_room(topic, payload):
        raise MeshFull("the retained map is full; delete topics by an empty retained publish")
    present = None if payload else held.get(topic)
    return rank if present is None else present.rank
