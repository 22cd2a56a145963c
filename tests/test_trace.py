"""The recorded junction as a sensor."""

import asyncio
import gzip
import time

import pytest

from agent.errors import SensorError
from agent.sensors import trace


def read(sensor, count):
    async def collect():
        found = []
        async for observation in sensor.observations():
            found.append(observation)
            if len(found) == count:
                return found
        return found

    return asyncio.run(asyncio.wait_for(collect(), 20))


def write(directory, *lines):
    path = directory / "j.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join(lines)))


LINE = (
    b'{"t_s":0,"phase":1,"standing":[1,0,0,0],"vehicles":[2,0,0,0],'
    b'"speed_mps":[3.5,0,0,0],"stopped":[["veh1",2,7.5]]}'
)


def test_every_shipped_trace_is_long_and_readable():
    junctions = sorted(
        p.name.removesuffix(".jsonl.gz") for p in trace.shipped_traces().glob("*.gz")
    )
    assert len(junctions) >= 9
    for junction in junctions:
        sensor = trace.make(junction, {})
        assert len(sensor._lines) >= 1_200
        assert all(sensor._observe(tick) is not None for tick in range(len(sensor._lines)))
        assert sensor.unreadable == 0


def test_ticks_come_in_order_as_fast_as_wanted(tmp_path):
    write(tmp_path, LINE, LINE)
    sensor = trace.make("j", {"directory": str(tmp_path), "speed": 100})
    observations = read(sensor, 5)
    ticks = [o.reading.tick_s for o in observations]
    assert ticks == sorted(set(ticks))
    first = observations[0]
    assert first.reading.standing == (1, 0, 0, 0)
    assert [tuple(s) for s in first.sightings] == [("veh1", "vehicle", "s", 7.5)]


def test_a_sensor_that_starts_late_goes_on_where_the_others_are(tmp_path):
    write(tmp_path, LINE)
    started_ms = time.time_ns() // 1_000_000 - 60_000
    options = {"directory": str(tmp_path), "speed": 10, "started_ms": started_ms}
    (observation,) = read(trace.make("j", options), 1)
    assert 600 <= observation.reading.tick_s < 700


def test_a_line_that_does_not_read_is_passed_over(tmp_path):
    write(tmp_path, b"rubbish", LINE, LINE.replace(b'"veh1",2', b'"veh1",9'))
    sensor = trace.make("j", {"directory": str(tmp_path), "speed": 100})
    read(sensor, 2)
    assert sensor.unreadable >= 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"junction": "nowhere"}, "there is no trace .*j-1-1"),
        ({"speed": 0}, "speed"),
        ({"sped": 3}, "sped"),
        ({"directory": "/nonexistent"}, "none in that directory"),
    ],
)
def test_options_that_do_not_fit_are_said_with_the_way_out(options, reason):
    with pytest.raises(SensorError, match=reason):
        trace.make("j-1-1", options)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"not gzip", "cannot be read"),
        (gzip.compress(LINE, mtime=0)[:-9], "cannot be read"),
        (gzip.compress(b"", mtime=0), "is empty"),
    ],
    ids=["not gzip", "cut short", "empty"],
)
def test_a_damaged_trace_is_said_so(tmp_path, data, reason):
    (tmp_path / "j.jsonl.gz").write_bytes(data)
    with pytest.raises(SensorError, match=reason):
        trace.make("j", {"directory": str(tmp_path)})


def test_a_gzip_bomb_ends_at_the_limit(tmp_path):
    (tmp_path / "j.jsonl.gz").write_bytes(gzip.compress(bytes(trace.TRACE_BYTES_MAX + 10)))
    with pytest.raises(SensorError, match="unpacks to more than"):
        trace.make("j", {"directory": str(tmp_path)})
