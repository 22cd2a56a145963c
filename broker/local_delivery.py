"""From the mesh to this device's MQTT sessions.

Decides: when. What this device itself publishes at QoS 0 and 1 goes to its sessions at once, as frames go to neighbours
before the commit: until it is acknowledged a publisher says it again anyway, and QoS 1 allows what it says to come
twice. Whatever must be decided or stored first waits for the mesh to deliver it in the flush: retained values (an
older one reaches nobody), QoS 2, and everything of others. Once one own message of a turn waits, those after it wait,
too, so that the order stays.

A client's QoS 0 message that no neighbour and no program of this device could get goes past the mesh: it is fresh, so
nobody asks for it later.

Assumes: the mesh delivers own messages in the flush of the turn in which they were published, under the clock that
their publish returned. On failure: nothing can fail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.mesh.bundle import FLAG_RETAINED

if TYPE_CHECKING:
    from broker.embedded.broker import EmbeddedBroker
    from broker.mesh.events import Deliver

__all__ = ["LocalDelivery"]

_CONTRACT: Final = ("flock/", "mesh/")
"""Topics whose QoS and way the contract decides, whatever a client says."""


class LocalDelivery:
    """The way from one node to its broker's sessions."""

    def __init__(self, device: str, broker: EmbeddedBroker) -> None:
        self._device = device
        self._broker = broker
        self._routed: set[int] = set()  # clocks of own messages that sessions have
        self._waits = False
        self.links = 0
        """Neighbours that are linked now."""
        self.listeners = 0
        """Callbacks of this device's own programs."""

    def link_changed(self, peer: str, up: bool) -> None:  # noqa: ARG002, FBT001 - called for each link
        """A link has come up, or gone."""
        self.links += 1 if up else -1

    def past_the_mesh(self, topic: str, payload: bytes) -> bool:
        """Route a client's QoS 0 publish, if nobody but this device's sessions could get it; False: somebody could."""
        if self.links or self.listeners or self._waits or topic.startswith(_CONTRACT):
            return False
        self._broker.route(topic, payload, 0)
        return True

    def published(
        self, topic: str, payload: bytes, qos: int, clock: int, *, retained: bool, unicast: bool
    ) -> None:
        """Route an own publish that the mesh has taken, if it need not wait for the flush."""
        if self._waits or retained or qos > 1 or unicast:
            self._waits = True
        else:
            self._routed.add(clock)
            self._broker.route(topic, payload, qos)

    def delivered(self, event: Deliver) -> None:
        """Route what the mesh delivers."""
        if event.rebuild or not self._broker.subscribed:
            return
        route = self._broker.route
        routed = self._routed if event.origin == self._device else ()
        for message in event.messages:
            if message.clock not in routed:
                retained = bool(message.flags & FLAG_RETAINED)
                route(message.topic, message.payload, message.qos, retained=retained)

    def turn_ended(self) -> None:
        """Forget the turn: everything that was published in it has been delivered."""
        self._routed.clear()
        self._waits = False
