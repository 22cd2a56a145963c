"""Where a node's links meet its mesh: frames go in, and whoever must know hears of links that come and go.

Decides nothing: which of two links stays is for `links.py` to say, what a frame means for the mesh. Assumes one event
loop, and that the pipes' own ends call it: the embedded broker for links that neighbours dialled, `link.py` for those
that this device dialled, `hub.py` for those through a third party. On failure: what comes from a pipe that is no link,
or not any more, goes unheard.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from broker.links import Links

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from broker.embedded.ingress import Pipe
    from broker.link import Neighbour
    from broker.mesh.mesh import Mesh
    from broker.radio import Radio
    from broker.trust import Trust

__all__ = ["Linkage"]


class Linkage:
    """Of one node.

    Args:
        device: Its id.
        mesh: Its mesh.
        radio: What can be heard.
        random: Jitter.
        trust: Who is believed, where links are TLS; None: plain MQTT.
        request_flush: Ends this turn with a flush.
    """

    def __init__(
        self,
        device: str,
        mesh: Mesh,
        radio: Radio,
        random: Random,
        trust: Trust | None,
        request_flush: Callable[[], None],
    ) -> None:
        self._device = device
        self._mesh = mesh
        self._watchers: list[Callable[[str, bool], None]] = []
        self.links = Links(device, self, radio, random, trust)
        self.request_flush = request_flush
        """There is room in a pipe again."""

    def watch(self, callback: Callable[[str, bool], None]) -> None:
        """Tell of each link that is there now (True) or is not any more, at that moment."""
        self._watchers.append(callback)

    def dial(self, neighbour: Neighbour) -> None:
        """Keep a link to this neighbour up from now on."""
        self.links.dial(neighbour, self)

    # For the ends of pipes.

    def link_attached(self, peer: str, pipe: Pipe) -> None:
        """A neighbour has dialled."""
        self.links.attach(peer, pipe, dialled_by=peer)

    def link_dialled(self, peer: str, pipe: Pipe) -> None:
        """A neighbour has answered."""
        self.links.attach(peer, pipe, dialled_by=self._device)

    def wants_link(self, peer: str) -> bool:
        """Whether there is no link to a device, and one would be taken."""
        return self.links.wants(peer)

    def link_at_hub(self, peer: str, pipe: Pipe, rank: int) -> None:
        """A device was met at a hub."""
        self.links.attach_at_hub(peer, pipe, rank)

    def link_frame(self, peer: str, pipe: Pipe, frame: bytes) -> None:
        """A neighbour sent a frame."""
        if self.links.holds(peer, pipe):
            self._mesh.receive(peer, frame, time.monotonic_ns())
            self.request_flush()

    def link_detached(self, peer: str, pipe: Pipe) -> None:
        """A link's connection is gone."""
        self.links.detached(peer, pipe)

    # For the links.

    def link_is_up(self, peer: str) -> None:
        """There is a link to a neighbour now."""
        self._mesh.link_up(peer, time.monotonic_ns())
        self._tell(peer, up=True)

    def link_is_down(self, peer: str) -> None:
        """There is none any more."""
        self._mesh.link_down(peer, time.monotonic_ns())
        self._tell(peer, up=False)

    def _tell(self, peer: str, *, up: bool) -> None:
        for callback in self._watchers:
            callback(peer, up)
        self.request_flush()
