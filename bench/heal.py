"""`heal`: ten devices cut in half; both halves go on publishing and deleting; then the cut ends.

On each side a burst of 100 kept updates every 100 ms, from its devices in turn, and 100 retained deletes. Converged is
a device when it has heard every update of both sides and holds exactly the retained topics that were not deleted.
Beside it the same story of two Mosquitto brokers with a bridge between them, in their default configuration: a row
cannot have cycles, so each half is one broker.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final

from bench.members import Fleet
from bench.result import Result
from bench.stage import Stage
from bench.systems import bridge

__all__ = ["run"]

DEVICES: Final = 10
HALF: Final = DEVICES // 2
SIZE_BYTES: Final = 120
HEAL_AHEAD_S: Final = 0.3


@dataclass(frozen=True, slots=True)
class Story:
    """How much happens on each side."""

    bursts: int = 100
    burst: int = 100
    every_s: float = 0.1
    deletes: int = 100
    settle_s: float = 60.0

    @property
    def updates(self) -> int:
        """Of one side."""
        return self.bursts * self.burst

    def topics(self, side: int) -> list[str]:
        """Retained topics of one side, half of which are deleted during the cut."""
        return [f"keep/{side}/{number}" for number in range(2 * self.deletes)]


QUICK: Final = Story(bursts=5, burst=20, every_s=0.05, deletes=5)


def edges() -> list[tuple[int, int]]:
    """A ring in which everybody is also linked to the one after the next."""
    return [(n, (n + step) % DEVICES) for n in range(DEVICES) for step in (1, 2)]


async def run(*, quick: bool = False, only: list[str] | None = None) -> Result:
    """Tell the story of each system."""
    story = QUICK if quick else Story()
    result = Result("heal")
    if not only or "flockmq" in only:
        async with Stage() as stage:
            await _flockmq(stage, story, result)
    if not only or "mosquitto" in only:
        missing = bridge.missing()
        if missing is not None:
            result.add("mosquitto", missing=missing)
        else:
            async with Stage() as stage:
                result.add("mosquitto", **await bridge.tell(stage, story))
    return result


async def _flockmq(stage: Stage, story: Story, result: Result) -> None:
    fleet = await Fleet.start(stage, DEVICES, edges())
    sides = fleet.members[:HALF], fleet.members[HALF:]
    everything = story.topics(0) + story.topics(1)
    for side, members in enumerate(sides):
        await members[0].ask("retain", topics=story.topics(side), delete=False)
    await fleet.all("wait_for", heard=0, retained=everything, within_s=story.settle_s)
    before = await fleet.all("links")
    for side, members in enumerate(sides):
        others = [f"d{n}" for n in range(DEVICES) if (n < HALF) is bool(side)]
        await asyncio.gather(*(member.ask("silence", peers=others) for member in members))

    await asyncio.gather(*(_one_side(fleet, side, story) for side in (0, 1)))
    at_cut = await fleet.all("links")
    missing = sum(at_cut[n]["log_bytes"] - before[n]["log_bytes"] for n in range(DEVICES))

    healed_ns = time.monotonic_ns() + int(HEAL_AHEAD_S * 1e9)
    kept = story.topics(0)[story.deletes :] + story.topics(1)[story.deletes :]
    await fleet.all("restore", at_ns=healed_ns)
    done = await fleet.all(
        "wait_for", heard=2 * story.updates, retained=kept, within_s=story.settle_s
    )
    after = await fleet.all("links")
    heard = await fleet.all("heard")
    converged_ms = (max(one["at_ns"] for one in done) - healed_ns) / 1e6
    lost = sum(2 * story.updates - len({number for number, _ in one}) for one in heard)
    twice = sum(len(one) - len({number for number, _ in one}) for one in heard)
    over = _carried(at_cut, after) / missing
    result.add(
        "flockmq",
        updates=2 * story.updates,
        lost=lost,
        twice=twice,
        converged_ms=converged_ms,
        bytes_over_missing=over,
        missing_bytes=missing,
    )
    result.ratios |= {"converged_ms": converged_ms, "bytes_over_missing": over}
    if lost or twice or not all(one["done"] for one in done):
        behind = sum(not one["done"] for one in done)
        result.problems.append(
            f"{lost} updates lost, {twice} twice, {behind} devices not converged"
        )


async def _one_side(fleet: Fleet, side: int, story: Story) -> None:
    """What happens on one side of the cut, until its devices agree among themselves."""
    members = fleet.members[side * HALF : (side + 1) * HALF]
    at_ns = time.monotonic_ns() + int(HEAL_AHEAD_S * 1e9)
    first = side * story.updates
    each = story.bursts // HALF
    said = [
        member.ask(
            "publish",
            topic=f"bench/{side}/{number}",
            first=first + number * each * story.burst,
            step=1,
            turns=each,
            burst=story.burst,
            size_bytes=SIZE_BYTES,
            at_ns=at_ns + int(number * story.every_s * 1e9),
            every_s=story.every_s * HALF,
        )
        for number, member in enumerate(members)
    ]
    await asyncio.gather(*said)
    await members[-1].ask("retain", topics=story.topics(side)[: story.deletes], delete=True)
    kept = story.topics(side)[story.deletes :] + story.topics(1 - side)
    await asyncio.gather(
        *(
            member.ask("wait_for", heard=story.updates, retained=kept, within_s=story.settle_s)
            for member in members
        )
    )


def _carried(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> int:
    """Bytes on all links since the cut's end; a link that came up anew counts from its beginning."""
    total = 0
    for earlier, later in zip(before, after, strict=True):
        for peer, sent in later["bytes_out"].items():
            known = earlier["bytes_out"].get(peer, 0)
            total += sent - known if sent >= known else sent
    return total
