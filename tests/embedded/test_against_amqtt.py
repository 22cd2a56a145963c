"""What our overrides mend: each scenario passes here, and fails on the amqtt release that is pinned.

If a scenario starts to pass on stock amqtt, upstream has mended it, and the override can be looked at again.
"""

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from amqtt.broker import Broker

from broker.embedded import Limits, packets
from tests.embedded import harness
from tests.embedded.harness import FakeNode, client, connect_packet, running, socket_to

PATIENCE_S = 2.0  # how long stock amqtt is given to do the right thing; keep-alive needs 1.5 s

publish = packets.encode_publish


async def lower_qos(node: FakeNode) -> None:
    """A QoS 0 publish goes out at QoS 0, whatever was subscribed (3.8.4-6)."""
    async with client(node, "s") as sub:
        await sub.subscribe("t", 2)
        sub.send(publish("t", b"x"))
        assert (await sub.publish())[0] == 0


async def no_retained_without_subscription(node: FakeNode) -> None:
    """A client that connects gets nothing that it did not subscribe to."""
    async with client(node, "other") as other:
        await other.subscribe("secret", 1)
        other.send(publish("secret", b"x", 1, packet_id=1, retained=True))
        await other.packet()
        await other.packet()
        async with client(node, "stranger") as stranger:
            await stranger.quiet()


async def subscribe_replaces(node: FakeNode) -> None:
    """A new SUBSCRIBE to the same filter replaces the QoS (3.8.4-3)."""
    async with client(node, "s") as sub:
        await sub.subscribe("t", 0)
        await sub.subscribe("t", 1)
        sub.send(publish("t", b"x", 1, packet_id=1))
        kinds = {(await sub.packet())[:2] for _ in range(2)}
        assert kinds == {(packets.PUBACK, 0), (packets.PUBLISH, 2)}
        sub.send(packets.encode_ack(packets.PUBACK, 1))
        await sub.subscribe("t", 0)
        sub.send(publish("t", b"x", 1, packet_id=1))
        kinds = {(await sub.packet())[:2] for _ in range(2)}
        assert kinds == {(packets.PUBACK, 0), (packets.PUBLISH, 0)}


async def dollar_topics(node: FakeNode) -> None:
    """A publish on a `$` topic does not make the session deaf."""
    async with client(node, "s") as sub:
        await sub.subscribe("t")
        sub.send(publish("$x", b""), publish("t", b"x"))
        assert (await sub.publish())[1] == "t"


async def unacknowledged_again(node: FakeNode) -> None:
    """What was not acknowledged comes again, with DUP, when a persistent session returns (4.4.0-1)."""
    async with client(node, "p", clean=False) as sub:
        await sub.subscribe("t", 1)
        sub.send(publish("t", b"x", 1, packet_id=1))
        await sub.packet()
        await sub.packet()
    async with client(node, "p", clean=False) as sub:
        assert sub.present
        assert (await sub.publish())[0] == 10


async def offline_without_retain(node: FakeNode) -> None:
    """What was queued for an absent client without a user name is there, with RETAIN 0 (3.3.1-9)."""
    async with client(node, "pub") as pub:
        async with client(node, "p", clean=False) as sub:
            await sub.subscribe("t", 1)
            sub.send(packets.DISCONNECT_PACKET)
            await sub.closed()
        pub.send(publish("t", b"x", 1, packet_id=1))
        await pub.expect(packets.PUBACK)
        async with client(node, "p", clean=False) as sub:
            assert (await sub.publish())[0] == 2


async def malformed_closes(node: FakeNode) -> None:
    """A SUBSCRIBE with the wrong flags ends the connection (3.8.1-1)."""
    async with client(node, "s") as bad:
        bad.send(b"\x80" + packets.encode_subscribe(1, [("t", 0)])[1:])
        assert await bad.closed() == []


async def utf8(node: FakeNode) -> None:
    """A filter that is not UTF-8 ends the connection (1.5.3-1)."""
    async with client(node, "s") as bad:
        bad.send(b"\x82\6\0\1\0\1\xff\0")
        assert await bad.closed() == []


async def bridge_bit(node: FakeNode) -> None:
    """A Mosquitto bridge may connect."""
    async with client(node, "bridge", level=0x84) as bridge:
        await bridge.quiet()


async def keep_alive(node: FakeNode) -> None:
    """Silence of one and a half intervals ends the connection (3.1.2-24)."""
    async with client(node, "silent", keep_alive_s=1) as silent:
        assert await silent.closed() == []


async def goodbye_without_will(node: FakeNode) -> None:
    """DISCONNECT right after CONNECT leaves no will (3.1.2-10)."""
    async with client(node, "s") as sub:
        await sub.subscribe("gone")
        async with socket_to(node) as raw:
            raw.send(connect_packet("w", will=("gone", b"w", 0, False)), packets.DISCONNECT_PACKET)
            await raw.closed()
        await sub.quiet()


async def connect_in_time(node: FakeNode) -> None:
    """A socket that never says CONNECT is not kept."""
    async with socket_to(node) as raw:
        assert await raw.closed() == []


async def size_bounded(node: FakeNode) -> None:
    """A packet of 200 MB is refused by its header."""
    async with client(node, "s") as raw:
        raw.send(b"\x30\xff\xff\xff\x5f\0\1t")
        assert await raw.closed() == []


SCENARIOS = [
    lower_qos,
    no_retained_without_subscription,
    subscribe_replaces,
    dollar_topics,
    unacknowledged_again,
    offline_without_retain,
    malformed_closes,
    utf8,
    bridge_bit,
    keep_alive,
    goodbye_without_will,
    connect_in_time,
    size_bounded,
]

Scenario = Callable[[FakeNode], Awaitable[None]]


@asynccontextmanager
async def stock() -> AsyncIterator[SimpleNamespace]:
    logging.getLogger("amqtt").setLevel(logging.CRITICAL)
    config = {
        "listeners": {"default": {"type": "tcp", "bind": "127.0.0.1:0"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {}},
    }
    broker = Broker(config)
    await broker.start()
    port = broker._servers["default"].instance.sockets[0].getsockname()[1]
    try:
        yield SimpleNamespace(broker=SimpleNamespace(port=port))
    finally:
        with contextlib.suppress(Exception):  # it raises on sessions that it has half closed
            await asyncio.wait_for(broker.shutdown(), 10)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_ours_does(scenario: Scenario) -> None:
    async with running(limits=Limits(connect_timeout_s=0.5)) as node:
        await scenario(node)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_stock_does_not(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "DEADLINE_S", PATIENCE_S)

    async def fail() -> None:
        async with stock() as node:
            with pytest.raises((AssertionError, EOFError, ConnectionError, TimeoutError)):
                await scenario(node)

    asyncio.run(fail())
    gc.collect()  # the sockets that stock amqtt leaves open, while their warnings are ignored
