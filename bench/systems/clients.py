"""MQTT clients as the two ends of a row of brokers: paho, which everybody has, and aiomqtt, its asyncio form.

Both at QoS 1. paho's own thread reads and writes; its callback reduces at once. Of the Python MQTT clients it is the
one with the least between socket and callback.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Final

import aiomqtt
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from bench.ends import Publishing, Reducing

__all__ = ["AiomqttFar", "PahoFar", "PahoNear"]

FILTER: Final = "flock/#"
CONNECT_S: Final = 10.0
WINDOW_MQTT: Final = 250
"""Mosquitto and paho look through what is unacknowledged for every acknowledgement. Measured, a row of Mosquitto: 250
on their way 9,000/s at 150 us of processor time, 1,000 7,900/s at 197 us, 16,000 2,300/s at 430 us."""
INFLIGHT_MAX: Final = 20_000
"""More than are ever on their way, so no client waits for acknowledgements one by one."""


def _paho(port: int, name: str) -> paho.Client:
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name)
    client.max_inflight_messages_set(INFLIGHT_MAX)
    client.max_queued_messages_set(0)
    client.connect("127.0.0.1", port)
    return client


class PahoNear(Publishing):
    """Publishes with paho."""

    window = WINDOW_MQTT

    async def connect(self, *, port: int) -> None:
        """Connect."""
        connected = threading.Event()
        self._client = _paho(port, "near")
        self._client.on_connect = lambda *_: connected.set()
        self._client.loop_start()
        if not await asyncio.to_thread(connected.wait, CONNECT_S):
            raise TimeoutError(f"no CONNACK within {CONNECT_S:g} s")

    def send(self, topic: str, payload: bytes) -> None:
        """Publish one update."""
        self._client.publish(topic, payload, qos=1)

    async def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()


class PahoFar(Reducing):
    """Reduces in paho's callback."""

    async def connect(self, *, port: int) -> None:
        """Subscribe."""
        subscribed = threading.Event()
        self._client = _paho(port, "far")
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_connect = lambda client, *_: client.subscribe(FILTER, qos=1)
        self._client.on_message = self._on_message
        self._client.loop_start()
        if not await asyncio.to_thread(subscribed.wait, CONNECT_S):
            raise TimeoutError(f"no SUBACK within {CONNECT_S:g} s")

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self.reducer.take_foreign([(message.topic, bytes(message.payload))])

    async def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()


class AiomqttFar(Reducing):
    """Reduces in a task that iterates over aiomqtt's messages."""

    async def connect(self, *, port: int) -> None:
        """Subscribe."""
        self._ready = asyncio.Event()
        self._task = asyncio.create_task(self._run(port))
        async with asyncio.timeout(CONNECT_S):
            await self._ready.wait()

    async def _run(self, port: int) -> None:
        async with aiomqtt.Client("127.0.0.1", port, identifier="far") as client:
            await client.subscribe(FILTER, qos=1)
            self._ready.set()
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                self.reducer.take_foreign([(str(message.topic), message.payload)])

    async def close(self) -> None:
        """Disconnect."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
