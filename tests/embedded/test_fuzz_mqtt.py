"""The fuzzer of the MQTT packet path, small: other clients are served, and it can find something."""

import asyncio

import pytest

from broker.embedded.connection import Connection
from tools.fuzz_mqtt import fuzz


@pytest.mark.parametrize("seed", [2, 3])
def test_a_device_stands_malformed_packets(seed):
    asyncio.run(fuzz(2_000, seed))


def test_a_handler_that_raises_is_found(monkeypatch):
    def defect(*_):
        raise RuntimeError("a defect")

    monkeypatch.setattr(Connection, "_on_unsubscribe", defect)
    with pytest.raises(AssertionError, match="seed 2, after"):
        asyncio.run(fuzz(2_000, 2))
