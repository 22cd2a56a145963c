"""One device's driver: a mesh, its links, an embedded broker, a store, and the agent's subscriptions.

Decides nothing of the protocol. Whatever arrives in one turn of the event loop is flushed together, in the order that
the mesh's promise rests on: seal, send, commit, deliver, acknowledge. See docs/architecture.md, "One turn".

When the disk cannot be written, the node goes on without acknowledging anything, says so in its statistics, and tries
again with the next turn (`commits.py`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from random import Random
from typing import TYPE_CHECKING, Final

from broker.commits import Commits, Durability
from broker.delivered import Delivered, batch_of
from broker.embedded.broker import EmbeddedBroker
from broker.errors import Refused
from broker.foreign import Foreign
from broker.links import Links
from broker.local_delivery import LocalDelivery
from broker.mesh.events import (
    CloseLink,
    Deliver,
    Event,
    Gap,
    MeshFull,
    Misbehaved,
    Undelivered,
)
from broker.mesh.mesh import Mesh
from broker.node_statistics import NodeStatistics
from broker.radio import Radio
from broker.retained_values import retained_values
from broker.topics import CALL_DEADLINE_MS, Route, parse, place
from broker.troubles import Troubles
from broker.wall_clock import is_synchronised, wall_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from broker.bridge import BridgeAt
    from broker.embedded.ingress import Pipe
    from broker.hub import HubAt
    from broker.link import Neighbour
    from broker.store import Store
    from broker.trust import TlsAt

__all__ = ["Delivered", "Node", "NodeStatistics"]

logger = logging.getLogger(__name__)

_LOCAL: Final = Route.LOCAL
_UNICAST: Final = Route.UNICAST
"""Bound here: each look into an enumeration costs 70 ns, and these are taken for every publish."""
UNSENT_HIGH_BYTES: Final = 128 * 1024
"""What a link's socket may hold before the mesh keeps the rest: two frames."""
WALL_CLOCK_S: Final = 1.0
"""How often the wall clock is looked at; it matters to hybrid stamps by milliseconds only."""


class Node:
    """One device on the mesh.

    Args:
        device: This device's id.
        store: Its memory.
        host: Address that its broker listens on.
        port: Port; 0 picks a free one.
        websocket_port: The same for MQTT over WebSocket; None: none.
        tls: Where it listens for TLS and who is let in there; None: nowhere, and links are plain MQTT.
        neighbours: Whom it dials.
        hubs: Third-party brokers at which it meets others.
        bridges: Foreign brokers whose own clients are joined to the mesh.
        durability: What a publish survives once it is acknowledged.
        seed: Seeds the random choices (digest partners, back-off); by default drawn from the system.
    """

    def __init__(
        self,
        device: str,
        store: Store,
        *,
        host: str = "127.0.0.1",
        port: int = 1883,
        websocket_port: int | None = None,
        tls: TlsAt | None = None,
        neighbours: Sequence[Neighbour] = (),
        hubs: Sequence[HubAt] = (),
        bridges: Sequence[BridgeAt] = (),
        durability: Durability = Durability.POWER,
        seed: int | None = None,
    ) -> None:
        self.device = device
        self.radio = Radio()
        self._troubles = Troubles(device)
        self._commits = Commits(store, durability, self.request_flush, self._troubles.problem)
        self._random = Random(seed)  # noqa: S311 - jitter and digest partners, nothing secret
        restored = store.boot()
        self._broker = EmbeddedBroker(
            self,
            device,
            host=host,
            port=port,
            websocket_port=websocket_port,
            tls=tls,
            sessions=store.sessions,
        )
        self._local = LocalDelivery(device, self._broker)
        self._mesh = Mesh(
            device,
            self._random,
            now_ns=time.monotonic_ns(),
            wall_ms=wall_ms(),
            restored=restored,
            seals=tls.seals if tls is not None else None,
        )
        self._mesh.set_wall_clock(wall_ms(), time.monotonic_ns(), synchronised=is_synchronised())
        self._neighbours = list(neighbours)
        self.links = Links(device, self, self.radio, self._random, tls.trust if tls else None)
        self._subscribers: list[Callable[[list[Delivered]], None]] = []
        self._foreign = Foreign(device, self, hubs, bridges, self._random)
        self._link_watchers: list[Callable[[str, bool], None]] = []
        self._undelivered_watchers: list[Callable[[Undelivered], None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._flush_due = False
        self._eased = asyncio.Event()
        self._events: list[Event] = []
        self._closed = False

    # Life.

    async def start(self) -> None:
        """Open the listeners and dial the neighbours.

        Raises:
            PortInUse: Another program listens there.
        """
        await self._broker.start()
        for neighbour in self._neighbours:
            self.dial(neighbour)
        for name, coroutine in self._foreign.runs():
            self._spawn(coroutine, name)
        self._spawn(self._keep_clock(), "clock")
        self._spawn(self._commits.keep(), "disk")
        self.request_flush()

    async def stop(self) -> None:
        """Close everything. What was published before is stored."""
        if self._foreign.leave():
            self._flush()  # so that others hear that a bridge is free
        self._closed = True
        self._eased.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        await self.links.close()
        await self._broker.shutdown()
        self._flush()
        if self._timer is not None:
            self._timer.cancel()
        await self._commits.close()

    def dial(self, neighbour: Neighbour) -> None:
        """Keep a link to this neighbour up from now on."""
        self.links.dial(neighbour, self)

    @property
    def port(self) -> int:
        """The port that the broker listens on."""
        return self._broker.port

    @property
    def websocket_port(self) -> int:
        """The port that the broker listens on for WebSocket."""
        return self._broker.websocket_port

    @property
    def link_port(self) -> int:
        """The port that neighbours dial: that of TLS, if there is one."""
        return self._broker.link_port

    def judge_again(self) -> None:
        """End connections and links of those whose certificates have ceased to count."""
        self._broker.judge_again()
        self.links.judge_again()

    # For the agent, in process.

    def subscribe(self, callback: Callable[[list[Delivered]], None]) -> None:
        """Have every delivery of the mesh, own publishes included, in batches and in order."""
        self._subscribers.append(callback)
        self._local.listeners += 1

    def watch_links(self, callback: Callable[[str, bool], None]) -> None:
        """Be told of each link that is there now (True) or is not any more, at that moment."""
        self._link_watchers.append(callback)

    def watch_undelivered(self, callback: Callable[[Undelivered], None]) -> None:
        """Be told of own unicast of which nobody knows, at its deadline, that it arrived."""
        self._undelivered_watchers.append(callback)

    def publish_nowait(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retained: bool = False,
        via: int = 0,
        deadline_ms: int = CALL_DEADLINE_MS,
    ) -> int:
        """Publish; it leaves with this turn. QoS and retained are the contract's for contract topics.

        Args:
            topic: A valid topic name.
            payload: At most 256 KiB.
            qos: 0, 1 or 2, where the contract leaves it open.
            retained: The same.
            via: The mark of the bridge that it came in through.
            deadline_ms: Of unicast: how long to try, at most 600,000.

        Returns:
            The message's hybrid clock.

        Raises:
            Refused: A limit is reached; try again later.
            ValueError: Unicast whose deadline is outside its limits.
        """
        qos, retained, route, priority, lifetime_ms, rank = place(topic, payload, qos, retained)
        unicast = route is _UNICAST
        try:
            clock = self._mesh.publish(
                topic,
                payload,
                time.monotonic_ns(),
                qos=qos,
                retained=retained,
                priority=priority,
                lifetime_ms=deadline_ms if unicast else lifetime_ms,
                rank=rank,
                local=route is _LOCAL,
                to=parse(topic)["to"] if unicast else "",
                via=via,
            )
        except MeshFull as error:
            raise Refused(str(error)) from None
        self._local.published(topic, payload, qos, clock, retained=retained, unicast=unicast)
        if not self._flush_due:
            self.request_flush()
        return clock

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retained: bool = False,
        deadline_ms: int = CALL_DEADLINE_MS,
    ) -> int:
        """Publish, and return when it is acknowledged: from then on it survives what `durability` says.

        Unicast is not stored. It is under way then, and ends with this process. See `publish_nowait`.
        It waits, besides, while a neighbour that reads is far behind; who awaits each publish is never refused for it.

        Raises:
            Refused: A limit is reached; try again later.
            StoreFailed: The disk could not be written.
        """
        clock = self.publish_nowait(
            topic, payload, qos=qos, retained=retained, deadline_ms=deadline_ms
        )
        await self.committed()
        while self._mesh.pressed and not self._closed:
            await self._eased.wait()
        return clock

    async def committed(self) -> None:
        """Return when everything published so far is acknowledged.

        Raises:
            StoreFailed: The disk could not be written, or not be synced.
        """
        wanted = self._commits.wanted()
        self.request_flush()
        await asyncio.shield(wanted)

    def clock(self) -> int:
        """The hybrid clock's present: milliseconds since 1970 << 16."""
        return self._mesh.clock(time.monotonic_ns())

    @property
    def incarnation(self) -> int:
        """How often this device has booted."""
        return self._mesh.incarnation

    @property
    def joining(self) -> bool:
        """Whether this device has no memory and has met nobody yet who has."""
        return self._mesh.joining

    def statistics(self) -> NodeStatistics:
        """What was counted so far."""
        return NodeStatistics(
            mesh=self._mesh.statistics(),
            broker=self._broker.statistics(),
            commits=self._commits.commits,
            commits_failed=self._commits.failed,
            syncs=self._commits.syncs,
            syncs_failed=self._commits.syncs_failed,
            gaps=self._troubles.gaps,
            last_gap=self._troubles.last_gap,
            last_problem=self._troubles.last_problem or self.links.refused,
            dial_failures=self.links.failures(),
            closed_links=dict(self._troubles.closed_links),
            hubs=self._foreign.hub_statistics(),
            bridges=self._foreign.bridge_statistics(),
        )

    # For the embedded broker (Ingress) and the dialled links.

    def client_publish(
        self, client_id: str, topic: str, payload: bytes, qos: int, *, retained: bool
    ) -> None:
        """A client published."""
        del client_id  # who may write what is decided before
        if not qos and not retained and self._local.past_the_mesh(topic, payload):
            return
        self.publish_nowait(topic, payload, qos=qos, retained=retained)

    def retained_matching(self, topic_filter: str) -> Iterable[tuple[str, bytes, int]]:
        """Retained values that a filter matches."""
        held = (self._mesh.retained, self._mesh.retained_local)
        return [value for each in held for value in retained_values(each, topic_filter)]

    def retained_value(self, topic: str) -> bytes | None:
        """The retained payload that all share, empty when it was deleted, None when there never was one."""
        entry = self._mesh.retained.get(topic)
        return None if entry is None else entry.payload

    def retained_entries(self, topic_filter: str) -> Iterable[tuple[str, bytes, int]]:
        """Topic, payload and QoS of retained values that all share, deleted ones with an empty payload."""
        return retained_values(self._mesh.retained, topic_filter, deleted=True)

    def link_attached(self, peer: str, pipe: Pipe) -> None:
        """A neighbour has dialled."""
        self.links.attach(peer, pipe, dialled_by=peer)

    def link_dialled(self, peer: str, pipe: Pipe) -> None:
        """A neighbour has answered."""
        self.links.attach(peer, pipe, dialled_by=self.device)

    def wants_link(self, peer: str) -> bool:
        """Whether there is no link to a device, and one would be taken."""
        return self.links.wants(peer)

    def link_at_hub(self, peer: str, pipe: Pipe, rank: int) -> None:
        """A device was met at a hub."""
        self.links.attach_at_hub(peer, pipe, rank)

    def link_frame(self, peer: str, pipe: Pipe, frame: bytes) -> None:
        """A neighbour sent a frame."""
        if self.links.holds(peer, pipe):
            self._mesh.receive(peer, frame, time.monotonic_ns())
            self.request_flush()

    def link_detached(self, peer: str, pipe: Pipe) -> None:
        """A link's connection is gone."""
        self.links.detached(peer, pipe)

    # For the links.

    def link_is_up(self, peer: str) -> None:
        """There is a link to a neighbour now."""
        self._mesh.link_up(peer, time.monotonic_ns())
        self._tell_link(peer, up=True)
        self.request_flush()

    def link_is_down(self, peer: str) -> None:
        """There is none any more."""
        self._mesh.link_down(peer, time.monotonic_ns())
        self._tell_link(peer, up=False)
        self._foreign.link_lost(peer)
        self.request_flush()

    def request_flush(self) -> None:
        """End this turn with a flush."""
        if not self._flush_due and not self._closed:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    # Inside.

    def _tell_link(self, peer: str, *, up: bool) -> None:
        self._local.links += 1 if up else -1
        for callback in self._link_watchers:
            callback(peer, up)

    def _flush(self) -> None:
        self._flush_due = False
        now_ns = time.monotonic_ns()
        self._mesh.seal(now_ns)
        commits = self._commits
        if self._mesh.stores_first:
            self._route()
            self._commit()
        for peer, pipe in self.links.audible():
            room = UNSENT_HIGH_BYTES - pipe.unsent_bytes
            frames = self._mesh.frames_to_send(peer, room, now_ns)
            if frames:
                pipe.send(frames)
        self._route()
        self._local.turn_ended()
        committed = self._commit()
        self._hand_out()
        self._broker.flush(
            committed=committed,
            pressed=self._mesh.pressed,
            turn=commits.turn,
            durable=commits.durable,
        )
        (self._eased.clear if self._mesh.pressed and not self._closed else self._eased.set)()
        if not self._closed:
            self._arm(now_ns)

    def _route(self) -> None:
        """Give MQTT sessions what was delivered, so that theirs is stored with the position that passed it."""
        while (event := self._mesh.next_event()) is not None:
            self._events.append(event)
            if isinstance(event, Deliver):
                self._local.delivered(event)

    def _commit(self) -> bool:
        committed = self._commits.commit(self._mesh.take_changes(), self._broker.take_changes())
        if not committed:
            self._broker.changes_lost()
        return committed

    def _hand_out(self) -> None:
        events, self._events = self._events, []
        for event in events:
            match event:
                case Deliver():
                    self._deliver(event)
                case CloseLink():
                    self._troubles.link_closed(event)
                    self.links.drop(event.peer)
                case Gap():
                    self._troubles.gap(event)
                case Undelivered(to, _, _, reason):
                    self._troubles.problem(f"not delivered to {to}: {reason}")
                    for callback in self._undelivered_watchers:
                        callback(event)
                case Misbehaved(peer, reason):
                    self._troubles.problem(f"bad frame from {peer}: {reason}")

    def _deliver(self, event: Deliver) -> None:
        if not self._subscribers:
            return
        batch = batch_of(event)
        for callback in self._subscribers:
            try:
                callback(batch)
            except Exception:
                # The agent's fault must not stop the mesh; its message is lost to that agent only.
                logger.exception("%s: a subscriber failed", self.device)

    def _arm(self, now_ns: int) -> None:
        due_ns = self._mesh.next_timer()
        if self._timer is not None and due_ns >= self._timer_ns:
            return  # it fires early, finds nothing due, and is set again; cheaper than every turn
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns, delay_s = due_ns, max(0.0, (due_ns - now_ns) / 1e9)
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._mesh.handle_timer(time.monotonic_ns())
        self._flush()

    async def _keep_clock(self) -> None:
        while True:
            await asyncio.sleep(WALL_CLOCK_S)
            self._mesh.set_wall_clock(
                wall_ms(), time.monotonic_ns(), synchronised=is_synchronised()
            )

    def _spawn(self, coroutine: Coroutine[None, None, None], name: str) -> None:
        loop = asyncio.get_running_loop()
        self._tasks.append(loop.create_task(coroutine, name=f"{self.device} {name}"))
