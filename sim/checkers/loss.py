"""Nothing acknowledged is lost: what one surviving device holds, all hear; what nobody holds is reported, not silent.

Acknowledged means committed to the publisher's disk at the end of its turn, and not lost again with that disk: a
publisher that does not know how far it came begins anew, and who hears its new beginning first passes over the rest.
A device may do without a message when it reported a gap that covers it, or had no memory yet as it was published. A
gap is legitimate when, at that moment, no device in reach held the bundle, or reach had changed within the time in
which a device waits before it gives up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sim.checkers.checker import Checker
from sim.reach import component

if TYPE_CHECKING:
    from broker.mesh.events import Deliver, Gap
    from sim.checkers.delivery import Delivery
    from sim.ledger import Ledger, Published
    from sim.network import Network

__all__ = ["Loss"]

SETTLED_NS: Final = 5_000_000_000
"""GAP_WAIT_MS of the mesh: how long a hole is searched for at the least."""
NEWCOMER_NS: Final = 4_000_000_000
"""JOIN_WAIT_MS of the mesh and a digest: what a newcomer's neighbours passed before is its past, not a loss."""


class Loss(Checker):
    """Exactly once: the half that says at least once."""

    promise = "nothing acknowledged is lost"

    def __init__(
        self, ledger: Ledger, delivery: Delivery, network: Network, *, tight: bool
    ) -> None:
        super().__init__()
        self._ledger = ledger
        self._delivery = delivery
        self._network = network
        self._gaps: dict[str, list[Gap]] = {}
        self._tight = tight
        self._spread: set[int] = set()
        """Serials that another device than their publisher has heard."""

    def delivered(self, now_ns: int, device: str, event: Deliver) -> None:
        """Note what has left its publisher."""
        if device != event.origin:
            for row in event.messages:
                message = self._ledger.find(event.origin, row)
                if message is not None:
                    self._spread.add(message.serial)

    def lost(self, now_ns: int, device: str, gap: Gap) -> None:
        """Ask whether anybody in reach still held what is given up."""
        self._gaps.setdefault(device, []).append(gap)
        if now_ns - self._network.reach_changed_ns < SETTLED_NS:
            return
        reach = self._reach(device)
        for message in self._ledger.messages:
            if message.origin == gap.origin and _covers(gap, message) and not message.retained:
                holder = self._holder(message, reach)
                known = message.serial in self._delivery.hearing[device].known
                if holder is not None and not known and not message.expired(now_ns):
                    self.violated(
                        now_ns, device, f"{message.serial} given up though {holder} holds it"
                    )

    def _reach(self, device: str) -> list[str]:
        """Who could still help. Where logs have let go of bundles, neighbours alone: nobody fetches for another."""
        reach = component(self._network, device)
        meshes = [self._network.devices[name].mesh for name in reach]
        if not any(mesh is not None and mesh._state.log.evicted for mesh in meshes):
            return reach
        return [other for edge in self._network.up if device in edge for other in edge]

    def missing(self, core: list[str]) -> list[tuple[str, Published]]:
        """What devices of the core still have to hear, because one of them holds it."""
        now_ns = self._network.now_ns
        rows = []
        for message in self._required(now_ns):
            lacking = [name for name in core if self._lacks(name, message)]
            if lacking and self._holder(message, core) is not None:
                rows += [(name, message) for name in lacking]
        return rows

    def finish(self, core: list[str]) -> None:
        """Judge a core of devices that has been healed, and has had its time."""
        now_ns = self._network.now_ns
        for name, message in self.missing(core):
            holder = self._holder(message, core)
            text = f"{_described(message)} never arrived though {holder} holds it"
            self.violated(now_ns, name, text)
        for message in self._required(now_ns):
            if self._holder(message, core) is not None:
                continue
            if message.serial not in self._spread and message.origin in core and not self._tight:
                text = f"{_described(message)} is on no disk, and nobody else ever heard it"
                self.violated(now_ns, message.origin, text)
            for name in core:
                settled_ns = self._delivery.hearing[name].born_ns + NEWCOMER_NS
                if (
                    message.at_ns > settled_ns
                    and self._lacks(name, message)
                    and self._heard_later(name, message)
                ):
                    text = f"{_described(message)} was passed over without a word"
                    self.violated(now_ns, name, text)

    def _required(self, now_ns: int) -> list[Published]:
        return [
            message
            for message in self._ledger.messages
            if message.acknowledged
            and not message.retained
            and not message.forgotten
            and not message.to
            and not message.expired(now_ns)
        ]

    def _lacks(self, name: str, message: Published) -> bool:
        hearing = self._delivery.hearing[name]
        return (
            message.serial not in hearing.known
            and message.serial not in hearing.doubtful
            and message.at_ns >= hearing.born_ns
            and not any(_covers(gap, message) for gap in self._gaps.get(name, []))
        )

    def _heard_later(self, name: str, message: Published) -> bool:
        """Whether the device heard something that its publisher said after it in the same lane."""
        known = self._delivery.hearing[name].known
        return any(
            other.serial in known
            and other.origin == message.origin
            and other.priority == message.priority
            and other.acknowledged
            and not other.retained  # its value may have come by reconciliation, ahead of its bundle
            for other in self._ledger.messages[message.serial :]
        )

    def _holder(self, message: Published, among: list[str]) -> str | None:
        for name in among:
            mesh = self._network.devices[name].mesh
            if mesh is None or message.serial not in self._delivery.hearing[name].this_boot:
                continue
            log = mesh._state.log
            stream = (message.origin, message.places[-1][0])
            floor = log.held_after.get(stream, (0, 0))
            if not log.evicted or any(place > floor for _, place in message.places):
                return name
        return None


def _covers(gap: Gap, message: Published) -> bool:
    return gap.origin == message.origin and any(
        lane == gap.lane and gap.after < position <= gap.upto for lane, position in message.places
    )


def _described(message: Published) -> str:
    at_ms = message.at_ns // 1_000_000
    return f"{message.serial} of {message.origin} (at {at_ms} ms, {message.places})"
