"""A bridge's outward half: messages of the mesh to a foreign broker.

Decides what goes out, and how. What matches the filters of the configuration does, but nothing that came in through a
bridge of the same name, nothing of the devices' own, and no memory. Kept messages are owed until their PUBACK
(`bridge_window.py`), by each device that is attached, until another one is active and pays; fresh ones are sent by the
active one alone, or dropped and counted while the broker does not read. Where the broker may have missed changes, it is
told all that is retained, deletions included.

Assumes that its owner says which device is active. On failure: what finds no room goes, the oldest first, and is
counted; a lost connection is the owner's matter.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from broker.bridge_window import WINDOW, Owed, Window
from broker.embedded import packets
from broker.packet_connection import UNSENT_HIGH_BYTES
from broker.topic_names import topic_matches

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable

    from broker.bridge_inward import Filter
    from broker.delivered import Delivered
    from broker.mqtt_client import Client

__all__ = ["Outward", "OutwardOwner"]

ROUTES_MAX: Final = 8_192
"""Topics for which is remembered whether they go out; emptied when full."""


class OutwardOwner(Protocol):
    """What the outward half asks of its device; the node."""

    def retained_entries(self, topic_filter: str) -> Iterable[tuple[str, bytes, int]]:
        """Topic, payload and QoS of retained values, deleted ones with an empty payload."""


class Outward:
    """The messages that go to one foreign broker.

    Args:
        filters: What goes out.
        owner: The node.
        via: The bridge's mark in messages.
        stays: Whether a topic never crosses.
        sent: Called with what is being published there, which may come back.
        counters: What is counted.
    """

    def __init__(
        self,
        filters: tuple[Filter, ...],
        owner: OutwardOwner,
        via: int,
        stays: Callable[[str], bool],
        sent: Callable[[str, bytes], None],
        counters: Counter[str],
    ) -> None:
        self._filters = filters
        self._owner = owner
        self._via = via
        self._stays = stays
        self._sent = sent
        self._counters = counters
        self._client: Client | None = None
        self._routes: dict[str, int | None] = {}
        self._sync_due = True
        """Whether the broker may have missed changes of what is retained."""
        self._untold: deque[str] = deque()
        """Topics whose retained values it is yet to be told: at most those that the mesh retains, for each filter."""
        self.window = Window()
        self.pays = True
        """Whether this device owes kept messages; not while another one is active."""

    def open(self, client: Client) -> None:
        """Send from now on: this device is active."""
        self._client = client
        client.write(self.window.again())
        if self._sync_due:
            self._begin_sync()
        self.pump()

    def close(self) -> None:
        """The connection is gone, or another device is active."""
        self._client = None

    def pay(self, *, pays: bool) -> None:
        """Owe kept messages from now on, or leave them to the device that is active."""
        if self.pays and not pays:
            self.window.clear()
            self._untold.clear()
            self._sync_due = False
        self.pays = pays

    def goes_out(self, topic: str) -> bool:
        """Whether a topic crosses to the foreign broker."""
        return self._route(topic) is not None

    def take(self, message: Delivered) -> None:
        """Take what the mesh has delivered, if it goes out; `pump` follows."""
        qos = self._route(message.topic)
        if qos is None or message.rebuild or message.via == self._via:
            return
        if message.qos and qos:
            if self.pays:
                self.owe(message.topic, message.payload, retained=message.retained)
        elif self._client is not None:
            self._send_fresh(self._client, message)

    def owe(self, topic: str, payload: bytes, *, retained: bool) -> None:
        """Send a message out, at QoS 1."""
        dropped = self.window.dropped
        self.window.add(Owed(topic, payload, retained))
        self._sync_due = self._sync_due or self.window.dropped > dropped
        self.pump()

    def acknowledged(self, packet_id: int) -> None:
        """A PUBACK has come."""
        self.window.acknowledged(packet_id)
        self.pump()

    def pump(self) -> None:
        """Send what is owed, as far as the broker takes it."""
        client = self._client
        if client is None or client.unsent_bytes > UNSENT_HIGH_BYTES:
            return
        if self._sync_due and not self._untold and not len(self.window):
            self._begin_sync()
        self._owe_untold()
        sent, data = self.window.send()
        for owed in sent:
            self._sent(owed.topic, owed.payload)
        if data:
            client.write(data)

    def _route(self, topic: str) -> int | None:
        """The QoS at which a topic goes out; None: it does not."""
        if topic in self._routes:
            return self._routes[topic]
        if len(self._routes) >= ROUTES_MAX:
            self._routes.clear()
        matching = [f.qos for f in self._filters if topic_matches(f.topic_filter, topic)]
        qos = None if self._stays(topic) else max(matching, default=None)
        self._routes[topic] = qos
        return qos

    def _send_fresh(self, client: Client, message: Delivered) -> None:
        if client.unsent_bytes > UNSENT_HIGH_BYTES:
            self._counters["out_fresh_dropped"] += 1
            return
        self._sent(message.topic, message.payload)
        client.write(
            packets.encode_publish(message.topic, message.payload, retained=message.retained)
        )

    def _begin_sync(self) -> None:
        """The broker may have missed changes: tell it all that is retained, deletions included."""
        self._sync_due = False
        self._untold = deque(
            topic
            for entry in self._filters
            for topic, _, qos in self._owner.retained_entries(entry.topic_filter)
            if qos and not self._stays(topic)
        )

    def _owe_untold(self) -> None:
        """Owe what is to be told as far as it can be sent now, so that none of it is dropped: as it is by then."""
        while self._untold and len(self.window) < WINDOW:
            for topic, payload, _ in self._owner.retained_entries(self._untold.popleft()):
                self.window.add(Owed(topic, payload, retained=True))
