"""What goes into the world and what it says about it.

Decides: nothing; these are the shapes at the reducer's edge.
Assumes: deliveries as the node hands them over, `rank` of the message header included.
On failure: an `Invalid` says which payload, whose, and why.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple, Protocol

__all__ = ["Applied", "Invalid", "Outcome", "Statistics"]


class Applied(Protocol):
    """A message as the node delivers it."""

    @property
    def origin(self) -> str:
        """The device that published it."""

    @property
    def clock(self) -> int:
        """Hybrid logical clock of the publish."""

    @property
    def rank(self) -> int:
        """What the message header says; a deletion's cannot be read from its empty payload."""

    @property
    def topic(self) -> str:
        """The topic."""

    @property
    def payload(self) -> bytes:
        """The payload; empty on a retained topic: its deletion."""

    @property
    def rebuild(self) -> bool:
        """Memory, not news: feeds the state, but no age and no liveness."""


class Outcome(StrEnum):
    """What became of a message."""

    APPLIED = "applied"
    STALE = "stale"
    """A newer one was there, or the very same."""
    EXPIRED = "expired"
    """An obstacle's event that came after its own expiry."""
    INVALID = "invalid"
    """Its payload is not valid for its topic."""
    IGNORED = "ignored"
    """Not about this world: another site, or a topic that the world does not read."""


class Invalid(NamedTuple):
    """The newest invalid payload of a topic class."""

    topic: str
    origin: str
    reason: str
    """One line."""


class Statistics(NamedTuple):
    """Counts since the start."""

    outcomes: Mapping[str, Mapping[Outcome, int]]
    """By topic class."""
    last_invalid: Mapping[str, Invalid]
    """By topic class."""
    evicted: int
    """Topics pushed out by a bound of `agent.limits`."""
    kept_topics: int
    fresh_topics: int
    obstacles: int
    """Removed ones that are still remembered included."""
