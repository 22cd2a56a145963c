"""Arbitrary bytes on real sockets: whoever sends them is closed at most, the others are served."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.embedded import packets
from tests.embedded.harness import client, connect_packet, running, socket_to

headers = st.integers(0, 255).map(lambda first: bytes((first,)))
nearly_packets = st.tuples(headers, st.binary(max_size=100)).map(
    lambda parts: parts[0] + bytes((len(parts[1]),)) + parts[1]
)
noise = st.lists(st.one_of(nearly_packets, st.binary(max_size=50)), min_size=1, max_size=8)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(noise, st.booleans()), min_size=5, max_size=20))
def test_noise_harms_nobody_else(attackers: list[tuple[list[bytes], bool]]) -> None:
    async def scenario() -> None:
        async with running() as node, client(node, "good") as good:
            await good.subscribe("good", 1)
            for parts, connected in attackers:
                async with socket_to(node) as bad:
                    if connected:
                        bad.send(connect_packet("bad"))
                        await bad.expect(packets.CONNACK)
                    bad.send(*parts)
                    bad.writer.write_eof()
                    await bad.closed()
            good.send(packets.encode_publish("good", b"served", 1, packet_id=1))
            assert (await good.publish())[1:3] == ("good", b"served")
            await good.expect(packets.PUBACK)
            await node.until(lambda: node.broker.statistics().connections == 1)

    asyncio.run(scenario())
