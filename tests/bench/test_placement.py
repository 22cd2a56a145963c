"""`placement`, very small: its shape, and that each placement decides."""

import asyncio

import pytest

from bench import placement
from bench.stage import program


@pytest.mark.parametrize("name", ["central", "on device, synced"])
def test_each_placement_decides(name):
    if name == "central" and program("mosquitto") is None:
        pytest.skip("mosquitto is not installed")
    found = asyncio.run(placement.run(quick=True, only=[name])).json()
    assert found["problems"] == []
    (figures,) = found["systems"].values()
    assert figures["decisions"] > 50
    assert figures["latency_p50_ms"] > (2 * 2.0 if name == "central" else 0)
    assert figures["backhaul_bytes_per_decision"] > 0
    assert figures["cpu_ms_per_decision"] >= 0
