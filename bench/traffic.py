"""The work of `chain`: obstacle updates of about 120 bytes, and their reduction into a world.

Decides one traffic for all systems: update number n is about obstacle n % OBSTACLES, and its version is n + 1, so
whoever has the updates in order knows the final state. Approach, distance and time differ from one to the next, so
that a system that compresses finds no more than real ones have in common. Payloads are made before the clock starts,
for every system alike; what is measured begins where a message is handed over.

Checks count, order and final state of every window; loss or disorder is told, never averaged away.
"""

from __future__ import annotations

import functools
import time
from random import Random
from typing import TYPE_CHECKING, Final

import msgspec

from agent.messages import Obstacle, encode
from agent.world import World
from broker.mesh.clock import LOGICAL_BITS
from broker.node import Delivered
from broker.topic_names import obstacle_topic

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.stamps import Stamps

__all__ = ["FORGED", "OBSERVER", "SITE", "Reducer", "updates", "version_of", "versions_problem"]

SITE: Final = "city"
OBSERVER: Final = "j-0-0"
FORGED: Final = "home/forged"
"""On which a dishonest relay forges, so that its bundles take no true one's place."""
OBSTACLES: Final = 1_000
"""In sight of one observer's many cameras; twice what a device says of at most."""
TTL_MS: Final = 600_000
"""No update expires within a window."""

_APPROACHES: Final = ("north", "east", "south", "west")


@functools.cache
def _topics(observer: str) -> list[str]:
    return [
        obstacle_topic(site=SITE, device=observer, obstacle=f"veh-{number}")
        for number in range(OBSTACLES)
    ]


def updates(first: int, count: int, observer: str = OBSERVER) -> list[tuple[str, bytes]]:
    """Updates `first` to `first + count - 1`: topic and payload."""
    at_ms = time.time_ns() // 1_000_000
    random, topics = Random(first), _topics(observer)
    return [
        (
            topics[number % OBSTACLES],
            encode(
                Obstacle(
                    kind="stopped-vehicle",
                    state="present",
                    approach=_APPROACHES[number % len(_APPROACHES)],
                    distance_m=random.randrange(20_000) / 100,
                    version=number + 1,
                    at_ms=at_ms + number,
                    ttl_ms=TTL_MS,
                )
            ),
        )
        for number in range(first, first + count)
    ]


class _Version(msgspec.Struct):
    version: int


_decode: Final = msgspec.json.Decoder(_Version).decode


def version_of(payload: bytes) -> int:
    """Which update a payload is: its number and one."""
    return _decode(payload).version


def versions_problem(payloads: list[bytes], first: int, count: int) -> str | None:
    """What is wrong with these payloads, which should be `count` updates from `first` on, in order."""
    versions = [version_of(payload) for payload in payloads]
    if versions == list(range(first + 1, first + count + 1)):
        return None
    different = len(set(versions))
    return (
        f"of {count} updates {count - different} were lost and {len(versions) - different} came "
        f"twice, in {'order' if versions == sorted(versions) else 'disorder'}"
    )


class Reducer:
    """Takes updates into a world, and judges a window of them.

    Args:
        stamps: Where it says how far it is.
    """

    def __init__(self, stamps: Stamps) -> None:
        self._stamps = stamps
        self._world = World(SITE, "far")
        self._payloads: list[bytes] = []
        self._stamping = False
        self._last_ns = 0

    def begin(self, *, stamping: bool) -> None:
        """Begin a window; with `stamping` each update's time is noted."""
        self._payloads = []
        self._stamping = stamping
        self._stamps.count = 0

    def take(self, batch: list[Delivered]) -> None:
        """Reduce updates."""
        now_ns = time.monotonic_ns()
        self._world.apply_batch(batch, now_ns)
        payloads = self._payloads
        before = len(payloads)
        payloads += [message.payload for message in batch]
        self._last_ns = time.monotonic_ns()
        if self._stamping:
            for number in range(before, len(payloads)):
                self._stamps.reduced[number] = self._last_ns
        self._stamps.count = len(payloads)

    def take_foreign(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """The same for messages that came by another system, which brings no clock of its own."""
        clock = time.time_ns() // 1_000_000 << LOGICAL_BITS
        self.take(
            [
                Delivered(OBSERVER, 1, clock, 0, topic, payload, retained=False, rebuild=False)
                for topic, payload in messages
            ]
        )

    def judge(self, first: int, count: int) -> dict[str, int | str | None]:
        """Whether the window brought all `count` updates in order, and the state is what they say."""
        problem = versions_problem(self._payloads, first, count)
        if problem is None and not self._state_is(first, count):
            problem = "the final state is not what the updates say"
        return {"problem": problem, "last_ns": self._last_ns}

    def _state_is(self, first: int, count: int) -> bool:
        seen = self._world.snapshot().obstacles
        return all(
            seen[OBSERVER, f"veh-{number % OBSTACLES}"].event.version == number + 1
            for number in range(max(first, first + count - OBSTACLES), first + count)
        )
