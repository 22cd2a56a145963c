"""The clients people use: mosquitto_sub and _pub, paho, aiomqtt, WebSocket, and one with Nagle on."""

import asyncio
import contextlib
import socket
from asyncio.subprocess import PIPE

import aiomqtt
import paho.mqtt.client as paho
import pytest
import websockets

from broker.embedded import Limits, packets, wire
from tests.embedded.clients import Browser, browser, line, run
from tests.embedded.harness import (
    DEADLINE_S,
    FakeNode,
    client,
    connect_packet,
    program,
    running,
    socket_to,
)


@contextlib.asynccontextmanager
async def subscriber(node: FakeNode, *arguments: str):
    before = node.broker.statistics().subscriptions
    process = await run("mosquitto_sub", node, "-v", *arguments)
    try:
        await node.until(lambda: node.broker.statistics().subscriptions > before)
        yield process.stdout
    finally:
        process.kill()
        await process.wait()


async def test_mosquitto_at_every_qos() -> None:
    async with running() as node:
        for qos in "012":
            async with subscriber(node, "-t", "a/#", "-q", qos, "-i", f"sub{qos}") as lines:
                for published in "012":
                    pub = await run(
                        "mosquitto_pub", node, "-t", "a/b", "-m", f"m{published}", "-q", published
                    )
                    assert await asyncio.wait_for(pub.wait(), DEADLINE_S) == 0
                    assert await line(lines) == f"a/b m{published}"


async def test_mosquitto_retained_will_and_persistent_session() -> None:
    async with running() as node:
        pub = await run("mosquitto_pub", node, "-t", "r", "-m", "kept", "-r", "-q", "1")
        assert await pub.wait() == 0
        will = ["--will-topic", "will", "--will-payload", "gone", "-t", "none"]
        async with subscriber(node, "-t", "#", "-F", "%t %p %r") as lines:
            assert await line(lines) == "r kept 1"
            async with subscriber(node, *will):
                pass
            assert await line(lines) == "will gone 0"
        arguments = ["-t", "p", "-q", "1", "-i", "stays", "-c"]
        async with subscriber(node, *arguments):
            pass
        await node.until(lambda: node.broker.statistics().connections == 0)
        pub = await run("mosquitto_pub", node, "-t", "p", "-m", "meanwhile", "-q", "1")
        assert await pub.wait() == 0
        again = await run("mosquitto_sub", node, *arguments, "-C", "1", "-F", "%p %r")
        assert await line(again.stdout) == "meanwhile 0"
        assert await again.wait() == 0


async def test_mosquitto_speaking_mqtt5_is_told_to_fall_back() -> None:
    async with running() as node:
        pub = await run("mosquitto_pub", node, "-V", "5", "-t", "t", "-m", "x")
        assert await asyncio.wait_for(pub.wait(), DEADLINE_S) != 0
        pub = await run("mosquitto_pub", node, "-V", "311", "-t", "t", "-m", "x")
        assert await asyncio.wait_for(pub.wait(), DEADLINE_S) == 0


async def test_many_lines_of_mosquitto_arrive_in_order() -> None:
    async with running() as node, subscriber(node, "-t", "n", "-q", "2") as lines:
        pub = await asyncio.create_subprocess_exec(
            program("mosquitto_pub"),
            "-p",
            str(node.broker.port),
            "-t",
            "n",
            "-q",
            "2",
            "-l",
            stdin=PIPE,
        )
        await pub.communicate("".join(f"{number}\n" for number in range(500)).encode())
        for number in range(500):
            assert await line(lines) == f"n {number}"


async def test_aiomqtt_at_every_qos() -> None:
    async with running() as node:
        options = {"hostname": "127.0.0.1", "port": node.broker.port}
        async with aiomqtt.Client(**options) as sub, aiomqtt.Client(**options) as pub:
            for qos in (0, 1, 2):
                await sub.subscribe(f"q{qos}/#", qos=qos)
                await pub.publish(f"q{qos}/x", b"payload", qos=qos)
                message = await asyncio.wait_for(anext(sub.messages), DEADLINE_S)
                assert (str(message.topic), message.payload, message.qos, message.retain) == (
                    f"q{qos}/x",
                    b"payload",
                    qos,
                    False,
                )


async def test_paho_from_its_own_thread() -> None:
    loop = asyncio.get_running_loop()
    received: asyncio.Queue[bytes] = asyncio.Queue()
    subscribed = asyncio.Event()
    async with running() as node:
        one = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="paho", clean_session=False)
        one.on_subscribe = lambda *_: loop.call_soon_threadsafe(subscribed.set)
        one.on_message = lambda _client, _data, message: loop.call_soon_threadsafe(
            received.put_nowait, message.payload
        )
        one.connect_async("127.0.0.1", node.broker.port)
        one.on_connect = lambda *_: one.subscribe("t", 2)
        one.loop_start()
        try:
            await asyncio.wait_for(subscribed.wait(), DEADLINE_S)
            for number in range(200):
                one.publish("t", b"%d" % number, qos=number % 3)
            seen = [await asyncio.wait_for(received.get(), DEADLINE_S) for _ in range(200)]
            for qos in (0, 1, 2):  # in order per topic and QoS (4.6)
                same = [int(payload) for payload in seen if int(payload) % 3 == qos]
                assert same == list(range(qos, 200, 3))
        finally:
            one.disconnect()
            await loop.run_in_executor(None, one.loop_stop)


async def test_a_client_with_nagle_on_does_not_wait_for_delayed_acknowledgements() -> None:
    loop = asyncio.get_running_loop()
    async with running() as node, socket_to(node) as raw:
        raw.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        raw.send(connect_packet("nagle"))
        await raw.expect(packets.CONNACK)
        quickest_s = 1e9
        for _ in range(5):
            started_s = loop.time()
            for number in range(1, 51):
                # header and payload as two writes, the way some clients do
                packet = packets.encode_publish("t", bytes(50), 1, packet_id=number)
                raw.send(packet[:2])
                await asyncio.sleep(0)
                raw.send(packet[2:])
                await raw.expect(packets.PUBACK)
            quickest_s = min(quickest_s, loop.time() - started_s)
        assert quickest_s < 50 * 0.02  # 40 ms each without TCP_QUICKACK


async def test_the_kernel_is_asked_to_acknowledge_once_after_each_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    monkeypatch.setattr(wire, "acknowledge_now", asked.append)
    async with running() as node, client(node) as raw:
        for _ in range(2):
            raw.send(packets.PINGREQ_PACKET)
            await raw.expect(packets.PINGRESP)
            asked.clear()  # of packets that were answered
            for number in range(5):
                raw.send(packets.encode_publish(f"t/{number}", b"x"))
                await node.until(lambda number=number: len(node.published) > number)
            assert len(asked) == 1
            node.published.clear()


async def test_websocket_to_tcp_and_back() -> None:
    async with running(websocket=True) as node, client(node) as tcp, browser(node) as websocket:
        one = Browser(websocket)
        packet = connect_packet("browser") + packets.encode_subscribe(1, [("t", 1)])
        await websocket.send(packet[:5])  # packets and messages need not agree
        await websocket.send(packet[5:])
        assert (await one.packet())[0] == packets.CONNACK
        assert (await one.packet())[0] == packets.SUBACK
        big = bytes(256 * 1024)
        tcp.send(packets.encode_publish("t", big))
        _, flags, body = await one.packet()
        assert packets.parse_publish(flags, body)[1] == big
        await tcp.subscribe("back", 1)
        await websocket.send(packets.encode_publish("back", b"hi", 1, packet_id=2))
        assert (await tcp.publish())[2] == b"hi"
        assert (await one.packet())[0] == packets.PUBACK
        await websocket.send(packets.DISCONNECT_PACKET)
        with contextlib.suppress(websockets.ConnectionClosedOK):
            await asyncio.wait_for(websocket.recv(), DEADLINE_S)
        assert websocket.close_code == 1000


async def test_a_websocket_that_breaks_leaves_its_will_and_text_is_no_mqtt() -> None:
    async with running(websocket=True) as node:
        async with browser(node) as websocket:
            await websocket.send(connect_packet("browser", will=("gone", b"w", 0, False)))
            assert (await Browser(websocket).packet())[0] == packets.CONNACK
            websocket.transport.abort()
        await node.until(lambda: node.published)
        async with browser(node) as websocket:
            await websocket.send("text")
            with contextlib.suppress(websockets.ConnectionClosed):
                await asyncio.wait_for(websocket.recv(), DEADLINE_S)
            assert websocket.close_code is not None


async def test_a_browser_that_does_not_read_loses_qos0_and_then_goes_on() -> None:
    limits = Limits(fresh_queue_bytes_max=20_000, unsent_bytes_high=20_000, unsent_bytes_low=1)
    async with (
        running(limits=limits, websocket=True) as node,
        client(node) as pub,
        browser(node) as websocket,
    ):
        one = Browser(websocket)
        await websocket.send(connect_packet("slow") + packets.encode_subscribe(1, [("t", 0)]))
        await one.packet()
        await one.packet()
        websocket.transport.pause_reading()
        sent = 0
        while not node.broker.statistics().counters.shed:
            for _ in range(50):
                pub.send(packets.encode_publish("t", sent.to_bytes(4, "big") + bytes(1000)))
                sent += 1
            await pub.quiet()
        websocket.transport.resume_reading()
        number = -1
        while number != sent - 1:
            _, flags, body = await one.packet()
            previous, number = (
                number,
                int.from_bytes(packets.parse_publish(flags, body)[1][:4], "big"),
            )
            assert number > previous
