"""An MQTT client that keeps its side of a persistent session, over any number of connections and broker lives."""

import asyncio
import contextlib

from broker.embedded import packets
from tests.embedded.harness import RawClient

WINDOW = 8


class Faithful:
    """Publishes numbers on `t` at one QoS, and collects what it is sent at its own."""

    def __init__(self, name):
        self.name = name
        self.received = []
        """Payloads, as a client hands them on: those of QoS 2 once."""
        self.published = self.acknowledged = -1
        self.resumed = []
        """Whether the broker knew the session, per connection."""
        self._unreleased = set()
        self._flying = {}
        self._next_id = 0
        self._raw = None
        self._reading = None

    async def connect(self, port, *filters):
        """Connect, say again what was not answered, and subscribe where a filter is given."""
        await self._let_go()
        self._raw = RawClient(*await asyncio.open_connection("127.0.0.1", port))
        self._raw.send(packets.encode_connect(self.name, 0, clean_session=False))
        body = await self._raw.expect(packets.CONNACK)
        assert body[1] == 0
        self.resumed.append(bool(body[0]))
        for packet_id, (payload, qos, released) in self._flying.items():
            if released:
                self._raw.send(packets.encode_ack(packets.PUBREL, packet_id))
            else:
                again = packets.encode_publish(
                    "t", payload, qos, packet_id=packet_id, duplicate=True
                )
                self._raw.send(again)
        for topic_filter, qos in filters:
            self._raw.send(packets.encode_subscribe(60_000, [(topic_filter, qos)]))
            while (await self._take()) != packets.SUBACK:
                pass
        self._reading = asyncio.ensure_future(self._read())

    async def disconnect(self):
        """Break off without a word."""
        await self._let_go()

    async def _let_go(self):
        if self._raw is not None:
            self._raw.writer.transport.abort()
            await self._reading
            with contextlib.suppress(ConnectionError):
                await self._raw.writer.wait_closed()
            self._raw = None

    async def publish(self, count, qos):
        """Publish as many numbers more, waiting for the window; ends early when the connection does."""
        for _ in range(count):
            while len(self._flying) >= WINDOW and not self._reading.done():
                await asyncio.sleep(0.0005)
            if self._reading.done():
                return
            self.published += 1
            payload = b"%d" % self.published
            while True:
                self._next_id = self._next_id % 50_000 + 1
                if self._next_id not in self._flying:
                    break
            self._flying[self._next_id] = (payload, qos, False)
            self._raw.send(packets.encode_publish("t", payload, qos, packet_id=self._next_id))

    @property
    def settled(self):
        """Whether everything that it published is acknowledged."""
        return not self._flying

    async def _read(self):
        with contextlib.suppress(EOFError, ConnectionError, TimeoutError):
            while True:
                await self._take()

    async def _take(self):
        kind, flags, body = await self._raw.packet()
        if kind == packets.PUBLISH:
            self._on_publish(flags, *packets.parse_publish(flags, body)[1:])
            return kind
        packet_id = int.from_bytes(body[:2], "big")
        if kind == packets.PUBREL:
            self._unreleased.discard(packet_id)
            self._raw.send(packets.encode_ack(packets.PUBCOMP, packet_id))
        elif kind == packets.PUBREC:
            payload, qos, _ = self._flying[packet_id]
            self._flying[packet_id] = (payload, qos, True)
            self._raw.send(packets.encode_ack(packets.PUBREL, packet_id))
        elif kind in {packets.PUBACK, packets.PUBCOMP}:
            payload, _, _ = self._flying.pop(packet_id, (b"-1", 0, False))
            self.acknowledged = max(self.acknowledged, int(payload))
        return kind

    def _on_publish(self, flags, payload, packet_id):
        qos = flags >> 1 & 3
        if qos == 1:
            self.received.append(payload)
            self._raw.send(packets.encode_ack(packets.PUBACK, packet_id))
        elif qos == 2:
            if packet_id not in self._unreleased:
                self._unreleased.add(packet_id)
                self.received.append(payload)
            self._raw.send(packets.encode_ack(packets.PUBREC, packet_id))
