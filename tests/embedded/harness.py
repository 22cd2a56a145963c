"""A node that is none, clients by hand, and ways to wait that are not sleeping."""

import asyncio
import shutil
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress

from broker.embedded import EmbeddedBroker, Limits, Pipe, packets
from broker.embedded.trie import Trie
from broker.errors import Refused
from broker.trust import TlsAt
from broker.users import UsersAt

DEADLINE_S = 10.0


class FakeNode:
    """Routes what clients publish straight back, and flushes at the end of the turn."""

    def __init__(self) -> None:
        self.broker: EmbeddedBroker | None = None
        self.retained: dict[str, tuple[bytes, int]] = {}
        self.published: list[tuple[str, bytes, int, bool]] = []
        self.links: list[tuple[str, Pipe]] = []
        self.detached: list[tuple[str, Pipe]] = []
        self.frames: deque[tuple[str, bytes]] = deque()
        self.refuse = 0  # so many publishes from now on
        self.hold = False  # do not flush until told
        self.committed = True
        self.changed = asyncio.Event()
        self._scheduled = False

    def client_publish(self, topic, payload, qos, *, retained) -> None:
        self.changed.set()
        if self.refuse:
            self.refuse -= 1
            raise Refused
        self.published.append((topic, payload, qos, retained))
        if retained:
            if payload:
                self.retained[topic] = (payload, qos)
            else:
                self.retained.pop(topic, None)
        self.broker.route(topic, payload, qos, retained=retained)

    def retained_matching(self, topic_filter) -> Iterator[tuple[str, bytes, int]]:
        trie = Trie()
        trie.add(topic_filter, 0, 0)
        for topic, (payload, qos) in self.retained.items():
            if trie.match(topic):
                yield topic, payload, qos

    def link_attached(self, peer, pipe) -> None:
        self.links.append((peer, pipe))
        self.changed.set()

    def link_frame(self, peer, pipe, frame) -> None:
        assert (peer, pipe) in self.links
        self.frames.append((peer, frame))
        self.changed.set()

    def link_detached(self, peer, pipe) -> None:
        self.links.remove((peer, pipe))
        self.detached.append((peer, pipe))
        self.changed.set()

    def has_neighbours(self) -> bool:
        return bool(self.links)

    def request_flush(self) -> None:
        self.changed.set()
        if not self._scheduled and not self.hold:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        self._scheduled = False
        self.broker.flush(committed=self.committed)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something that the broker reports makes a condition true."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class Nowhere:
    """A node and a connection that take everything."""

    lagging = False

    def client_publish(self, *_, **__) -> None: ...
    def retained_matching(self, topic_filter):
        return [(f"r/{number}", b"r", number % 3) for number in range(9)]

    def has_neighbours(self) -> bool: ...
    def request_flush(self) -> None: ...
    def write(self, data) -> None: ...
    def drop(self, reason) -> None: ...
    def lags(self, *, now) -> None: ...
    def taken_over(self) -> None: ...


@asynccontextmanager
async def running(
    *,
    limits: Limits | None = None,
    websocket: bool = False,
    tls: TlsAt | None = None,
    users: UsersAt | None = None,
) -> AsyncIterator[FakeNode]:
    node = FakeNode()
    port = 0 if websocket else None
    node.broker = EmbeddedBroker(
        node, node, "self", port=0, websocket_port=port, tls=tls, users=users, limits=limits
    )
    await node.broker.start()
    try:
        yield node
    finally:
        node.hold = False
        await node.broker.shutdown()


class RawClient:
    """A socket and a parser; says exactly what a test tells it to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.parser = packets.PacketParser()

    def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    async def packet(self) -> tuple[int, int, bytes]:
        """Return the next packet; EOFError when the broker has closed."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for packet in self.parser.packets():
                    return packet
                data = await self.reader.read(65_536)
                if not data:
                    raise EOFError
                self.parser.feed(data)

    async def expect(self, kind: int, body: bytes | None = None) -> bytes:
        got, flags, got_body = await self.packet()
        assert got == kind, (got, flags, got_body)
        if body is not None:
            assert got_body == body
        return got_body

    async def publish(self) -> tuple[int, str, bytes, int]:
        """Return the flags, topic, payload and packet id of the next packet, a PUBLISH."""
        kind, flags, body = await self.packet()
        assert kind == packets.PUBLISH, (kind, flags, body)
        return flags, *packets.parse_publish(flags, body)

    async def closed(self) -> list[tuple[int, int, bytes]]:
        """Wait for the broker to close; returns what came before."""
        found = []
        try:
            while True:
                found.append(await self.packet())
        except (EOFError, ConnectionError):
            return found

    async def quiet(self) -> None:
        """Show that nothing more comes: the answer to a ping is the next packet."""
        self.send(packets.PINGREQ_PACKET)
        await self.expect(packets.PINGRESP)

    async def rest(self) -> list[tuple[int, int, bytes]]:
        """Return whatever comes before a ping is answered that was sent after all that is on its way.

        The first answer may overtake messages of the same turn; the second one does not.
        """
        found = []
        for _ in range(2):
            self.send(packets.PINGREQ_PACKET)
            while (packet := await self.packet())[0] != packets.PINGRESP:
                found.append(packet)
        return found

    async def messages(self) -> list[tuple[int, str, bytes]]:
        """Flags, topic and payload of the messages in `rest`."""
        return [
            (flags, *packets.parse_publish(flags, body)[:2])
            for kind, flags, body in await self.rest()
            if kind == packets.PUBLISH
        ]

    async def subscribe(self, topic_filter: str, qos: int = 0) -> int:
        self.send(packets.encode_subscribe(1, [(topic_filter, qos)]))
        return (await self.expect(packets.SUBACK))[2]


def connect_packet(
    client_id: str = "",
    *,
    clean: bool = True,
    keep_alive_s: int = 0,
    will: tuple[str, bytes, int, bool] | None = None,
    level: int = 4,
    username: str | None = None,
    password: bytes | None = None,
) -> bytes:
    flags = 2 * clean | (username is not None) << 7 | (password is not None) << 6
    payload = packets.string_field(client_id)
    if will is not None:
        topic, message, qos, retained = will
        flags |= 4 | qos << 3 | retained << 5
        payload += packets.string_field(topic) + len(message).to_bytes(2, "big") + message
    payload += b"" if username is None else packets.string_field(username)
    payload += b"" if password is None else len(password).to_bytes(2, "big") + password
    body = b"\0\4MQTT" + bytes((level, flags)) + keep_alive_s.to_bytes(2, "big") + payload
    assert len(body) < 128
    return bytes((0x10, len(body))) + body


@asynccontextmanager
async def socket_to(node: FakeNode) -> AsyncIterator[RawClient]:
    reader, writer = await asyncio.open_connection("127.0.0.1", node.broker.port)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def client(
    node: FakeNode, client_id: str = "", **options: object
) -> AsyncIterator[RawClient]:
    """A connected client; `present` says whether its session was."""
    async with socket_to(node) as raw:
        raw.send(connect_packet(client_id, **options))
        body = await raw.expect(packets.CONNACK)
        assert body[1] == 0
        raw.present = bool(body[0])
        yield raw


def program(name: str) -> str:
    path = shutil.which(name)
    assert path, f"{name} is needed: apt install mosquitto-clients"
    return path
