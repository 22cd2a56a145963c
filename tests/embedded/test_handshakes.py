"""The listener for TLS, before anybody is a client: half-open handshakes, and addresses that come too often."""

import asyncio
import contextlib
import ssl

import pytest

from broker.embedded import Limits, packets
from tests.identity.fleet import Fleet

from .harness import DEADLINE_S, running


@pytest.fixture
def fleet(tmp_path):
    return Fleet(tmp_path)


@contextlib.asynccontextmanager
async def half_open(node, count):
    """Connections that do not begin their handshake."""
    sockets = [
        await asyncio.open_connection("127.0.0.1", node.broker.link_port) for _ in range(count)
    ]
    try:
        yield [reader for reader, _ in sockets]
    finally:
        for _, writer in sockets:
            writer.transport.abort()


async def closed(reader):
    async with asyncio.timeout(DEADLINE_S):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""


async def served(fleet, node):
    """Whether a member is served."""
    folder = fleet.directory / "phone"
    if not folder.exists():
        fleet.join("phone")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(folder / "ca.pem")
    context.load_cert_chain(folder / "own.pem", folder / "own.key")
    context.verify_flags |= ssl.VerifyFlags(0x200000)  # as in trust.py: this fleet lives in 2030
    reader, writer = await asyncio.open_connection("localhost", node.broker.link_port, ssl=context)
    try:
        writer.write(packets.encode_connect("phone", 10))
        async with asyncio.timeout(DEADLINE_S):
            return (await reader.readexactly(4))[3] == 0
    finally:
        writer.transport.abort()


async def test_the_oldest_handshake_makes_room(fleet):
    limits = Limits(handshakes_max=3)
    async with running(limits=limits, tls=fleet.tls("self")) as node, half_open(node, 5) as readers:
        for reader in readers[:2]:
            await closed(reader)
        assert await served(fleet, node)
        await closed(readers[2])
        assert not any(reader.at_eof() for reader in readers[3:])
        counters = node.broker.statistics().counters
        assert (counters.handshakes_dropped, counters.connections_refused) == (3, 0)


async def test_a_handshake_has_its_time(fleet):
    tls = fleet.tls("self")
    async with (
        running(limits=Limits(handshake_s=0.05), tls=tls) as node,
        half_open(node, 1) as (one,),
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
        async with half_open(node, 1) as (reader,):
            await closed(reader)
        assert node.broker.statistics().counters.connections_refused == 1


async def test_no_connection_beyond_the_limit_begins_a_handshake(fleet):
    limits = Limits(connections_max=0)
    async with (
        running(limits=limits, tls=fleet.tls("self")) as node,
        half_open(node, 1) as (reader,),
    ):
        await closed(reader)
        assert node.broker.statistics().counters.connections_refused == 1


async def test_the_broker_goes_down_beside_half_open_handshakes(fleet):
    limits = Limits(handshake_s=3600.0)
    async with running(limits=limits, tls=fleet.tls("self")) as node, half_open(node, 3) as readers:
        await node.broker.shutdown()
        for reader in readers:
            await closed(reader)
