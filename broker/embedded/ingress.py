"""The seam between the node and the embedded broker.

Decides: which calls cross it, in both directions, and on which promise: what clients do is the node's
matter (`Ingress`), what neighbours do that of its links (`LinkIngress`). Assumes: one event loop,
every call synchronous and made from it. On failure: `Refused` is the only exception that may
cross; any other one is a defect.
"""

from collections.abc import Iterable
from typing import Protocol


class Pipe(Protocol):
    """Either end of a link to a neighbour, dialled or accepted."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes written and not yet taken by the kernel.

        Send as long as this stays within `Limits.link_unsent_bytes_high`. Whenever it was above
        `Limits.link_unsent_bytes_low`, `Ingress.request_flush` is called once half of that is
        left. 0 on a closed pipe.
        """

    def send(self, frames: list[bytes]) -> None:
        """Write each frame (at most 64 KiB) as one QoS 0 PUBLISH, all of them in one write.

        On a closed pipe nothing happens: `LinkIngress.link_detached` has said so.
        """

    def close(self) -> None:
        """Close the connection; `LinkIngress.link_detached` follows. Harmless when closed."""


class Ingress(Protocol):
    """What the broker asks of the node. The node implements it."""

    def client_publish(self, topic: str, payload: bytes, qos: int, *, retained: bool) -> None:
        """Take what a client published, its will included; that it may was decided before.

        The broker delivers nothing by itself: what local sessions are to receive comes back through
        `EmbeddedBroker.route`. The acknowledgement of QoS 1 and 2 waits for `EmbeddedBroker.flush`.

        Raises:
            Refused: the node is full. A QoS 0 publish is then dropped and counted; at QoS 1 and 2
                the client is not read from for a while and the same publish is tried again.

        """

    def retained_matching(self, topic_filter: str) -> Iterable[tuple[str, bytes, int]]:
        """Topic, payload and QoS of every retained message that a valid filter matches."""

    def has_neighbours(self) -> bool:
        """Whether clients share this device with neighbours, who are to be heard beside them."""

    def request_flush(self) -> None:
        """Schedule one `EmbeddedBroker.flush` at the end of this turn, however often asked."""


class LinkIngress(Protocol):
    """What the broker tells of the links that neighbours have dialled. `Linkage` implements it."""

    def link_attached(self, peer: str, pipe: Pipe) -> None:
        """Take a neighbour's session; its pipe may be sent to at once."""

    def link_frame(self, peer: str, pipe: Pipe, frame: bytes) -> None:
        """Take one frame from that neighbour."""

    def link_detached(self, peer: str, pipe: Pipe) -> None:
        """Let go of a pipe that has closed, whoever closed it; once per attached pipe."""
