"""Clients of a foreign broker: what they hear of the mesh."""

import asyncio
import contextlib
from collections import Counter

import aiomqtt


class Stranger:
    """A client of the foreign broker that counts what it hears, by topic and payload, live and retained."""

    def __init__(self, client):
        self.client = client
        self.heard = []

    @property
    def counts(self):
        return Counter((topic, payload) for topic, payload, _ in self.heard)

    async def listen(self):
        with contextlib.suppress(aiomqtt.MqttError):
            async for message in self.client.messages:
                self.heard.append((str(message.topic), message.payload, message.retain))

    async def publish(self, topic, payload, *, retain=False):
        await self.client.publish(topic, payload, 1, retain)


@contextlib.asynccontextmanager
async def stranger(broker):
    async with aiomqtt.Client("127.0.0.1", broker.port) as client:
        known = Stranger(client)
        # A wildcard for all would show nats-server's own workings.
        await client.subscribe(
            [(f"{name}/#", 1) for name in ("in", "out", "both", "elsewhere", "local")]
        )
        task = asyncio.create_task(known.listen())
        try:
            yield known
        finally:
            task.cancel()


def expected(topic, count, start=0):
    return {(topic, b"%d" % number): 1 for number in range(start, start + count)}
