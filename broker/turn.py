"""The end of each turn of a node's event loop: whatever came in is flushed together.

Decides the order that the mesh's promises rest on: seal, send, store, deliver, acknowledge (docs/architecture.md, "One
turn"); and when the next turn comes without anything coming in, which the mesh says. Decides nothing of the protocol.

Assumes that it is asked for (`request`) by whoever has changed something. On failure: when the disk cannot be written,
everything goes on but the acknowledging, and the next turn tries again (`commits.py`); what a subscriber raises is
logged, and its message is lost to that subscriber only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from broker.crowding import PAUSE_S, Crowding
from broker.delivered import Delivered, batch_of
from broker.mesh.events import CloseLink, Deliver, Event, Gap, Misbehaved, Undelivered

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.commits import Commits
    from broker.embedded.broker import EmbeddedBroker
    from broker.links import Links
    from broker.local_delivery import LocalDelivery
    from broker.mesh.mesh import Mesh
    from broker.troubles import Troubles

__all__ = ["Turn"]

logger = logging.getLogger(__name__)

UNSENT_HIGH_BYTES: Final = 128 * 1024
"""What a link's socket may hold before the mesh keeps the rest: two frames."""


class Turn:
    """The turns of one node.

    Args:
        device: Its device's id, for the log.
        mesh: What is sent and delivered.
        links: Where to.
        broker: The MQTT sessions.
        local: The way from the mesh to them.
        commits: Where a turn is stored.
        troubles: Where problems are noted.
    """

    def __init__(
        self,
        device: str,
        mesh: Mesh,
        links: Links,
        broker: EmbeddedBroker,
        local: LocalDelivery,
        commits: Commits,
        troubles: Troubles,
    ) -> None:
        self._device = device
        self._mesh = mesh
        self._links = links
        self._broker = broker
        self._local = local
        self._commits = commits
        self._troubles = troubles
        self._subscribers: list[Callable[[list[Delivered]], None]] = []
        self._undelivered_watchers: list[Callable[[Undelivered], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._eased = asyncio.Event()
        self._crowding = Crowding()
        self._events: list[Event] = []
        self.closed = False
        """Whether there are turns no more."""
        self.due = False
        """Whether this turn ends with a flush anyway."""

    def subscribe(self, callback: Callable[[list[Delivered]], None]) -> None:
        """Hand every delivery to a program in this process, in batches and in order."""
        self._subscribers.append(callback)
        self._local.listeners += 1

    def watch_undelivered(self, callback: Callable[[Undelivered], None]) -> None:
        """Tell of own unicast of which nobody knows that it arrived."""
        self._undelivered_watchers.append(callback)

    def request(self) -> None:
        """End this turn with a flush."""
        if not self.due and not self.closed:
            self.due = True
            loop = asyncio.get_running_loop()
            if self._crowding.pauses:
                loop.call_later(PAUSE_S, self._flush_if_due)
            else:
                loop.call_soon(self._flush_if_due)

    async def ease(self) -> None:
        """Return when no neighbour that reads is far behind, or at the end."""
        while self._mesh.pressed and not self.closed:
            await self._eased.wait()

    def close(self) -> None:
        """Have no turn any more unless `flush` is called."""
        self.closed = True
        self._eased.set()
        if self._timer is not None:
            self._timer.cancel()

    def flush(self) -> None:
        """End the turn now."""
        self.due = False
        now_ns = time.monotonic_ns()
        self._mesh.seal(now_ns)
        commits = self._commits
        if self._mesh.stores_first:
            self._route()
            self._commit()
        for peer, pipe in self._links.audible():
            room = UNSENT_HIGH_BYTES - pipe.unsent_bytes
            frames = self._mesh.frames_to_send(peer, room, now_ns)
            if frames:
                pipe.send(frames)
        self._route()
        self._local.turn_ended()
        committed = self._commit()
        messages = self._hand_out()
        self._broker.flush(
            committed=committed,
            pressed=self._mesh.pressed,
            turn=commits.turn,
            durable=commits.durable,
        )
        if self._mesh.pressed and not self.closed:
            self._eased.clear()
        else:
            self._eased.set()
        if not self.closed:
            self._arm(now_ns)
        self._crowding.turn_ended(now_ns, time.monotonic_ns(), messages)

    # Inside.

    def _flush_if_due(self) -> None:
        if self.due:  # a timer's turn may have come before
            self.flush()

    def _route(self) -> None:
        """Give MQTT sessions what was delivered, so that theirs is stored with the position that passed it."""
        while (event := self._mesh.next_event()) is not None:
            self._events.append(event)
            if isinstance(event, Deliver):
                self._local.delivered(event)

    def _commit(self) -> bool:
        committed = self._commits.commit(self._mesh.take_changes(), self._broker.take_changes())
        if not committed:
            self._broker.changes_lost()
        return committed

    def _hand_out(self) -> int:
        """Give programs of this process what happened. Returns how many messages were delivered."""
        events, self._events = self._events, []
        delivered = 0
        for event in events:
            match event:
                case Deliver():
                    delivered += len(event.messages)
                    self._deliver(event)
                case CloseLink():
                    self._troubles.link_closed(event)
                    self._links.drop(event.peer)
                case Gap():
                    self._troubles.gap(event)
                case Undelivered(to, _, _, reason):
                    self._troubles.problem(f"not delivered to {to}: {reason}")
                    for callback in self._undelivered_watchers:
                        callback(event)
                case Misbehaved(peer, reason):
                    self._troubles.problem(f"bad frame from {peer}: {reason}")
        return delivered

    def _deliver(self, event: Deliver) -> None:
        if not self._subscribers:
            return
        batch = batch_of(event)
        for callback in self._subscribers:
            try:
                callback(batch)
            except Exception:
                # The agent's fault must not stop the mesh; its message is lost to that agent only.
                logger.exception("%s: a subscriber failed", self._device)

    def _arm(self, now_ns: int) -> None:
        due_ns = self._mesh.next_timer()
        if self._timer is not None and due_ns >= self._timer_ns:
            return  # it fires early and is set again; cheaper than every turn
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns, delay_s = due_ns, max(0.0, (due_ns - now_ns) / 1e9)
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, now_ns = None, time.monotonic_ns()
        if self._mesh.next_timer() > now_ns:
            self._arm(now_ns)  # what it was set for has been put off: no turn for that
        else:
            self._mesh.handle_timer(now_ns)
            self.flush()
