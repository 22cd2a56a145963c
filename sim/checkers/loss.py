"""Nothing acknowledged is lost: what one surviving device holds, all hear; what nobody holds is reported, not silent.

Acknowledged means committed to the publisher's disk at the end of its turn. A publisher whose disk lost that again
does not know how far it came and begins anew; who hears its new beginning first passes over the rest, all others must
hear it while a device that runs holds it. A device may do without a message when it reported a gap that covers it, or
had no memory yet as it was published. A gap is legitimate when, at that moment, no device in reach had held the bundle
for long enough to have told of it, or reach had changed within the time in which a device waits before it gives up.
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
TOLD_NS: Final = 2_000_000_000
"""DIGEST_MS_MAX of the mesh: what came to a device later than this its neighbours may not have heard of."""
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
        self._gaps: dict[str, dict[tuple[str, int], list[Gap]]] = {}
        """By device, then by stream."""
        self._said: dict[str, list[Published]] = {}
        """By publisher: all its messages, in order."""
        self._tight = tight
        self._reaches: dict[str, list[str]] = {}
        self._reach_of_ns = -1
        """Who hears whom, since reach last changed at this moment."""
        self._spread: set[int] = set()
        """Serials that another device than their publisher has heard."""

    def published(self, now_ns: int, message: Published) -> None:
        """Note who said it."""
        self._said.setdefault(message.origin, []).append(message)

    def delivered(self, now_ns: int, device: str, event: Deliver) -> None:
        """Note what has left its publisher."""
        if device != event.origin:
            for row in event.messages:
                message = self._ledger.find(event.origin, row)
                if message is not None:
                    self._spread.add(message.serial)

    def lost(self, now_ns: int, device: str, gap: Gap) -> None:
        """Ask whether anybody in reach still held what is given up."""
        gaps = self._gaps.setdefault(device, {})
        gaps.setdefault((gap.origin, gap.lane), []).append(gap)
        if now_ns - self._network.reach_changed_ns < SETTLED_NS:
            return
        reach = self._reach(device)
        for message in self._said.get(gap.origin, []):
            if _covers(gap, message) and not message.retained:
                holder = self._holder(message, reach, now_ns - TOLD_NS)
                known = message.serial in self._delivery.hearing[device].known
                if holder is not None and not known and not message.expired(now_ns):
                    self.violated(
                        now_ns, device, f"{message.serial} given up though {holder} holds it"
                    )

    def _reach(self, device: str) -> list[str]:
        """Who could still help. Where logs have let go of bundles, neighbours alone: nobody fetches for another."""
        network = self._network
        if self._reach_of_ns != network.reach_changed_ns:
            self._reach_of_ns, self._reaches = network.reach_changed_ns, {}
        if device not in self._reaches:
            reach = component(network, device)
            self._reaches |= dict.fromkeys(reach, reach)
        reach = self._reaches[device]
        meshes = (network.devices[name].mesh for name in reach)
        if not any(mesh is not None and mesh._state.log.evicted for mesh in meshes):
            return reach
        return [other for edge in network.up if device in edge for other in edge]

    def missing(self, core: list[str]) -> list[tuple[str, Published]]:
        """What devices of the core still have to hear, because one of them holds it."""
        required = {message.serial: message for message in self._required(self._network.now_ns)}
        lacking: dict[int, list[str]] = {}
        for name in core:
            for serial in required.keys() - self._delivery.hearing[name].known:
                if self._lacks(name, required[serial]):
                    lacking.setdefault(serial, []).append(name)
        return [
            (name, required[serial])
            for serial, names in sorted(lacking.items())
            if self._holder(required[serial], core) is not None
            for name in names
        ]

    def still_missing(
        self, rows: list[tuple[str, Published]], core: list[str]
    ) -> list[tuple[str, Published]]:
        """What of this has not come since, and is still held."""
        now_ns = self._network.now_ns
        held: dict[int, bool] = {}
        left = []
        for name, message in rows:
            if message.expired(now_ns) or not self._lacks(name, message):
                continue
            if message.serial not in held:
                held[message.serial] = self._holder(message, core) is not None
            if held[message.serial]:
                left.append((name, message))
        return left

    def finish(self, core: list[str]) -> None:
        """Judge a core of devices that has been healed, and has had its time."""
        now_ns = self._network.now_ns
        for name, message in self.missing(core):
            holder = self._holder(message, core)
            text = f"{_described(message)} never arrived though {holder} holds it"
            self.violated(now_ns, name, text)
        for message in self._required(now_ns):
            if message.forgotten or self._holder(message, core) is not None:
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
            and not message.to
            and not message.expired(now_ns)
        ]

    def _lacks(self, name: str, message: Published) -> bool:
        hearing = self._delivery.hearing[name]
        return (
            message.serial not in hearing.known
            and message.serial not in hearing.doubtful
            and message.at_ns >= hearing.born_ns
            and not self._reported(name, message)
            and not self._is_past(name, message)
            and not (message.forgotten and self._begun_anew(name, message))
        )

    def _is_past(self, name: str, message: Published) -> bool:
        """Whether the device was a newcomer then, and has begun after the message: it is memory to it, at best."""
        mesh = self._network.devices[name].mesh
        if mesh is None or message.at_ns > self._delivery.hearing[name].born_ns + NEWCOMER_NS:
            return False
        lane, position = message.places[-1]
        return mesh._state.log.held_after.get((message.origin, lane), (0, 0)) >= position

    def _begun_anew(self, name: str, message: Published) -> bool:
        """Whether the device has passed the beginning of a publisher that did not know of the message any more."""
        mesh = self._network.devices[name].mesh
        if mesh is None:
            return False
        lane, (incarnation, _) = message.places[-1]
        stream = mesh._state.kept.get((message.origin, lane))
        return stream is not None and stream.position[0] > incarnation

    def _reported(self, name: str, message: Published) -> bool:
        """Whether the device said that it gave the message up."""
        gaps = self._gaps.get(name, {})
        return any(
            _covers(gap, message)
            for lane, _ in message.places
            for gap in gaps.get((message.origin, lane), [])
        )

    def _heard_later(self, name: str, message: Published) -> bool:
        """Whether the device heard something that its publisher said after it in the same lane."""
        known = self._delivery.hearing[name].known
        return any(
            other.serial in known
            and other.serial > message.serial
            and other.priority == message.priority
            and other.acknowledged
            and not other.retained  # its value may have come by reconciliation, ahead of its bundle
            for other in self._said[message.origin]
        )

    def _holder(
        self, message: Published, among: list[str], upto_ns: int | None = None
    ) -> str | None:
        """One of these devices that has heard the message, by `upto_ns`, and not let go of it."""
        for name in among:
            mesh = self._network.devices[name].mesh
            heard_ns = self._delivery.hearing[name].this_boot.get(message.serial)
            if mesh is None or heard_ns is None or (upto_ns is not None and heard_ns > upto_ns):
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
