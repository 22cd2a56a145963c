"""The accepted side of a link: a neighbour's MQTT session as a pipe of frames.

Decides: which session is a link, and how frames look on it. A client named `mesh-{peer}` that
subscribes `mesh/v1/{peer}/...` is the neighbour `peer`; its frames come on
`mesh/v1/{device}/{peer}` and go on `mesh/v1/{peer}/{device}`, always at QoS 0.

Assumes: whoever may connect under such a name is that neighbour; who may is looked at before
(`EmbeddedBroker`). On failure: a subscription that does not fit is refused like any other one under `mesh/`; a closed
pipe takes frames and does nothing.
"""

from typing import Protocol

from broker.embedded.packets import publish_frames, string_field
from broker.embedded.statistics import Counters
from broker.embedded.trie import valid_filter

_CLIENT_PREFIX = "mesh-"


class Carrier(Protocol):
    """The connection under a pipe."""

    def write(self, data: bytes) -> None:
        """Write whole packets."""

    def end(self, reason: str) -> None:
        """Close, letting out what was written."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the kernel has not taken; 0 when closed."""


def claimed_device(client_id: str) -> str | None:
    """Return the device that a client claims to be by its client id; None for an ordinary client."""
    if not client_id.startswith(_CLIENT_PREFIX):
        return None
    return client_id.removeprefix(_CLIENT_PREFIX)


def link_peer(client_id: str, topic_filter: str) -> str | None:
    """Return the neighbour that subscribes to its frames here, or None for anybody else."""
    peer = claimed_device(client_id)
    levels = topic_filter.split("/")
    fits = len(levels) == 4 and levels[:3] == ["mesh", "v1", peer]
    return peer if peer and fits and valid_filter(topic_filter) else None


class LinkPipe:
    """A `Pipe` over an accepted connection."""

    __slots__ = ("_carrier", "_counters", "_field", "incoming_prefix", "peer")

    def __init__(self, carrier: Carrier, device: str, peer: str, counters: Counters) -> None:
        self.peer = peer
        # The body of a link frame starts with this: at QoS 0 the payload follows the topic.
        self.incoming_prefix = string_field(f"mesh/v1/{device}/{peer}")
        self._field = string_field(f"mesh/v1/{peer}/{device}")
        self._carrier = carrier
        self._counters = counters

    @property
    def unsent_bytes(self) -> int:
        """Bytes written and not yet taken by the kernel."""
        return self._carrier.unsent_bytes

    def send(self, frames: list[bytes]) -> None:
        """Write each frame as one QoS 0 PUBLISH, all of them in one write."""
        self._counters.link_frames_out += len(frames)
        self._carrier.write(publish_frames(self._field, frames))

    def close(self) -> None:
        """Close the connection."""
        self._carrier.end("the link was closed from this side")
