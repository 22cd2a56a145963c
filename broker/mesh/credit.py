"""How much a neighbour may send before it hears that it was taken in: cumulative byte counts, both ways.

Decides when a link must wait. Counted are records with payload (bundles and their parts); control records need no
credit, so repair and credit itself always pass. Credit comes back when a bundle is logged here, not when it has gone
on to others, so a cycle of links cannot wait for itself; it is withheld only while a neighbour that still reads has
much queued. Counts run from link_up. A ping says where the sender stands, which makes good what a lost record left
uncounted.
"""

from __future__ import annotations

from broker.mesh.limits import CREDIT_BYTES, CREDIT_STEP_BYTES

__all__ = ["Credit"]


class Credit:
    """Both directions of one link."""

    __slots__ = ("allowed_bytes", "granted_bytes", "spent_bytes", "taken_bytes")

    def __init__(self) -> None:
        self.spent_bytes = 0
        """Sent to the neighbour."""
        self.allowed_bytes = CREDIT_BYTES
        """How far the neighbour lets us go."""
        self.taken_bytes = 0
        """Come from the neighbour and logged."""
        self.granted_bytes = CREDIT_BYTES
        """How far we let the neighbour go."""

    @property
    def may_spend(self) -> bool:
        """Whether another record with payload may be sent. One may go over the count, whatever its size."""
        return self.spent_bytes < self.allowed_bytes

    def allow(self, granted_bytes: int) -> None:
        """The neighbour grants more; an older grant that comes late changes nothing."""
        self.allowed_bytes = max(self.allowed_bytes, granted_bytes)

    def settle(self, spent_bytes: int) -> None:
        """The neighbour says how much it has sent before this; what is missing was lost on the way."""
        if spent_bytes <= self.granted_bytes + CREDIT_BYTES:
            self.taken_bytes = spent_bytes

    def due(self, room_bytes: int) -> bool:
        """Whether the neighbour has used up half of what it was granted, and there is room for it to go on."""
        left_bytes = self.granted_bytes - self.taken_bytes
        if left_bytes > CREDIT_BYTES // 2:
            return False
        return min(CREDIT_BYTES, room_bytes) - left_bytes >= CREDIT_STEP_BYTES

    def grant(self, room_bytes: int) -> None:
        """Let the neighbour go on, as far as there is room here."""
        self.granted_bytes = self.taken_bytes + min(CREDIT_BYTES, room_bytes)
