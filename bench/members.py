"""A fleet of lean devices, each in a process of its own, linked as a graph says."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bench.stage import BenchFailed

if TYPE_CHECKING:
    from bench.stage import Role, Stage

__all__ = ["Fleet", "Sent", "scale_free"]

START_AHEAD_S: Final = 0.25
"""From giving the order to the first publish, so that all have it by then."""
SETTLED_S: Final = 20.0
"""How long stragglers may take before they count as lost."""


def scale_free(devices: int, links: int) -> list[tuple[int, int]]:
    """The edges of the graph that all fleets here use.

    Raises:
        BenchFailed: networkx is not installed.
    """
    try:
        import networkx as nx  # noqa: PLC0415 - an optional extra
    except ImportError:
        raise BenchFailed("networkx is not installed (the extra `bench`)") from None
    graph = nx.barabasi_albert_graph(devices, links, seed=42)
    return [(int(a), int(b)) for a, b in graph.edges]


@dataclass(frozen=True, slots=True)
class Sent:
    """What a window of traffic did. Times are monotonic nanoseconds."""

    published: dict[int, int]
    """By message number: when it was handed over."""
    heard: list[list[tuple[int, int]]]
    """By device: number and time of each delivery."""

    @property
    def delivered(self) -> float:
        """Deliveries that happened, of those that should have."""
        due = len(self.published) * len(self.heard)
        return sum(len({number for number, _ in one}) for one in self.heard) / due

    @property
    def duplicates(self) -> int:
        """Deliveries of what a device had already."""
        return sum(len(one) - len({number for number, _ in one}) for one in self.heard)

    def spread_ms(self) -> list[float]:
        """Of each message: until the last device had it."""
        last: dict[int, int] = {}
        for one in self.heard:
            for number, at_ns in one:
                last[number] = max(at_ns, last.get(number, 0))
        return [(last[n] - at_ns) / 1e6 for n, at_ns in self.published.items() if n in last]


class Fleet:
    """Members, once started.

    Args:
        members: By number.
        edges: Which are linked; the later one dials.
    """

    def __init__(self, members: list[Role], edges: list[tuple[int, int]]) -> None:
        self.members = members
        self.edges = edges

    @classmethod
    async def start(cls, stage: Stage, devices: int, edges: list[tuple[int, int]]) -> Fleet:
        """Start all and return when every link stands."""
        members = await asyncio.gather(
            *(
                stage.role(
                    f"d{number}",
                    "bench.member:Member",
                    device=f"d{number}",
                    state=str(stage.directory(f"d{number}")),
                )
                for number in range(devices)
            )
        )
        fleet = cls(members, edges)
        degree = [0] * devices
        dials: list[list[list[Any]]] = [[] for _ in members]
        for a, b in edges:
            degree[a] += 1
            degree[b] += 1
            dials[max(a, b)].append([f"d{min(a, b)}", members[min(a, b)].opened])
        await asyncio.gather(*(m.ask("dial", neighbours=dials[n]) for n, m in enumerate(members)))
        await asyncio.gather(*(m.ask("linked", links=degree[n]) for n, m in enumerate(members)))
        return fleet

    async def all(self, verb: str, **arguments: Any) -> list[Any]:
        """Ask every member the same."""
        return await asyncio.gather(*(member.ask(verb, **arguments) for member in self.members))

    async def traffic(
        self, *, rate: float, seconds: float, size_bytes: int, topic: str = "bench/{}"
    ) -> Sent:
        """Publish `rate` a second in all, spread evenly over the devices and over time."""
        await self.all("forget")
        devices = len(self.members)
        each = max(1, round(rate * seconds / devices))
        at_ns = time.monotonic_ns() + int(START_AHEAD_S * 1e9)
        said = await asyncio.gather(
            *(
                member.ask(
                    "publish",
                    topic=topic.format(f"d{number}"),
                    first=number,
                    step=devices,
                    turns=each,
                    size_bytes=size_bytes,
                    at_ns=at_ns + int(number / rate * 1e9),
                    every_s=devices / rate,
                )
                for number, member in enumerate(self.members)
            )
        )
        published = {number: at for one in said for number, at in one}
        await self.wait_heard(len(published))
        return Sent(published, await self.all("heard"))

    async def wait_heard(self, count: int) -> None:
        """Return when every device has heard so many, or nothing comes any more."""
        until_s = time.monotonic() + SETTLED_S
        while time.monotonic() < until_s:
            if min(await self.all("heard_count")) >= count:
                return
            await asyncio.sleep(0.1)

    async def carried(self) -> tuple[int, int]:
        """Bytes and bundles that all links together have carried so far."""
        links = await self.all("links")
        return (
            sum(sum(one["bytes_out"].values()) for one in links),
            sum(sum(one["bundles_out"].values()) for one in links),
        )
