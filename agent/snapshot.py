"""What readers of the world see: immutable, cheap to take, aware of its age.

Decides: nothing. Its parts are the frozen forms of the world's views (`agent.view`), so a snapshot
costs only what has changed since the last one.
Assumes: values are immutable themselves.
On failure: there is nothing to fail.
"""

from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

import msgspec

from agent.liveness import Peer
from agent.messages import (
    Inference,
    Link,
    Model,
    ModelStatus,
    Obstacle,
    Reading,
    Resources,
    Status,
)

__all__ = ["Heard", "Seen", "Snapshot"]

ValueT = TypeVar("ValueT")


class Heard(NamedTuple, Generic[ValueT]):
    """A fresh value and when it came."""

    message: ValueT
    heard_ns: int
    """Monotonic, of this device."""
    clock: int
    """Hybrid logical, of the writer."""


class Seen(msgspec.Struct, frozen=True, gc=False):
    """An obstacle that is present."""

    device: str
    """The observer."""
    obstacle: str
    """The observer's id for it."""
    event: Obstacle
    clock: int
    """Hybrid logical, of the event's publish."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The world at one moment. Keys are device, or (device, name); values never change."""

    site: str
    device: str
    """Whose picture this is."""
    newest_ns: int | None
    """When the newest input was applied, monotonic; None: nothing was heard yet."""
    patience_factor: int
    """See `agent.liveness`: 1 when this device's own loop is well."""
    peers: Mapping[str, Peer]
    """Other devices that were heard and have not left."""
    status: Mapping[str, Status]
    obstacles: Mapping[tuple[str, str], Seen]
    """By (observer, id): present and not expired when the world was last told the time."""
    models: Mapping[str, Model]
    """By name."""
    counts: Mapping[str, int]
    """By name: the total over all devices."""
    tasks: Mapping[str, frozenset[str]]
    """By set: the tasks that are in."""
    model_status: Mapping[tuple[str, str], ModelStatus]
    readings: Mapping[tuple[str, str], Heard[Reading]]
    inferences: Mapping[tuple[str, str], Heard[Inference]]
    resources: Mapping[str, Heard[Resources]]
    links: Mapping[tuple[str, str], Heard[Link]]
    """By (device, neighbour)."""

    def age_ns(self, now_ns: int) -> int | None:
        """How long ago the newest input was applied; None: nothing was heard yet."""
        return None if self.newest_ns is None else now_ns - self.newest_ns

    def alive(self, now_ns: int) -> tuple[str, ...]:
        """The other devices that are alive, sorted."""
        factor = self.patience_factor
        return tuple(
            sorted(name for name, peer in self.peers.items() if peer.is_alive(now_ns, factor))
        )
