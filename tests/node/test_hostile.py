"""A neighbour that misbehaves on a real socket: its link is closed, and `flockmq status` says why."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from agent.commands.status import status
from agent.report import NODE_TOPIC, node_report
from broker.embedded import packets
from broker.mesh import frame
from broker.mesh.control import Hello, Want, encode_control
from tests.embedded.harness import RawClient
from tests.node.fleet import Listener, chain
from tests.waiting import until


@asynccontextmanager
async def neighbour(node, name="h"):
    """A link by hand."""
    raw = RawClient(*await asyncio.open_connection("127.0.0.1", node.port))
    try:
        raw.send(packets.encode_connect(f"mesh-{name}", 30))
        await raw.expect(packets.CONNACK)
        raw.send(packets.encode_subscribe(1, [(f"mesh/v1/{name}/{node.device}", 0)]))
        await raw.expect(packets.SUBACK)
        yield raw
    finally:
        raw.writer.close()


def frames(node, *records):
    topic = packets.string_field(f"mesh/v1/{node.device}/h")
    return packets.publish_frames(topic, [frame.encode_frame([record]) for record in records])


async def shown(node, capsys):
    """What `flockmq status` prints of a node."""
    report = json.dumps(node_report(node.statistics(), 1.0)).encode()
    await node.publish(NODE_TOPIC, report, retained=True)
    capsys.readouterr()
    await status("127.0.0.1", node.port, None, None, as_json=False)
    return capsys.readouterr().out


HELLO = encode_control(Hello(1, "h", 1, 0, 1, True))
WANT = encode_control(Want([("b", 5, 0, 0, 2**31, 1)] * 500))
ATTACKS = {
    "too many bad frames, the last: record 2 does not decode": [
        HELLO, *[frame.record(frame.PING, b"\x91" * 50_000)] * 8
    ],
    "too many bad frames, the last: requests without end": [
        HELLO, *[WANT] * 80
    ],
    "calls itself 'x' and speaks protocol 1, expected 'h' and 1": [
        encode_control(Hello(1, "x", 1, 0, 1, True))
    ],
    "silent for 2000 ms": [HELLO],
}  # fmt: skip


@pytest.mark.parametrize("reason", ATTACKS)
def test_a_neighbour_that_misbehaves_is_dropped_and_status_says_why(tmp_path, capsys, reason):
    async def story():
        async with chain(tmp_path, "b") as (node,):
            for number in range(100):
                await node.publish("t", b"%d" % number, qos=1)
            async with neighbour(node) as raw:
                raw.send(frames(node, *ATTACKS[reason]))
                await until(lambda: node.statistics().closed_links, "the end of the link")
                await raw.closed()
            assert not node.statistics().mesh.peers
            text = await shown(node, capsys)
            assert f"closed the link to h: {reason}" in text
            assert f"last problem: link to h closed: {reason}" in text

    asyncio.run(story())


def test_what_a_good_neighbour_says_arrives_while_another_is_dropped(tmp_path):
    async def story():
        async with chain(tmp_path, "ab") as (a, b):
            heard = Listener(b)
            for number in range(30):
                async with neighbour(b) as raw:
                    raw.send(frames(b, HELLO, *[frame.record(frame.WANT, b"\x91" * 9_000)] * 9))
                    await a.publish("t", b"%d" % number, qos=1)
                    await raw.closed()
            await until(lambda: len(heard.payloads("t")) >= 30, "all")
            assert heard.payloads("t") == [b"%d" % number for number in range(30)]
            assert b.statistics().mesh.counters["links_closed"] == 30

    asyncio.run(story())
