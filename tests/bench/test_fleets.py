"""The benchmarks of fleets, very small: their shape and their counts. Timing is for the benchmarks themselves."""

import asyncio

import pytest

from bench import fleet, heal, overhead
from bench.cable import Cable
from bench.members import Sent, scale_free


def test_fleet_delivers_everything_once():
    pytest.importorskip("networkx")
    found = asyncio.run(fleet.run(quick=True)).json()
    assert found["problems"] == []
    assert found["ratios"]["delivered"] == 1.0
    assert found["ratios"]["duplicates"] == 0
    assert found["ratios"]["mean_spread_ms_m2"] > 0
    assert found["systems"]["5 devices, m = 2"]["messages"] == 10


def test_overhead_counts_every_copy():
    pytest.importorskip("networkx")
    found = asyncio.run(overhead.run(quick=True)).json()
    assert found["problems"] == []
    assert found["ratios"]["tree_copies"] >= 1
    assert found["ratios"]["tree_bytes"] >= 1
    edges, others = len(scale_free(5, 2)), 4
    assert 1 <= found["ratios"]["flood_copies"] <= (2 * edges - others) / others


def test_heal_loses_nothing():
    found = asyncio.run(heal.run(quick=True, only=["flockmq"])).json()
    assert found["problems"] == []
    figures = found["systems"]["flockmq"]
    assert (figures["updates"], figures["lost"], figures["twice"]) == (200, 0, 0)
    assert set(found["ratios"]) == {"converged_ms", "bytes_over_missing"}
    assert figures["missing_bytes"] > 200 * heal.SIZE_BYTES * heal.HALF // 2


def test_a_message_that_one_device_lacks_is_not_delivered_and_one_that_came_twice_is_told():
    sent = Sent({1: 0, 2: 0}, [[(1, 1_000_000), (2, 3_000_000)], [(1, 2_000_000), (1, 2_000_000)]])
    assert sent.delivered == 0.75
    assert sent.duplicates == 1
    assert sent.spread_ms() == [2.0, 3.0]


def test_a_cut_cable_carries_nothing_until_it_is_mended():
    async def story():
        ended = asyncio.Event()

        async def echo(reader, writer):
            while data := await reader.read(100):
                writer.write(data)
            writer.close()
            ended.set()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        cable = Cable(server.sockets[0].getsockname()[1])
        await cable.lay()
        reader, writer = await asyncio.open_connection("127.0.0.1", cable.port)
        writer.write(b"a")
        assert await reader.read(1) == b"a"
        cable.cut()
        writer.write(b"b")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await reader.read(1)
        cable.mend()
        assert await reader.read(1) == b"b"
        writer.close()
        await ended.wait()
        await cable.remove()
        server.close()

    asyncio.run(story())
