"""The broker benchmark, very small: its shape, that nothing is lost, and that its checks can fail."""

import asyncio
import shutil

import pytest

from bench import broker
from bench.frames import PAYLOAD_BYTES, Received, publishes
from bench.stage import BenchFailed, program
from bench.systems.plain_brokers import BROKERS

RATIOS = {
    "qos0_vs_mosquitto",
    "qos1_vs_mosquitto",
    "fanout10_vs_mosquitto",
    "qos0_vs_amqtt",
    "p50_vs_mosquitto_500",
    "p50_vs_relay_500",
    "relay_p50_vs_mosquitto_500",
    "apart_p50_vs_mosquitto_500",
    "trie_10000_vs_10",
}


def test_every_broker_carries_every_message_once_and_in_order():
    found = asyncio.run(broker.run(quick=True)).json()
    assert found["problems"] == []
    assert set(found["systems"]) == set(BROKERS)
    assert set(found["ratios"]) >= RATIOS
    for name in ("flockmq", "amqtt", "relay in Python"):
        rates = {key: value for key, value in found["systems"][name].items() if "per_s" in key}
        assert len(rates) >= 4
        assert all(value > 0 for value in rates.values())
    if program("mosquitto") is None:
        assert found["systems"]["mosquitto"] == {"missing": "mosquitto is not installed"}
        assert found["ratios"]["qos0_vs_mosquitto"] is None
    else:
        assert found["ratios"]["qos0_vs_mosquitto"] > 0


def test_a_broker_that_is_missing_says_so(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    found = asyncio.run(broker.run(quick=True, only=["mosquitto"])).json()
    assert found["systems"] == {"mosquitto": {"missing": "mosquitto is not installed"}}


@pytest.mark.parametrize("qos", [0, 1])
def test_loss_repetition_and_disorder_are_seen(qos):
    table = publishes(["a/b", "a/c"], qos, 10)

    def judged(order):
        received = Received(table, qos)
        stream = b"".join(table[number].tobytes() for number in order)
        answers = b"".join(received.take(stream[i : i + 100]) for i in range(0, len(stream), 100))
        assert len(answers) == (4 * len(order) if qos else 0)
        return received.problem(10)

    assert judged(range(10)) is None
    assert "1 were lost and 0 came twice" in judged(range(9))
    assert "0 were lost and 1 came twice" in judged([*range(10), 9])
    assert "order" in judged([1, 0, *range(2, 10)])


def test_another_packet_than_a_message_of_the_load_is_refused():
    received = Received(publishes(["t"], 0, 2), 0)
    with pytest.raises(BenchFailed):
        received.take(bytes(2 * (PAYLOAD_BYTES + 6)))
