"""`slow` and `idle`, very small: their shape, that nothing is lost, and that every device lives."""

import asyncio

from bench import idle, slow


def test_slow_loses_nothing_for_anybody():
    found = asyncio.run(slow.run(quick=True, only=["reads nothing"])).json()
    assert found["problems"] == []
    assert set(found["systems"]) == {"reads nothing"}
    figures = found["systems"]["reads nothing"]
    assert figures["published"] == 1_400
    assert figures["others_lack"] == figures["slow_one_lacks"] == 0
    assert figures["rss_peak_mb"] > 0
    assert found["ratios"]["p99_over_before"] > 0


def test_idle_watches_five_devices():
    found = asyncio.run(idle.run(quick=True)).json()
    assert found["problems"] == []
    assert len(found["systems"]) == 5
    assert found["ratios"]["rss_mb"] > 0
    assert found["ratios"]["core_percent"] >= 0
