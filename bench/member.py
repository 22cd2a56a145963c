"""A lean device: a `Node` and its durable store, no agent and no inference worker.

It publishes numbered messages on a schedule, notes which it was delivered and when, and tells what its links carried.
Times are of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from typing import TYPE_CHECKING, Any, Final

from bench.figures import percentile
from bench.role import Part
from bench.systems.flockmq import Holder
from bench.waiting import until
from broker.link import Neighbour

if TYPE_CHECKING:
    from broker.node import Delivered

__all__ = ["Member"]

_STAMP: Final = struct.Struct(">QQ")
"""What a payload begins with: its number, and when it was handed over."""


class Member(Holder, Part):
    """One device of a fleet."""

    async def open(self, *, device: str, state: str) -> int:
        """Start without neighbours; returns the port."""
        self._heard: list[tuple[int, int, int]] = []
        self._noting = True
        port = await self.start_node(device, state, [])
        self.node.subscribe(self._deliver)
        return port

    async def dial(self, *, neighbours: list[list[Any]]) -> None:
        """Dial these (name, port)."""
        for name, port in neighbours:
            self.node.dial(Neighbour(name, "127.0.0.1", port))

    async def forget(self) -> None:
        """Forget what was heard."""
        self._heard = []

    async def heard(self) -> list[tuple[int, int]]:
        """The messages that were delivered: number and when."""
        return [(number, at_ns) for number, at_ns, _ in self._heard]

    async def tails(self, *, after_ns: int, until_ns: int, every_ns: int) -> list[float]:
        """99th percentile of latency, publish to delivery in ms, of each stretch of time between two moments."""
        stretches: list[list[float]] = [[] for _ in range((until_ns - after_ns) // every_ns)]
        for _, at_ns, published_ns in self._heard:
            number = (published_ns - after_ns) // every_ns
            if 0 <= number < len(stretches):
                stretches[number].append((at_ns - published_ns) / 1e6)
        return [percentile(stretch, 99) for stretch in stretches]

    async def distinct(self) -> int:
        """How many different messages were delivered."""
        return len({number for number, _, _ in self._heard})

    async def heard_count(self) -> int:
        """How many were delivered."""
        return len(self._heard)

    async def publish(
        self,
        *,
        topic: str,
        first: int,
        step: int,
        turns: int,
        size_bytes: int,
        at_ns: int,
        every_s: float,
        burst: int = 1,
    ) -> list[tuple[int, int]]:
        """Publish kept messages, numbered from `first` in steps: a burst every `every_s` from `at_ns` on.

        Returns:
            Number and when it was handed over, of each.
        """
        said = []
        number = first
        for turn in range(turns):
            await _until(at_ns + int(turn * every_s * 1e9))
            for _ in range(burst):
                now_ns = time.monotonic_ns()
                stamp = _STAMP.pack(number, now_ns)
                said.append((number, now_ns))
                self.node.publish_nowait(topic, stamp + os.urandom(size_bytes - _STAMP.size), qos=1)
                number += step
        return said

    async def pour(
        self, *, topic: str, turns: int, size_bytes: int, at_ns: int, every_s: float, burst: int
    ) -> int:
        """The same from number 0 on, noting nothing, so that memory is the device's own; returns how many.

        Each carries the moment it was due: what a publisher held up could not say in time counts as late.
        """
        self._noting = False
        for turn in range(turns):
            due_ns = at_ns + int(turn * every_s * 1e9)
            await _until(due_ns)
            for number in range(turn * burst, (turn + 1) * burst):
                stamp = _STAMP.pack(number, due_ns)
                self.node.publish_nowait(topic, stamp + os.urandom(size_bytes - _STAMP.size), qos=1)
        return turns * burst

    async def wait_count(self, *, count: int, within_s: float) -> int:
        """When this device had heard so many, or when it was given up, in monotonic nanoseconds."""
        await until(lambda: len(self._heard) >= count, within_s=within_s)
        return time.monotonic_ns()

    async def retain(self, *, topics: list[str], delete: bool) -> None:
        """Set retained topics, or delete them."""
        for topic in topics:
            self.node.publish_nowait(topic, b"" if delete else b"here", qos=1, retained=True)
        await self.node.committed()

    async def silence(self, *, peers: list[str]) -> None:
        """Neither hear nor reach these."""
        self.node.radio.silence(peers)

    async def restore(self, *, at_ns: int) -> None:
        """Hear all again from that moment on."""
        await _until(at_ns)
        self.node.radio.restore()

    async def wait_for(
        self, *, heard: int, retained: list[str], within_s: float
    ) -> dict[str, int | bool]:
        """When this device had heard so many messages and held exactly these retained topics.

        Returns:
            `at_ns`, and whether it came so far within the time.
        """
        until_s = time.monotonic() + within_s
        wanted = set(retained)
        while time.monotonic() < until_s:
            held = {topic for topic, _, _ in self.node.retained_matching("keep/#")}
            if len(self._heard) >= heard and held == wanted:
                return {"at_ns": time.monotonic_ns(), "done": True}
            await asyncio.sleep(0.01)
        return {"at_ns": time.monotonic_ns(), "done": False}

    async def links(self) -> dict[str, Any]:
        """What was counted: by neighbour bytes and bundles sent, and what is held."""
        statistics = self.node.statistics().mesh
        return {
            "bytes_out": {peer.name: peer.bytes_out for peer in statistics.peers},
            "bundles_out": {peer.name: peer.bundles_out for peer in statistics.peers},
            "log_bytes": statistics.log_bytes,
            "counters": statistics.counters,
            "queued_bytes": sum(peer.queued_bytes for peer in statistics.peers),
        }

    def _deliver(self, batch: list[Delivered]) -> None:
        now_ns = time.monotonic_ns()
        for message in batch:
            if self._noting and not message.retained:
                number, published_ns = _STAMP.unpack_from(message.payload)
                self._heard.append((number, now_ns, published_ns))


async def _until(at_ns: int) -> None:
    wait_s = (at_ns - time.monotonic_ns()) / 1e9
    if wait_s > 0:
        await asyncio.sleep(wait_s)
