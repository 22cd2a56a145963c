"""`durability`: what an acknowledgement costs, by what it promises: time, and bytes on the disk.

Two devices in a row. The first publishes obstacle updates of about 120 bytes, QoS 1, one by one at 20, 200 and 2,000 a
second and flat out, and notes how long each takes to be acknowledged; both say how much their processes had written
(`write_bytes` of /proc/self/io, which counts a page each time it is made dirty, so metadata of the file system is not
in it). Windows alternate. The directory for temporary files should lie on the disk that is asked about.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.ends import TURN, WINDOW
from bench.figures import median, percentile
from bench.result import Result
from bench.role import Part
from bench.stage import Stage
from bench.systems.flockmq import Holder
from bench.traffic import updates
from broker.commits import Durability
from broker.link import Neighbour
from broker.node import Node
from broker.store import Store

if TYPE_CHECKING:
    from bench.stage import Role

__all__ = ["Device", "run"]

RATES: Final = (20, 200, 2_000)
WINDOWS: Final = 5
WINDOW_S: Final = 2.0
FLAT_OUT: Final = 50_000
SYSTEMS: Final[dict[str, dict[str, Any]]] = {
    "power": {"durability": "power"},
    "process": {"durability": "process"},
    "power, relay log on disk": {"durability": "power", "relay_log_on_disk": True},
}


class Device(Holder, Part):
    """Either device."""

    async def open(
        self,
        *,
        device: str,
        state: str,
        neighbours: list[list[Any]],
        durability: str,
        relay_log_on_disk: bool = False,
    ) -> int:
        """Start; returns the port."""
        self.node = Node(
            device,
            Store(Path(state), relay_log_on_disk=relay_log_on_disk),
            port=0,
            neighbours=[Neighbour(name, "127.0.0.1", port) for name, port in neighbours],
            durability=Durability(durability),
        )
        await self.node.start()
        return self.node.port

    async def written(self) -> int:
        """Bytes that this process has caused to be written."""
        return _written_bytes()

    async def publish(self, *, rate: int | None, count: int) -> dict[str, Any]:
        """Publish; returns milliseconds to each acknowledgement, and seconds to the last."""
        window = updates(0, count)
        latencies: list[float] = []
        waiting: set[asyncio.Task[None]] = set()

        async def settle(published_ns: int) -> None:
            await self.node.committed()
            latencies.append((time.monotonic_ns() - published_ns) / 1e6)

        started_s = time.monotonic()
        turn = 1 if rate else TURN
        for first in range(0, count, turn):
            if rate and (wait_s := started_s + first / rate - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            published_ns = time.monotonic_ns()
            for topic, payload in window[first : first + turn]:
                self.node.publish_nowait(topic, payload)
            task = asyncio.ensure_future(settle(published_ns))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            await asyncio.sleep(0)
            while len(waiting) > WINDOW // TURN:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.gather(*waiting)
        return {"latencies_ms": latencies, "taken_s": time.monotonic() - started_s}


def _written_bytes() -> int:
    rows = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("write_bytes"))


class _Pair:
    """Two devices of one kind, and what was measured of them."""

    def __init__(self, origin: Role, relay: Role) -> None:
        self.figures: dict[str, list[float]] = {}
        self._origin = origin
        self._relay = relay

    async def window(self, rate: int | None, count: int) -> None:
        """Publish for a while and note the figures."""
        before = [await role.ask("written") for role in (self._origin, self._relay)]
        told = await self._origin.ask("publish", rate=rate, count=count)
        after = [await role.ask("written") for role in (self._origin, self._relay)]
        if rate is None:
            self._note("acknowledged_per_s", count / told["taken_s"])
            return
        for percent in (50, 99):
            self._note(f"p{percent}_ms_{rate}", percentile(told["latencies_ms"], percent))
        for name, old, new in zip(("origin", "relay"), before, after, strict=True):
            self._note(f"{name}_bytes_per_message_{rate}", (new - old) / count)

    def _note(self, figure: str, value: float) -> None:
        self.figures.setdefault(figure, []).append(value)


async def run(*, quick: bool = False, only: list[str] | None = None) -> Result:
    """Measure."""
    result = Result("durability")
    pairs: dict[str, _Pair] = {}
    async with AsyncExitStack() as stack:
        for name, settings in SYSTEMS.items():
            if not only or name in only:
                stage = await stack.enter_async_context(Stage())
                pairs[name] = await _start(stage, settings)
        for rate in (*RATES, None):
            for _ in range(1 if quick else WINDOWS):
                count = int((rate or FLAT_OUT) * (0.1 if quick else WINDOW_S if rate else 1))
                for pair in pairs.values():
                    await pair.window(rate, max(count, 1))
    for name, pair in pairs.items():
        result.add(name, **{figure: median(values) for figure, values in pair.figures.items()})
    return result


async def _start(stage: Stage, settings: dict[str, Any]) -> _Pair:
    roles: list[Role] = []
    for name in ("relay", "origin"):
        roles.append(
            await stage.role(
                name,
                "bench.durability:Device",
                device=name,
                state=str(stage.directory(name)),
                neighbours=[["relay", role.opened] for role in roles],
                **settings,
            )
        )
    for role in roles:
        await role.ask("linked", links=1)
    return _Pair(roles[1], roles[0])
