"""Two Mosquitto brokers, a bridge in both directions in its default configuration, and a cable that can be cut."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import aiomqtt

from bench.cable import Cable
from bench.stage import BenchFailed, Stage, free_port, program
from bench.systems.mosquitto import missing
from bench.waiting import until

if TYPE_CHECKING:
    from bench.heal import Story
    from bench.result import Figure

__all__ = ["missing", "tell"]

_CONFIG: Final = "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
_BRIDGE: Final = """\
connection across
address 127.0.0.1:{to}
topic # both 1
bridge_protocol_version mqttv311
cleansession false
"""
LINK_S: Final = 20.0
QUIET_S: Final = 8.0
"""Nothing new for so long after the cut: what is missing is lost. A bridge tries again after at most 5 s or so."""


class _Side:
    """One broker's clients: one publishes, one notes what arrives."""

    def __init__(self, number: int, port: int) -> None:
        self.number = number
        self.port = port
        self.heard: dict[bytes, int] = {}
        self.retained: set[str] = set()
        self.last_s = 0.0
        self._ready = asyncio.Event()

    async def listen(self) -> None:
        """Note what arrives, until cancelled."""
        async with aiomqtt.Client("127.0.0.1", self.port, identifier="listener") as client:
            await client.subscribe([("bench/#", 1), ("keep/#", 1)])
            self._ready.set()
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                topic = str(message.topic)
                if topic.startswith("bench/"):
                    self.heard[message.payload] = self.heard.get(message.payload, 0) + 1
                    self.last_s = time.monotonic()
                elif message.payload:
                    self.retained.add(topic)
                else:
                    self.retained.discard(topic)

    async def live(self, story: Story) -> None:
        """What happens on this side during the cut."""
        async with aiomqtt.Client("127.0.0.1", self.port, identifier="publisher") as client:
            client.pending_calls_threshold = 2 * story.burst
            start_s = time.monotonic()
            for burst in range(story.bursts):
                await asyncio.sleep(max(0.0, start_s + burst * story.every_s - time.monotonic()))
                await asyncio.gather(
                    *(
                        client.publish(f"bench/{self.number}", b"%d %d" % (self.number, n), qos=1)
                        for n in range(burst * story.burst, (burst + 1) * story.burst)
                    )
                )
            for topic in story.topics(self.number)[: story.deletes]:
                await client.publish(topic, b"", qos=1, retain=True)

    async def set_retained(self, topics: list[str]) -> None:
        """Set retained topics."""
        async with aiomqtt.Client("127.0.0.1", self.port, identifier="setter") as client:
            for topic in topics:
                await client.publish(topic, b"here", qos=1, retain=True)

    async def retained_now(self) -> set[str]:
        """What a new subscriber is told."""
        fresh = _Side(self.number, self.port)
        task = asyncio.create_task(fresh.listen())
        await asyncio.sleep(1.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return fresh.retained


async def tell(stage: Stage, story: Story) -> dict[str, Figure]:
    """The story of `heal`, and what the bridge made of it.

    Raises:
        BenchFailed: The bridge does not come up.
    """
    path = program("mosquitto")
    assert path is not None
    ports = free_port(), free_port()
    cable = Cable(ports[1])
    await cable.lay()
    for number, port in ((1, ports[1]), (0, ports[0])):  # the one that is dialled first
        config = stage.directory(f"mosquitto-{number}") / "mosquitto.conf"
        bridge = "" if number else _BRIDGE.format(to=cable.port)
        config.write_text(_CONFIG.format(port=port) + bridge)
        await stage.daemon(f"mosquitto-{number}", [path, "-c", str(config)], port)
    sides = [_Side(number, port) for number, port in enumerate(ports)]
    tasks = [asyncio.create_task(side.listen()) for side in sides]
    try:
        return await _through(cable, sides, story)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await cable.remove()


async def _through(cable: Cable, sides: list[_Side], story: Story) -> dict[str, Figure]:
    everything = set(story.topics(0) + story.topics(1))
    for side in sides:
        await side.set_retained(story.topics(side.number))
    until_s = time.monotonic() + LINK_S
    while any(side.retained != everything for side in sides):
        if time.monotonic() > until_s:
            raise BenchFailed(f"the bridge carried nothing within {LINK_S:g} s")
        await asyncio.sleep(0.05)
        for side in sides:
            await side.set_retained(story.topics(side.number)[:1])
    cable.cut()
    await asyncio.gather(*(side.live(story) for side in sides))
    cable.mend()
    mended_s = time.monotonic()
    await until(lambda: time.monotonic() >= max(mended_s, *(s.last_s for s in sides)) + QUIET_S)
    kept = set(story.topics(0)[story.deletes :] + story.topics(1)[story.deletes :])
    held = [await side.retained_now() for side in sides]
    return {
        "updates": 2 * story.updates,
        "lost": sum(2 * story.updates - len(side.heard) for side in sides),
        "twice": sum(sum(side.heard.values()) - len(side.heard) for side in sides),
        "converged_ms": (max(side.last_s for side in sides) - mended_s) * 1e3,
        "deleted_and_still_there": sum(len(one - kept) for one in held),
    }
