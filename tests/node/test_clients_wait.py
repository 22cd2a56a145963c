"""A device whose neighbours are behind refuses its clients before itself."""

import asyncio

import pytest

from broker.embedded import packets
from broker.errors import Refused
from broker.mesh.limits import CROWDED_BYTES, PRESSED_BYTES, REFUSED_BYTES
from broker.mesh.mesh import Mesh
from tests.node.clients import session
from tests.node.fleet import Listener, chain
from tests.waiting import until


@pytest.mark.parametrize(
    ("backlog_bytes", "taken"),
    [
        (PRESSED_BYTES - 1, {0, 1, "local", "own"}),
        (PRESSED_BYTES, {1, "local", "own"}),
        (CROWDED_BYTES, {"local", "own"}),
        (REFUSED_BYTES, {"local"}),
    ],
)
def test_who_is_refused_first(tmp_path, backlog_bytes, taken):
    async def story():
        async with chain(tmp_path, "a") as (node,):
            Listener(node)  # so that nothing goes past the mesh
            node._mesh._state.backlog_bytes = backlog_bytes
            found = set()
            for what, topic, qos in ((0, "t", 0), (1, "t", 1), ("local", "local/t", 0)):
                try:
                    node.client_publish(topic, b"x", qos, retained=False)
                    found.add(what)
                except Refused:
                    pass
            try:
                node.publish_nowait("flock/v1/town/obstacle/a/1", b"{}")
                found.add("own")
            except Refused:
                pass
            return found

    assert asyncio.run(story()) == taken


def test_one_turn_of_clients_leaves_room_too(tmp_path):
    """However much they say at once."""

    async def story():
        async with chain(tmp_path, "a") as (node,):
            Listener(node)
            for _ in range(CROWDED_BYTES // 100_000 + 1):
                node.client_publish("t", bytes(100_000), 1, retained=False)
            with pytest.raises(Refused):
                node.client_publish("t", b"x", 1, retained=False)
            node.publish_nowait("flock/v1/town/obstacle/a/1", b"{}")

    asyncio.run(story())


def test_a_client_that_waits_for_nothing_is_not_read_from_until_there_is_room(
    tmp_path, monkeypatch
):
    async def story():
        async with chain(tmp_path, "a") as (node,):
            heard, full = Listener(node), [True]
            monkeypatch.setattr(
                Mesh, "has_room_for_clients", lambda _, kept: not (full[0] and kept)
            )
            async with session(node, clean=True, present=0) as raw:
                for number in range(1, 4):
                    raw.send(packets.encode_publish("t", b"%d" % number, 1, packet_id=number))
                raw.send(packets.encode_publish("t", b"behind them", 0))
                await until(
                    lambda: node.statistics().broker.counters.bytes_in > 20, "what it says to come"
                )
                assert not heard.payloads("t")
                full[0] = False
                for number in range(1, 4):
                    await raw.expect(packets.PUBACK, bytes((0, number)))
            await until(lambda: len(heard.payloads("t")) == 4, "all")
            assert heard.payloads("t") == [b"1", b"2", b"3", b"behind them"]

    asyncio.run(story())
