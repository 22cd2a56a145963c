"""A bridge's inward half: messages of a foreign broker into the mesh, each acknowledged once it is stored.

Decides what is taken. Messages are taken in order; while the mesh refuses, they wait unacknowledged. Not taken, and
counted: what the mesh cannot carry, topics of devices' and brokers' own, what a program on the device might not publish
either (no other device would believe it), the bridge's own echoes. Retained values that a subscription brings are news
only where the mesh has none, or another and does not send that topic out.

Known limits: where both sides have a value for a topic that crosses both ways, nothing says which is newer, and the
mesh's goes for both. At a broker that does not know the bridge bit, a retained topic that is new there is found by
subscribing again, LOOK_S after something came on a topic without a value; so its first value comes twice.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from broker.bridge_echo import Echoes
from broker.embedded import packets
from broker.embedded.limits import MESSAGE_BYTES_MAX
from broker.errors import MalformedPacket, Refused, StoreFailed
from broker.topic_names import topic_matches

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.mqtt_client import Client

__all__ = ["Filter", "Inward", "InwardOwner", "stays"]

RETRY_S: Final = 0.05
"""A message that the mesh refuses is tried again after so long."""
INCOMING_MAX: Final = 2_000
"""Unacknowledged messages that wait for the mesh. Mosquitto sends 20 at a time, nats-server 1,024."""
FIRST_S: Final = 1.0
"""Retained values begin to come within so long of a subscription,"""
QUIET_S: Final = 0.2
"""and follow each other within so long; what comes later is news. Guesses."""
REPLAY_S_MAX: Final = 5.0
LOOK_S: Final = 5.0
"""A subscription brings all retained values again; this often at most. Guess."""


class Filter(NamedTuple):
    """What crosses a bridge in one direction."""

    topic_filter: str
    qos: int
    """0 or 1: the most that a message keeps."""


class InwardOwner(Protocol):
    """What the inward half asks of its device; the node."""

    def publish_nowait(
        self, topic: str, payload: bytes, *, qos: int = 0, retained: bool = False, via: int = 0
    ) -> int:
        """Publish. Raises Refused."""

    async def committed(self) -> None:
        """Return when everything published so far is stored. Raises StoreFailed."""

    def retained_value(self, topic: str) -> bytes | None:
        """The retained payload, empty when it was deleted, None when there never was one."""


class Outward(Protocol):
    """What it asks of the outward half."""

    def goes_out(self, topic: str) -> bool:
        """Whether the topic crosses in the other direction too."""

    def owe(self, topic: str, payload: bytes, *, retained: bool) -> None:
        """Send this out."""


class _Incoming(NamedTuple):
    topic: str
    payload: bytes
    qos: int
    retained: bool
    packet_id: int


class Inward:
    """The messages that one connection brings.

    Args:
        filters: What is subscribed.
        owner: The node.
        outward: The other half.
        via: The bridge's mark in messages.
        may_write: Whether what comes through this device may be published on a topic.
    """

    def __init__(
        self,
        filters: tuple[Filter, ...],
        owner: InwardOwner,
        outward: Outward,
        via: int,
        may_write: Callable[[str], bool],
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.subscribed = False
        """Whether the broker has said that it sends what matches."""
        self._filters = filters
        self._owner = owner
        self._outward = outward
        self._via = via
        self._may_write = may_write
        self._echoes = Echoes()
        self._client: Client | None = None
        self._plain = False
        self._first_until_s = self._quiet_until_s = self._replay_until_s = 0.0
        self._incoming: deque[_Incoming] = deque()
        self._unacknowledged: list[int] = []
        self._acknowledging: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._look: asyncio.TimerHandle | None = None

    def open(self, client: Client, *, plain: bool, subscribed: bool) -> None:
        """Take messages in from now on. `plain`: the broker does not know bridges."""
        self._client = client
        self._plain = plain
        self.subscribed = subscribed or not self._filters
        if not subscribed:
            self._subscribe(client)
        self._work()

    def close(self) -> None:
        """The connection is gone, or another device is active: what is not acknowledged comes again there."""
        self._client = None
        self._incoming.clear()
        self._unacknowledged.clear()
        for timer in (self._retry, self._look):
            if timer is not None:
                timer.cancel()
        self._look = None
        if self._acknowledging is not None:
            self._acknowledging.cancel()

    def note_echo(self, topic: str, payload: bytes) -> None:
        """This is being published there, and will come back if the broker does not know bridges."""
        if self._plain and any(topic_matches(f.topic_filter, topic) for f in self._filters):
            self._echoes.note(topic, payload, time.monotonic_ns())

    def published(self, flags: int, body: bytes) -> None:
        """Take a PUBLISH; it waits until `open`.

        Raises:
            MalformedPacket: It is none, or above the QoS that was subscribed, or too many wait.
        """
        qos = flags >> 1 & 3
        try:
            topic, payload, packet_id = packets.parse_publish(flags, body, len(body))
        except MalformedPacket:
            end = 2 + int.from_bytes(body[:2], "big")
            packet_id = int.from_bytes(body[end : end + 2], "big")
            if qos != 1 or not packet_id:
                raise
            topic, payload = "", b""  # the mesh has no place for its topic: it is acknowledged only
        if qos > 1:
            raise MalformedPacket("a message above the QoS that was subscribed")
        retained = bool(flags & packets.FLAG_RETAIN)
        self._incoming.append(_Incoming(topic, payload, qos, retained, packet_id))
        if len(self._incoming) > INCOMING_MAX:
            raise MalformedPacket(f"{INCOMING_MAX} messages without waiting for their PUBACK")
        self._work()

    def _subscribe(self, client: Client) -> None:
        if self._filters:
            filters = [(entry.topic_filter, entry.qos) for entry in self._filters]
            client.write(packets.encode_subscribe(1, filters))
            now_s = time.monotonic()
            self._quiet_until_s = now_s + FIRST_S
            self._replay_until_s = now_s + REPLAY_S_MAX

    def _work(self) -> None:
        """Take in what waits, as far as the mesh does."""
        loop = asyncio.get_running_loop()
        while self._incoming and self._client is not None:
            message = self._incoming[0]
            try:
                self._take_in(message)
            except Refused:
                self.counters["in_refused"] += 1
                if message.qos:
                    if self._retry is not None:
                        self._retry.cancel()
                    self._retry = loop.call_later(RETRY_S, self._work)
                    break
            self._incoming.popleft()
            if message.qos:
                self._unacknowledged.append(message.packet_id)
        if self._unacknowledged and (self._acknowledging is None or self._acknowledging.done()):
            self._acknowledging = loop.create_task(self._acknowledge())

    def _take_in(self, message: _Incoming) -> None:
        topic, payload, qos, retained, _ = message
        if not topic or stays(topic) or len(payload) > MESSAGE_BYTES_MAX:
            self.counters["in_ignored"] += 1
            return
        if not self._may_write(topic):
            self.counters["in_forbidden"] += 1
            return
        if self._plain and self._echoes.is_echo(topic, payload, time.monotonic_ns()):
            self.counters["echoes"] += 1
            return
        held = self._owner.retained_value(topic)
        if retained and self._is_replay():
            if held == payload:
                return
            if held is not None and self._outward.goes_out(topic):
                self._outward.owe(topic, held, retained=True)
                return
        if self._plain and not retained:
            retained = bool(held)
            self._look_later(needed=not retained and bool(payload))
        self._owner.publish_nowait(topic, payload, qos=qos, retained=retained, via=self._via)
        self.counters["in"] += 1

    def _look_later(self, *, needed: bool) -> None:
        """Something came that may be retained or not: only a subscription shows it."""
        if needed and self._look is None:
            loop = asyncio.get_running_loop()
            self._look = loop.call_later(LOOK_S, self._look_again)

    def _look_again(self) -> None:
        self._look = None
        if self._client is not None:
            self._subscribe(self._client)

    def _is_replay(self) -> bool:
        now_s = time.monotonic()
        if now_s >= min(self._quiet_until_s, self._replay_until_s):
            return False
        self._quiet_until_s = max(self._quiet_until_s, now_s + QUIET_S)
        return True

    async def _acknowledge(self) -> None:
        while self._unacknowledged:
            client, numbers = self._client, self._unacknowledged
            self._unacknowledged = []
            try:
                await self._owner.committed()
            except StoreFailed as error:
                if client is not None:
                    client.close(f"not acknowledged: {error}")
                return
            if client is not None and client is self._client:
                client.write(b"".join(packets.encode_ack(packets.PUBACK, n) for n in numbers))


def stays(topic: str) -> bool:
    """Whether a topic never crosses a bridge: the devices' own, and the brokers'."""
    return topic.startswith("$") or topic.partition("/")[0] in {"local", "mesh"}
