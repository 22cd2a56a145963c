"""What it costs those who decide when their model is exchanged: a part of `infer`.

A version of 4 MB decides at a steady rate; now and then the next one is loaded beside it, tried and swapped in, as a
device does it. Quiet windows and such with a swap alternate; latencies are from when a reading was due.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from agent.infer.kinds import Kind
from agent.infer.loop import Decision, Filled, InferenceLoop
from agent.infer.standby import ModelFile, StandbyClient
from agent.models.manifest import Rollout, publishable
from agent.models.packing import Described, pack
from agent.models.trial import try_out
from bench.figures import percentile, ratio
from bench.networks import convolutions
from bench.waiting import until

if TYPE_CHECKING:
    from agent.infer.backend import FloatArray
    from agent.models.manifest import Manifest
    from bench.result import Result

__all__ = ["swaps"]

RATE: Final = 50
"""Readings a second."""
VERSIONS: Final = 2
DAY_MS: Final = 86_400_000


class _Decider:
    """A model that decides on readings at a rate."""

    def __init__(self, client: StandbyClient) -> None:
        self._loop: InferenceLoop[int] = InferenceLoop(client, self._fill, self._decided)
        self._late_ms: list[float] = []

    async def run(self) -> None:
        """Until it is cancelled."""
        await self._loop.run()

    async def window(self, seconds: float) -> list[float]:
        """How long after they were due the decisions of so many seconds came, in ms."""
        late_ms: list[float] = []
        self._late_ms = late_ms
        before, count = self._without(), round(seconds * RATE)
        began_ns = time.monotonic_ns()
        for number in range(count):
            due_ns = began_ns + round(number * 1e9 / RATE)
            await asyncio.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
            self._loop.submit_nowait(due_ns)
        await until(lambda: len(late_ms) + self._without() - before >= count, every_s=0.005)
        return late_ms

    @property
    def lost(self) -> int:
        """Readings that came to nothing, though no newer one took their place."""
        counted = self._loop.statistics()
        return counted.failed + counted.late + counted.stale

    def _without(self) -> int:
        """Readings without a decision."""
        return self.lost + self._loop.statistics().superseded

    def _fill(self, reading: int, into: FloatArray) -> Filled:
        into[...] = 0.5
        return Filled(reading, 0)

    def _decided(self, decision: Decision) -> None:
        self._late_ms.append(decision.latency_ns / 1e6)


async def swaps(result: Result, windows: int, seconds: float) -> None:
    """Measure; adds `swap_p99_over_quiet`."""
    versions = [await asyncio.to_thread(_version, seed) for seed in range(VERSIONS)]
    quiet: list[float] = []
    swapping: list[float] = []
    async with StandbyClient() as client:
        serving = await client.prepare(versions[0][1])
        client.use(serving)
        decider = _Decider(client)
        running = asyncio.create_task(decider.run())
        await decider.window(seconds)  # the first ones are cold
        for number in range(windows):
            quiet += await decider.window(seconds)
            manifest, files = versions[(number + 1) % VERSIONS]
            window = asyncio.create_task(decider.window(seconds))
            version = await client.prepare(files)
            await try_out(version, manifest, serving, lambda _: "")
            client.use(version)
            client.retire(serving)
            serving = version
            swapping += await window
        lost = decider.lost
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    for name, late_ms in (("no swap", quiet), ("a version is swapped", swapping)):
        result.add(
            name,
            decision_p50_ms=percentile(late_ms, 50),
            decision_p99_ms=percentile(late_ms, 99),
            decision_max_ms=max(late_ms),
            decisions=len(late_ms),
        )
    result.ratios["swap_p99_over_quiet"] = ratio(percentile(swapping, 99), percentile(quiet, 99))
    if lost:
        result.problems.append(f"{lost} readings came to nothing in swaps")


def _version(seed: int) -> tuple[Manifest, dict[Kind, ModelFile]]:
    data = convolutions(10 + seed)
    described = Described("classes", str(seed), "a benchmark", Rollout(), 0.0, 1.0, 1, None)
    draft, contents = pack(described, [("network", data)])
    manifest = publishable(draft, site="city", counter=1 + seed, made_ms=0, expires_ms=DAY_MS)
    sha256 = draft.variants[0].content.sha256
    return manifest, {Kind.TFLITE: ModelFile(contents[Kind.TFLITE], sha256)}
