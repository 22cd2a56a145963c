"""What the mesh hands to the device's own program: a message, as plain as it can be made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from broker.mesh.bundle import FLAG_RETAINED, QOS_SHIFT, VIA_SHIFT

if TYPE_CHECKING:
    from broker.mesh.events import Deliver

__all__ = ["Delivered", "batch_of"]


class Delivered(msgspec.Struct, frozen=True, gc=False):
    """A message as the agent gets it."""

    origin: str
    incarnation: int
    clock: int
    rank: int
    topic: str
    payload: bytes
    retained: bool
    rebuild: bool
    flags: int = 0
    """As they travel; see broker/mesh/bundle.py."""

    @property
    def qos(self) -> int:
        """The QoS of the publish, 0 to 2."""
        return self.flags >> QOS_SHIFT & 3

    @property
    def via(self) -> int:
        """The mark of the bridge that it came in through; 0: none."""
        return self.flags >> VIA_SHIFT


def batch_of(event: Deliver) -> list[Delivered]:
    """What one event of the mesh delivers, in order."""
    origin, incarnation, messages, rebuild = event
    return [
        Delivered(
            origin,
            incarnation,
            m.clock,
            m.rank,
            m.topic,
            m.payload,
            bool(m.flags & FLAG_RETAINED),
            rebuild,
            m.flags,
        )
        for m in messages
    ]
