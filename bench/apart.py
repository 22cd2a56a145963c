"""Messages at a rate from a publisher to a subscriber that are processes of their own, as clients are.

Where one process is both (`paced` of `bench.load`), the broker's wake-up takes the processor from it within its `send`,
and it reads only when the broker sleeps again: its latency holds all that the broker does after the write. Here it
ends with the write.

Decides pacing as `bench.load` does; times of both are on the machine's monotonic clock. Assumes a broker on loopback.
On failure: what is missing after STALLED_S is lost, and said.
"""

from __future__ import annotations

import select
import time
from typing import Any, Final

import numpy as np

from bench.frames import Received, publishes
from bench.raw_client import READ_BYTES, STALLED_S, RawClient
from bench.role import Part

__all__ = ["Publisher", "Subscriber"]

_TOPIC: Final = "load/000000"
_BEGINS_S: Final = 0.05
"""From being asked to the first message: the subscriber listens by then."""


class Publisher(Part):
    """Publishes when it is asked to."""

    async def open(self) -> None:
        """Nothing is to be done before."""

    async def publish(self, *, port: int, qos: int, count: int, rate: float) -> list[float]:
        """Publish each message at its moment; returns seconds of when they were sent."""
        client = RawClient(port, "publisher")
        table = publishes([_TOPIC], qos, count)
        sent_s: list[float] = []
        began_s = time.perf_counter() + _BEGINS_S
        while len(sent_s) < count:
            wait_s = began_s + len(sent_s) / rate - time.perf_counter()
            if wait_s <= 0:
                sent_s.append(time.perf_counter())
                client.raw.sendall(table[len(sent_s) - 1].tobytes())
            elif select.select([client.raw], [], [], wait_s)[0]:
                client.raw.recv(READ_BYTES)
        client.raw.close()
        return sent_s


class Subscriber(Part):
    """Hears what a publisher says."""

    async def open(self) -> None:
        """Nothing is to be done before."""

    async def subscribe(self, *, port: int, qos: int, count: int) -> None:
        """Subscribe to so many messages."""
        self._client = RawClient(port, "subscriber")
        self._client.subscribe([_TOPIC], qos)
        self._received = Received(publishes([_TOPIC], qos, count), qos)
        self._count = count

    async def hear(self) -> dict[str, Any]:
        """Read them; returns seconds of when they were read, and what went wrong."""
        raw, received = self._client.raw, self._received
        read_s = np.zeros(self._count)
        while received.count < self._count and select.select([raw], [], [], STALLED_S)[0]:
            before = received.count
            answers = received.take(raw.recv(READ_BYTES))
            read_s[before : received.count] = time.perf_counter()
            if answers:
                raw.sendall(answers)
        raw.close()
        return {
            "read_s": read_s[: received.count].tolist(),
            "problem": received.problem(self._count),
        }
