"""One device's driver: a mesh, its links, an embedded broker and a store, put together, and what programs ask of them.

Decides nothing of the protocol. It takes what this device publishes, in process (`publish`) or by MQTT (the `Ingress`
of the embedded broker). What comes over links goes through `linkage.py`. How a turn of the event loop ends, with
everything sent, stored, delivered and acknowledged, stands in `turn.py`.

When the disk cannot be written, the node goes on without acknowledging anything, says so in its statistics, and tries
again with the next turn (`commits.py`).
"""

from __future__ import annotations

import asyncio
import time
from random import Random
from typing import TYPE_CHECKING, Final

from broker.commits import Commits, Durability
from broker.delivered import Delivered
from broker.embedded.broker import EmbeddedBroker
from broker.errors import NotBelieved, Refused
from broker.foreign import Foreign
from broker.linkage import Linkage
from broker.local_delivery import LocalDelivery
from broker.mesh.events import MeshFull
from broker.mesh.mesh import Mesh
from broker.node_statistics import NodeStatistics, node_statistics
from broker.radio import Radio
from broker.retained_values import retained_values
from broker.tasks import begin
from broker.topics import CALL_DEADLINE_MS, Priority, Route, parse, place
from broker.troubles import Troubles
from broker.turn import Turn
from broker.wall_clock import keep_wall_clock, set_wall_clock, wall_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from broker.bridge import BridgeAt
    from broker.hub import HubAt
    from broker.link import Neighbour
    from broker.mesh.events import Undelivered
    from broker.store import Store
    from broker.trust import TlsAt
    from broker.users import UsersAt

__all__ = ["Delivered", "Node", "NodeStatistics"]

_LOCAL: Final = Route.LOCAL
_UNICAST: Final = Route.UNICAST
_CONTROL: Final = Priority.CONTROL
"""Bound here: each look into an enumeration costs 70 ns, and these are taken for every publish."""


class Node:
    """One device on the mesh.

    Args:
        device: This device's id.
        store: Its memory.
        host: Address that its broker listens on.
        port: Port; 0 picks a free one.
        websocket_port: The same for MQTT over WebSocket; None: none.
        tls: Where it listens for TLS and who is let in there; None: nowhere, and links are plain MQTT.
        users: Who may come to its broker by name and password; None: names are not looked at.
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
        users: UsersAt | None = None,
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
        self._seals = tls.seals if tls is not None else None
        random = Random(seed)  # noqa: S311 - jitter and digest partners, nothing secret
        restored = store.boot()
        self._mesh = Mesh(
            device,
            random,
            now_ns=time.monotonic_ns(),
            wall_ms=wall_ms(),
            restored=restored,
            seals=self._seals,
        )
        set_wall_clock(self._mesh)
        self._neighbours = list(neighbours)
        trust = tls.trust if tls is not None else None
        self._linkage = Linkage(device, self._mesh, self.radio, random, trust, self.request_flush)
        self.links = self._linkage.links
        self._broker = EmbeddedBroker(
            self,
            self._linkage,
            device,
            host=host,
            port=port,
            websocket_port=websocket_port,
            tls=tls,
            users=users,
            sessions=store.sessions,
        )
        self._local = LocalDelivery(device, self._broker)
        self._turn = Turn(
            device,
            self._mesh,
            self.links,
            self._broker,
            self._local,
            self._commits,
            self._troubles,
        )
        self._foreign = Foreign(
            device, self._linkage, self, hubs, bridges, random, secured=tls is not None
        )
        self.watch_links(self._local.link_changed)
        self.watch_links(self._foreign.link_changed)
        self._tasks: list[asyncio.Task[None]] = []

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
        self._spawn(keep_wall_clock(self._mesh), "clock")
        self._spawn(self._commits.keep(), "disk")
        self._spawn(self._broker.keep_users(), "users")
        self.request_flush()

    async def stop(self) -> None:
        """Close everything. What was published before is stored."""
        if self._foreign.leave():
            self._turn.flush()  # so that others hear that a bridge is free
        self._turn.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.links.close()
        await self._broker.shutdown()
        self._turn.flush()
        await self._commits.close()

    def dial(self, neighbour: Neighbour) -> None:
        """Keep a link to this neighbour up from now on."""
        self._linkage.dial(neighbour)

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
        self._turn.subscribe(callback)

    def watch_links(self, callback: Callable[[str, bool], None]) -> None:
        """Be told of each link that is there now (True) or is not any more, at that moment."""
        self._linkage.watch(callback)

    def watch_undelivered(self, callback: Callable[[Undelivered], None]) -> None:
        """Be told of own unicast of which nobody knows, at its deadline, that it arrived."""
        self._turn.watch_undelivered(callback)

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
            topic: A topic name.
            payload: At most 256 KiB.
            qos: 0, 1 or 2, where the contract leaves it open.
            retained: The same.
            via: The mark of the bridge that it came in through.
            deadline_ms: Of unicast: how long to try, at most 600,000.

        Returns:
            The message's hybrid clock.

        Raises:
            Refused: A limit is reached; try again later.
            NotBelieved: No device would take it: a manifest that no operator has signed.
            ValueError: Unicast whose deadline is outside its limits, or what is no topic name.
        """
        qos, retained, route, priority, lifetime_ms, rank = place(topic, payload, qos, retained)
        if (
            priority is _CONTROL
            and self._seals is not None
            and not self._seals.may_say(self.device, topic, payload, rank)
        ):
            raise NotBelieved(f"{topic} takes only what an operator of the fleet has signed")
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
        if not self._turn.due:
            self._turn.request()
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
            NotBelieved: No device would take it: see `publish_nowait`.
            StoreFailed: The disk could not be written.
        """
        clock = self.publish_nowait(
            topic, payload, qos=qos, retained=retained, deadline_ms=deadline_ms
        )
        await self.committed()
        await self._turn.ease()
        return clock

    async def committed(self) -> None:
        """Return when everything published so far is acknowledged.

        Raises:
            StoreFailed: The disk could not be written, or not be synced.
        """
        await self._commits.committed()

    def clock(self) -> int:
        """The hybrid clock's present: milliseconds since 1970 << 16."""
        return self._mesh.clock(time.monotonic_ns())

    @property
    def incarnation(self) -> int:
        """How often this device has booted."""
        return self._mesh.incarnation

    def rise_above(self, incarnation: int) -> None:
        """Begin a life above this incarnation, unless the present one is."""
        self._mesh.rise_above(incarnation)
        self.request_flush()

    @property
    def joining(self) -> bool:
        """Whether this device has no memory and has met nobody yet who has."""
        return self._mesh.joining

    def statistics(self) -> NodeStatistics:
        """What was counted so far."""
        return node_statistics(
            self._mesh, self._broker, self._commits, self._troubles, self.links, self._foreign
        )

    # For the embedded broker: its Ingress.

    def client_publish(self, topic: str, payload: bytes, qos: int, *, retained: bool) -> None:
        """A client published."""
        if not qos and not retained and self._local.past_the_mesh(topic, payload):
            return
        if not self._mesh.has_room_for_clients(kept=qos > 0) and not topic.startswith("local/"):
            # Those who do not wait for acknowledgements would leave no room for what the device itself has to say.
            raise Refused("a neighbour is far behind; publish when it has caught up")
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

    def has_neighbours(self) -> bool:
        """Whether there is a link now."""
        return self._local.links > 0

    def request_flush(self) -> None:
        """End this turn with a flush."""
        if not self._turn.due:
            self._turn.request()

    # Inside.

    def _spawn(self, coroutine: Coroutine[None, None, None], name: str) -> None:
        self._tasks.append(begin(coroutine, f"{self.device} {name}"))
