"""The stories of `models` that need no agent: a chain beside one hop, a kill at half, and a delta.

Lean devices (`models_puller.py`), by mutual TLS with tags.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import msgspec

from agent.demo.identities import identity_of, make_fleet
from agent.models.content import Content
from agent.models.delta import make_delta
from agent.models.manifest import Delta
from bench.figures import median
from bench.models_fleet import every, link
from bench.networks import DENSE, LARGEST, Moved, convolutions

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.result import Result
    from bench.stage import Role, Stage

__all__ = ["chain", "delta", "killed"]

STEPS: Final = (0.3, 1.0)
"""Of quantisation, by which the weights of the layer that is trained further have moved."""
AHEAD_S: Final = 0.1
"""From giving an order to its moment, so that all have it by then."""


class _Lean:
    """A fleet of lean devices in a row.

    Args:
        stage: Where.
        network: What travels, by seed.
        names: In the row's order.
    """

    def __init__(self, stage: Stage, network: Callable[[int], bytes], names: list[str]) -> None:
        self._stage = stage
        self._network = network
        self._fleet = stage.directory("fleet")
        make_fleet(self._fleet, "bench", names)
        self._states = {name: stage.directory(f"{name}-state") for name in names}
        self._made = 0
        self.devices: list[Role] = []

    async def start(self) -> None:
        """Start all, and return when every link stands."""
        self.devices = [await self.boot(name) for name in self._states]
        await link(self.devices, pairwise(range(len(self.devices))))

    async def boot(self, name: str) -> Role:
        """Start one, with the state that it had before."""
        return await self._stage.role(
            name,
            "bench.models_puller:Puller",
            device=name,
            state=str(self._states[name]),
            identity=str(identity_of(self._fleet, name)),
        )

    def arrived(self, name: str) -> Counter[int]:
        """How often each chunk has arrived at a device, over all of its lives."""
        notes = (self._states[name] / "arrived").read_text()
        return Counter(int(line) for line in notes.split())

    async def make(self) -> tuple[str, Content]:
        """New content that only the first has: as JSON, and as it is."""
        self._made += 1
        return await self.add(self._network(self._made))

    async def add(self, data: bytes) -> tuple[str, Content]:
        """The same of these bytes."""
        path = self._stage.path / "content"
        await asyncio.to_thread(path.write_bytes, data)
        text: str = await self.devices[0].ask("add", path=str(path))
        return text, msgspec.json.decode(text, type=Content)

    async def fetch(self, count: int) -> float:
        """New content for the first `count` after the one that has it; seconds until the last of them has it."""
        content, _ = await self.make()
        others = self.devices[1 : 1 + count]
        at_ns = time.monotonic_ns() + round(AHEAD_S * 1e9)
        await every(others, "begin", content=content, at_ns=at_ns)
        ended: list[int] = await every(others, "whole")
        return (max(ended) - at_ns) / 1e9


async def chain(
    stage: Stage,
    result: Result,
    network: Callable[[int], bytes],
    *,
    devices: int,
    windows: int,
) -> None:
    """One hop and a row of so many devices, in turn."""
    lean = _Lean(stage, network, [f"d{number}" for number in range(devices)])
    await lean.start()
    await lean.fetch(devices - 1)  # everything is cold
    hops, rows = [], []
    for _ in range(windows):
        hops.append(await lean.fetch(1))
        rows.append(await lean.fetch(devices - 1))
    result.add("one hop", seconds=median(hops))
    result.add(f"chain of {devices}", seconds=median(rows))
    result.ratios["chain_over_hop"] = median(
        [row / hop for hop, row in zip(hops, rows, strict=True)]
    )


async def killed(
    stage: Stage, result: Result, network: Callable[[int], bytes], *, times: int
) -> None:
    """A device that is killed when half has arrived, and fetches the rest when it is back; the worst of a few times."""
    fetched_twice, sent_twice = [], []
    for number in range(times):
        lean = _Lean(stage, network, [f"d{number}", f"e{number}"])
        await lean.start()
        publisher, puller = lean.devices
        text, content = await lean.make()
        await puller.ask("begin", content=text)
        await puller.ask("arrived", chunks=content.count // 2)
        os.kill(puller.pid, signal.SIGKILL)
        again = await lean.boot(puller.name)
        await again.ask("dial", neighbours=[[publisher.name, publisher.opened]])
        await again.ask("begin", content=text)
        await again.ask("whole")
        arrived = lean.arrived(puller.name)
        if set(arrived) != set(range(content.count)):
            result.problems.append(f"of {content.count} chunks {len(arrived)} were noted")
        fetched_twice.append(arrived.total() - len(arrived))
        sent_bytes = await publisher.ask("uploaded", sha256=content.sha256)
        sent_twice.append((sent_bytes - content.size_bytes) / content.chunk_bytes)
        await stage.clear()
    result.add(
        "killed at half",
        times=times,
        chunks_fetched_twice=max(fetched_twice),
        chunks_sent_twice=max(sent_twice),
    )
    result.ratios["chunks_fetched_twice"] = max(fetched_twice)


async def delta(stage: Stage, result: Result) -> None:
    """One layer of a version trained further, for a device that has the version before: all that its link carries."""
    lean = _Lean(stage, convolutions, ["d0", "d1"])
    await lean.start()
    publisher, puller = lean.devices
    text, base = await lean.make()
    before = convolutions(1)
    await puller.ask("begin", content=text)
    await puller.ask("whole")
    for layer in (LARGEST, DENSE):
        for steps in STEPS:
            after = convolutions(1, Moved(layer, steps))
            text, target = await lean.add(after)
            offers = []
            if packed := make_delta(before, after):
                _, content = await lean.add(packed)
                offer = Delta(base=base.sha256, target=target.sha256, content=content)
                offers.append(msgspec.to_builtins(offer))
            sent_bytes: int = await publisher.ask("bytes_out")
            await puller.ask("begin", content=text, deltas=offers)
            await puller.ask("whole")
            sent_bytes = await publisher.ask("bytes_out") - sent_bytes
            share = sent_bytes / target.size_bytes
            result.add(f"{layer}, {steps:g} steps", delta_over_full=share)
            if (layer, steps) == (LARGEST, max(STEPS)):
                result.ratios["delta_over_full"] = share
    told = await puller.ask("deltas")
    if told["failed"]:
        result.problems.append(f"deltas failed: {told['last_failure']}")
