"""The chain benchmark, very small: its shape, and that nothing is lost. Timing is for the benchmark itself."""

import asyncio

from bench import chain
from bench.systems.nats import Nats
from bench.systems.zenoh import Zenoh
from bench.traffic import updates, versions_problem

FIGURES = {
    "updates_per_s",
    "cpu_us_per_update",
    "p50_ms_200",
    "p99_ms_200",
    "p50_ms_2000",
    "p99_ms_2000",
}
BARS = {
    "updates_per_s_vs_mosquitto",
    "updates_per_s_vs_zenoh",
    "p50_vs_mosquitto_200",
    "p99_vs_mosquitto_200",
    "p50_vs_mosquitto_2000",
    "p99_vs_mosquitto_2000",
}


def measure(names):
    return asyncio.run(chain.run(quick=True, only=names)).json()


def test_every_system_that_is_here_carries_every_update_in_order():
    names = [system.name for system in chain.systems()]
    found = measure(names)
    assert found["problems"] == []
    assert list(found) == ["name", "machine", "systems", "ratios", "problems"]
    assert set(found["systems"]) == set(names)
    assert set(found["ratios"]) >= BARS
    for system in chain.systems():
        figures = found["systems"][system.name]
        if system.missing() is not None:
            assert figures == {"missing": system.missing()}
        else:
            assert set(figures) == FIGURES
            # A window this short may end within one tick of the processor's clock.
            assert all(value > 0 or name.startswith("cpu") for name, value in figures.items())


def test_a_peer_that_is_missing_says_so(monkeypatch):
    for system, name in ((Zenoh, "zenoh"), (Nats, "nats")):
        monkeypatch.setattr(system, "missing", lambda _: "not here")
        found = measure([name])
        assert found["systems"] == {name: {"missing": "not here"}}
        assert found["ratios"]["updates_per_s_vs_zenoh"] is None


def test_a_window_with_a_hole_or_a_swap_is_a_problem():
    payloads = [payload for _, payload in updates(10, 5)]
    assert versions_problem(payloads, 10, 5) is None
    assert "1 were lost" in versions_problem(payloads[:2] + payloads[3:], 10, 5)
    assert "1 came twice" in versions_problem([*payloads, payloads[0]], 10, 5)
    assert "disorder" in versions_problem(payloads[::-1], 10, 5)
