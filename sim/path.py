"""One direction of a link: what is under way, and what the wire does to it.

Theory of operation. Two devices that are linked have an ordered session, as MQTT over TCP gives: frames arrive in
order, late, or not at all because the session ended. A path is therefore a queue whose head alone is scheduled. It
may be blocked (nothing arrives, nothing is lost yet), clogged until a moment, or trickle, one frame after a pause. It
has a capacity: what is under way counts against it, so a device that asks for room gets none, as from a full socket.

A path through a broker of somebody else (`hub`) may also lose frames, repeat them, and let one overtake another.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from broker.mesh.limits import MS

if TYPE_CHECKING:
    from random import Random

__all__ = ["Conditions", "Path"]

CAPACITY_BYTES: Final = 1 << 20
"""A healthy path: two socket buffers of Linux at their default maximum. Guess."""


@dataclass(slots=True)
class Conditions:
    """What a path is like. Latency is the least, and an exponential part on top with this mean."""

    latency_min_ms: float = 1.0
    latency_more_ms: float = 2.0
    capacity_bytes: int = CAPACITY_BYTES
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    """Probability that a frame takes a way of its own, which others may overtake."""


class Path:
    """From one device to one neighbour."""

    __slots__ = (
        "blocked",
        "clogged_until_ns",
        "conditions",
        "head_due",
        "queue",
        "random",
        "session",
        "source",
        "starved",
        "target",
        "trickle_ns",
        "trickle_until_ns",
        "under_way_bytes",
        "up",
    )

    def __init__(self, source: str, target: str, conditions: Conditions, random: Random) -> None:
        self.source = source
        self.target = target
        self.conditions = conditions
        self.random = random
        self.queue: deque[tuple[int, bytes]] = deque()
        """(arrival, frame), in order."""
        self.under_way_bytes = 0
        self.session = 0
        self.up = False
        """Whether the source believes that it has a link to the target."""
        self.blocked = False
        self.clogged_until_ns = 0
        self.trickle_until_ns = 0
        self.trickle_ns = 0
        """How long at least from one frame to the next, until then."""
        self.starved = False
        """Whether the source was refused room and waits for some."""
        self.head_due = False
        """Whether the head of the queue is scheduled."""

    def open(self, session: int) -> None:
        """Begin a session; what was under way is lost."""
        self.up = True
        self.session = session
        self.queue.clear()
        self.under_way_bytes = 0
        self.starved = False

    def room_bytes(self) -> int:
        """How much more may be under way."""
        return self.conditions.capacity_bytes - self.under_way_bytes

    def delay_ns(self) -> int:
        """How long the next frame takes."""
        conditions = self.conditions
        more_ms = conditions.latency_more_ms
        delay_ms = conditions.latency_min_ms
        if more_ms:
            delay_ms += self.random.expovariate(1.0 / more_ms)
        return int(delay_ms * MS)

    def add(self, frame: bytes, at_ns: int) -> None:
        """A frame is under way and arrives then, or after those before it."""
        if self.queue:
            at_ns = max(at_ns, self.queue[-1][0])
        self.queue.append((at_ns, frame))
        self.under_way_bytes += len(frame)

    def take(self, now_ns: int) -> bytes:
        """The head arrives."""
        frame = self.queue.popleft()[1]
        if now_ns < self.trickle_until_ns:
            self.clogged_until_ns = max(self.clogged_until_ns, now_ns + self.trickle_ns)
        self.under_way_bytes -= len(frame)
        return frame
