"""The listeners for TLS and WebSocket, before anybody is a client: half-open handshakes, addresses that come too
often.
"""

import asyncio
import contextlib
import ssl
from contextlib import AsyncExitStack

import pytest

from broker.embedded import Limits, packets
from tests.embedded.clients import browser
from tests.embedded.harness import DEADLINE_S, client, connect_packet, running, socket_to
from tests.identity.fleet import Fleet
from tests.waiting import until


@pytest.fixture
def fleet(tmp_path):
    return Fleet(tmp_path)


@contextlib.asynccontextmanager
async def half_open(node, count, address="127.0.0.1"):
    """Connections that do not begin their handshake."""
    port = node.broker.link_port
    sockets = [
        await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
        for _ in range(count)
    ]
    try:
        yield sockets
    finally:
        for _, writer in sockets:
            writer.transport.abort()


async def closed(reader):
    async with asyncio.timeout(DEADLINE_S):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""


async def ended(reader):
    """The same after whatever was said."""
    async with asyncio.timeout(DEADLINE_S):
        with contextlib.suppress(ConnectionError):
            await reader.read()


async def served(fleet, node, name="phone", address="127.0.0.1", client_id=None):
    """Whether a member is served, whatever address it comes from."""
    async with member(fleet, node, name, address, client_id) as (_, code):
        return code == 0


@contextlib.asynccontextmanager
async def member(fleet, node, name="phone", address="127.0.0.1", client_id=None):
    """A member's connection, and what its CONNECT was answered with."""
    folder = fleet.directory / name
    if not folder.exists():
        fleet.join(name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(folder / "ca.pem")
    context.load_cert_chain(folder / "own.pem", folder / "own.key")
    context.verify_flags |= ssl.VerifyFlags(0x200000)  # as in tls.py: this fleet lives in 2030
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", node.broker.link_port, ssl=context, server_hostname="localhost",
        local_addr=(address, 0),
    )  # fmt: skip
    try:
        writer.write(packets.encode_connect(client_id or name, 10))
        async with asyncio.timeout(DEADLINE_S):
            yield reader, (await reader.readexactly(4))[3]
    finally:
        writer.transport.abort()


def hello():
    """The first flight of a handshake."""
    outgoing = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


async def test_of_those_who_say_nothing_the_oldest_makes_room(fleet):
    limits = Limits(guests_max=3)
    async with running(limits=limits, tls=fleet.tls("self")) as node, half_open(node, 5) as readers:
        for reader, _ in readers[:2]:
            await closed(reader)
        assert await served(fleet, node)
        await closed(readers[2][0])
        assert not any(reader.at_eof() for reader, _ in readers[3:])
        counters = node.broker.statistics().counters
        assert (counters.handshakes_dropped, counters.connections_refused) == (3, 0)


async def test_the_oldest_handshake_makes_room(fleet):
    """Among those who said hello and then nothing; and a neighbour's last."""
    limits = Limits(handshakes_max=2, handshakes_per_s=1000.0)
    async with running(limits=limits, tls=fleet.tls("self")) as node:
        assert await served(fleet, node, "b", "127.0.0.2", "mesh-b")
        async with half_open(node, 1, "127.0.0.2") as neighbour, half_open(node, 4) as readers:
            for reader, writer in (*neighbour, *readers):
                writer.write(hello())
                await reader.readexactly(1)  # its handshake has begun
            for reader, _ in readers[:3]:
                await ended(reader)
            assert await served(fleet, node)
            assert node.broker.statistics().counters.handshakes_dropped == 4
            assert not neighbour[0][0].at_eof()


async def test_a_neighbour_has_its_turn_before_strangers(fleet):
    """Its address is known since a device was let in from there, and no more once it was refused."""
    limits = Limits(handshakes_per_s=0.01, guests_max=8)
    tls = fleet.tls("self")
    async with running(limits=limits, tls=tls) as node:
        assert await served(fleet, node, "b", "127.0.0.2", "mesh-b")  # takes the turn of 100 s
        doorman = node.broker._servers["tls"].instance
        async with half_open(node, 7) as strangers, half_open(node, 1, "127.0.0.2") as neighbour:
            for _, writer in (*strangers, *neighbour):
                writer.write(hello())
            await until(
                lambda: len(doorman._lobby) == 8 and not doorman._lobby._silent, "eight to wait"
            )
            async with half_open(node, 3) as late:
                for reader, _ in late:
                    await closed(reader)
            doorman._next_s = 0.0
            doorman._begin()
            assert await neighbour[0][0].readexactly(1)
            assert len(doorman._lobby) == 7
    tls.trust.refuse_handshake(ssl.SSLError("CERTIFICATE_VERIFY_FAILED"), "127.0.0.2")
    assert not tls.trust.knows_neighbour_at("127.0.0.2")


async def test_neighbours_find_a_place_where_clients_have_taken_all(fleet):
    limits = Limits(connections_max=2, neighbours_max=1)
    async with running(limits=limits, tls=fleet.tls("self")) as node, AsyncExitStack() as stack:
        assert await served(fleet, node, "b", "127.0.0.2", "mesh-b")
        await until(lambda: not node.broker.statistics().connections, "the end of its connection")
        for number in range(2):
            await stack.enter_async_context(client(node, f"c{number}"))
        with pytest.raises((OSError, EOFError)):
            await served(fleet, node)
        assert await served(fleet, node, "b", "127.0.0.2", "mesh-b")


async def test_one_member_has_so_many_connections_and_others_are_served(fleet):
    """Links are not counted: there is one of each neighbour."""
    limits = Limits(connections_per_member_max=2)
    async with running(limits=limits, tls=fleet.tls("self")) as node, AsyncExitStack() as stack:
        codes = []
        for number in range(3):
            come = member(fleet, node, "greedy", client_id=f"g{number}")
            codes.append((await stack.enter_async_context(come))[1])
        assert codes == [0, 0, 3]
        assert await served(fleet, node)
        for client_id in ("b-1", "b-2"):
            await stack.enter_async_context(member(fleet, node, "b", client_id=client_id))
        assert await served(fleet, node, "b", client_id="mesh-b")
        assert node.broker.statistics().counters.connections_refused == 1


async def test_of_those_who_do_not_say_connect_the_oldest_makes_room(fleet):
    """Those of plain MQTT among themselves: they take no place from who comes by TLS."""
    limits = Limits(strangers_max=2)
    async with running(limits=limits, tls=fleet.tls("self")) as node, AsyncExitStack() as stack:
        raws = [await stack.enter_async_context(socket_to(node)) for _ in range(3)]
        assert await raws[0].closed() == []
        assert await served(fleet, node)
        assert node.broker.statistics().counters.timed_out == 1
        assert not any(raw.reader.at_eof() for raw in raws[1:])


async def test_a_handshake_has_its_time(fleet):
    tls = fleet.tls("self")
    async with (
        running(limits=Limits(handshake_s=0.05), tls=tls) as node,
        half_open(node, 1) as ((one, _),),
    ):
        await closed(one)
        await node.until(lambda: tls.trust.statistics().refused)
    assert tls.trust.statistics().refused == {"no handshake in time": 1}


async def test_an_address_that_comes_too_often_gets_no_handshake(fleet):
    """And a connection counts once, not at the door and again behind it."""
    limits = Limits(connections_burst_per_address=2, connections_per_address_per_s=0.001)
    async with running(limits=limits, tls=fleet.tls("self")) as node:
        assert await served(fleet, node)
        assert await served(fleet, node)
        async with half_open(node, 1) as ((reader, _),):
            await closed(reader)
        assert node.broker.statistics().counters.connections_refused == 1


async def test_no_connection_beyond_the_limit_begins_a_handshake(fleet):
    limits = Limits(connections_max=0)
    async with (
        running(limits=limits, tls=fleet.tls("self")) as node,
        half_open(node, 1) as ((reader, _),),
    ):
        await closed(reader)
        assert node.broker.statistics().counters.connections_refused == 1


async def test_the_broker_goes_down_beside_half_open_handshakes(fleet):
    limits = Limits(handshake_s=3600.0)
    async with running(limits=limits, tls=fleet.tls("self")) as node, half_open(node, 3) as readers:
        await node.broker.shutdown()
        for reader, _ in readers:
            await closed(reader)


# The same before a WebSocket is one.

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: mqtt\r\n"
)


@contextlib.asynccontextmanager
async def knocking(node):
    reader, writer = await asyncio.open_connection("127.0.0.1", node.broker.websocket_port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def upgraded(reader):
    async with asyncio.timeout(DEADLINE_S):
        return (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 101")


async def test_the_oldest_half_open_websocket_makes_room():
    limits = Limits(handshakes_max=2)
    async with (
        running(limits=limits, websocket=True) as node,
        knocking(node) as (first, _),
        knocking(node),
        knocking(node) as (third, writer),
    ):
        await closed(first)
        writer.write(UPGRADE + b"\r\n")
        assert await upgraded(third)
        async with knocking(node), knocking(node) as (last, another):  # the third is none any more
            another.write(UPGRADE + b"\r\n")
            assert await upgraded(last)
        assert not third.at_eof()
        assert node.broker.statistics().counters.handshakes_dropped == 2


async def test_a_half_open_websocket_has_its_time():
    limits = Limits(handshake_s=0.05)
    async with running(limits=limits, websocket=True) as node, knocking(node) as (reader, writer):
        writer.write(UPGRADE)
        await closed(reader)


async def test_the_broker_goes_down_beside_half_open_websockets():
    limits = Limits(handshake_s=3600.0)
    async with (
        running(limits=limits, websocket=True) as node,
        knocking(node) as (silent, _),
        knocking(node) as (half, writer),
        knocking(node) as (last, another),
    ):
        writer.write(UPGRADE)
        another.write(UPGRADE + b"\r\n")
        assert await upgraded(last)  # so the two before it have been let in
        await node.broker.shutdown()
        await closed(silent)
        await closed(half)


async def test_the_broker_goes_down_beside_websockets_that_it_refuses():
    limits = Limits(handshake_s=3600.0)
    async with running(limits=limits, websocket=True) as node, knocking(node) as (refused, writer):
        writer.write(UPGRADE.replace(b"Sec-WebSocket-Protocol: mqtt", b"X: y") + b"\r\n")
        async with asyncio.timeout(DEADLINE_S):
            assert b" 400 " in await refused.readuntil(b"\r\n")  # and waits for this end to close
        await node.broker.shutdown()
        await ended(refused)


@pytest.mark.parametrize("header", [b"X: " + b"y" * 5000, b"Z:"], ids=["long", "many"])
async def test_the_request_for_a_websocket_is_bounded(header):
    async with running(websocket=True) as node, knocking(node) as (reader, writer):
        writer.write(UPGRADE + b"Cookie: " + b"c" * 8000 + b"\r\n\r\n")
        assert await upgraded(reader)
        async with knocking(node) as (greedy, other):
            with contextlib.suppress(ConnectionError):
                other.write(UPGRADE)
                for _ in range(30_000 // len(header)):
                    other.write(header + b"\r\n")
                await other.drain()
            async with asyncio.timeout(DEADLINE_S):
                with contextlib.suppress(ConnectionError):
                    assert b"101" not in await greedy.read()


async def test_a_websocket_s_message_is_bounded_until_its_client_is_let_in():
    """By its header: nothing of it is kept."""
    async with running(websocket=True) as node, knocking(node) as (reader, writer):
        writer.write(UPGRADE + b"\r\n")
        assert await upgraded(reader)
        writer.write(b"\x82\xff" + (100_000).to_bytes(8, "big") + bytes(4))
        await ended(reader)
        async with browser(node) as websocket:
            await websocket.send(connect_packet("one") + packets.encode_subscribe(1, [("t", 1)]))
            seen = packets.PacketParser()
            while len(list(seen.packets())) < 1:
                seen.feed(await websocket.recv())
            await websocket.send(packets.encode_publish("t", bytes(200_000), 1, packet_id=1))
            await node.until(lambda: node.published)


async def test_an_address_that_comes_too_often_gets_no_websocket():
    limits = Limits(connections_burst_per_address=1, connections_per_address_per_s=0.001)
    async with running(limits=limits, websocket=True) as node, browser(node) as websocket:
        await websocket.send(connect_packet("one"))
        async with asyncio.timeout(DEADLINE_S):
            assert (await websocket.recv())[0] >> 4 == packets.CONNACK
        async with knocking(node) as (reader, _):
            await closed(reader)
        assert node.broker.statistics().counters.connections_refused == 1
