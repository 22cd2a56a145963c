"""`durability`, very small: its shape."""

import asyncio

from bench import durability


def test_durability_measures_what_an_acknowledgement_costs():
    found = asyncio.run(durability.run(quick=True, only=["power"])).json()
    assert found["problems"] == []
    figures = found["systems"]["power"]
    assert figures["acknowledged_per_s"] > 0
    for rate in durability.RATES:
        assert 0 < figures[f"p50_ms_{rate}"] <= figures[f"p99_ms_{rate}"]
        assert figures[f"origin_bytes_per_message_{rate}"] >= 0
