"""What is let in of what arrives: bundles that are genuine, what of them is its origin's to say, and not yesterday's.

Decides by the integrity tag whether a bundle is its origin's (`tags.py`), before it changes anything but what is
believed of the neighbour that brought it. A neighbour that forwards what it cannot have checked has sent a bad frame;
where it may honestly know other keys than this device, the bundle is dropped and counted.

What an origin may say is the topic contract's to know (`Seals.rule`). What it may not is delivered to nobody and
changes nothing, but its bundle goes on as it came, each receiver refusing the same: its sequence must not become a
hole, the rest of it counts, and its origin might as well have filled it with what it may say.

Replay. Of a stream that is known, positions tell old from new. Where they do not, stamps do, since the tag covers them
and not what is left of the lifetime: what is REPLAYED_MS past its lifetime closes its sequence and is not delivered; a
fresh bundle so old, or of an incarnation before one that is known, is dropped; to a device without memory all that is
stamped so long before it joined is memory and no news.

Assumes that a device can tell the age of a stamp while it is synchronised and has followed no wrong clock; others
judge by positions alone. Without `Seals` nothing is checked here, since stamps could be changed, too; but a neighbour's
own bundles from the future wait in any case, so that a wrong clock does not win over all others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.mesh.bundle import PRIORITIES, is_kept
from broker.mesh.clock import LOGICAL_BITS
from broker.mesh.frame import NEVER, FrameInvalid
from broker.mesh.limits import CLOCK_AHEAD_MAX_MS, CLOCK_HOLD_BACK_MS, MS, REPLAYED_MS
from broker.mesh.tags import covered_by

if TYPE_CHECKING:
    from broker.mesh.bundle import Header, Message
    from broker.mesh.state import State

__all__ = ["Guard"]

_KEPT_LANES: Final = tuple(lane for lane in range(2 * PRIORITIES) if is_kept(lane))


class Guard:
    """Of one device."""

    __slots__ = ("_joined", "_seals", "_state")

    def __init__(self, state: State) -> None:
        self._state = state
        self._seals = state.seals
        self._joined: int | None = None
        """The present when a device without memory met its first neighbour, less REPLAYED_MS."""

    def is_genuine(
        self,
        peer: str,
        kind: int,
        data: bytes,
        header: Header,
        head: bytes,
        body: bytes,
        now_ns: int,
    ) -> bool:
        """Whether a bundle is what its origin made. False: it is dropped, or waits for a certificate.

        Args:
            peer: The neighbour that brought it.
            kind: Of the record that it came in.
            data: That record.
            header: Its header.
            head: The header's bytes.
            body: Its body; empty when it has expired.
            now_ns: Monotonic time.

        Raises:
            FrameInvalid: It is not, and the neighbour must have been able to tell.
        """
        seals, state = self._seals, self._state
        if seals is None:
            return True
        fault = seals.check(header, covered_by(header, head), body)
        if fault is None:
            return True
        if fault.signer:
            state.counters["tags_waiting"] += 1
            state.vouching.park(state.peers[peer], fault.signer, kind, data, now_ns)
            return False
        state.counters["tags_refused"] += 1
        if fault.blamed:
            raise FrameInvalid(f"a bundle of {header.origin}: {fault.reason}")
        state.refused_tags[fault.reason] += 1
        return False

    # Who may say what.

    def admit(
        self, peer: str, header: Header, messages: list[Message], now_ns: int
    ) -> list[Message]:
        """Those messages of a genuine bundle that count; the others are counted, and told.

        Who brought it need not know better, unless it is the origin itself, and proves it.

        Raises:
            FrameInvalid: None of them may count on this lane, and the neighbour must have been able to tell.
        """
        ruling = self._seals.rule(header, messages) if self._seals is not None else None
        if ruling is None:
            return messages
        origin, state = header.origin, self._state
        if ruling.misplaced:
            state.counters["tags_refused"] += 1
            raise FrameInvalid(
                f"a bundle of {origin}: {ruling.misplaced!r} on a lane that needs no signature"
            )
        topic = ruling.refused[0].topic
        self.refuse(origin, topic, len(ruling.refused))
        if origin == peer and self.proves(header.lane):
            state.blame(state.peers[peer], f"it says {topic!r}, which is not its to say", now_ns)
        return ruling.allowed

    def allowed(self, header: Header, messages: list[Message]) -> list[Message]:
        """The same of a bundle that has been let in before."""
        ruling = self._seals.rule(header, messages) if self._seals is not None else None
        return messages if ruling is None else ruling.allowed

    def may_say(self, origin: str, topic: str, payload: bytes, rank: int) -> bool:
        """Whether a retained value may be its origin's; if not, it is counted."""
        if self._seals is None or self._seals.may_say(origin, topic, payload, rank):
            return True
        self.refuse(origin, topic)
        return False

    def refuse(self, origin: str, topic: str, count: int = 1) -> None:
        """Count what does not count."""
        self._state.counters["messages_refused"] += count
        self._state.refusals.note(origin, topic, count)

    def proves(self, lane: int) -> bool:
        """Whether what comes on a lane can be nobody's but its origin's."""
        return self._seals is not None and self._seals.proves(lane)

    # Stamps.

    def holds_back(self, peer: str, clock: int, now_ns: int) -> bool:
        """Whether a neighbour's own bundle lies too far in the future to be taken from it yet; if so, it is counted.

        Only a device that is synchronised, and has not followed a wrong clock before it was, can tell; and only for a
        while, since a clock that nobody mends must not mute a device.
        """
        state = self._state
        link = state.peers[peer]
        if state.clock.ahead_ms(clock, now_ns) <= CLOCK_AHEAD_MAX_MS:
            link.future_ns, link.held_back = None, False
            return False
        if not self._tells_time(now_ns):
            return False
        if link.future_ns is None:
            link.future_ns = now_ns
        link.held_back = now_ns - link.future_ns < CLOCK_HOLD_BACK_MS * MS
        if link.held_back:
            state.counters["held_back"] += 1
        return link.held_back

    def is_over(self, header: Header, remaining_ms: int, now_ns: int) -> bool:
        """Whether a bundle says that it lives, and its stamp that it cannot."""
        if self._seals is None or remaining_ms in (0, NEVER):
            return False
        return self._is_old(header, now_ns)

    def is_stale(self, header: Header, now_ns: int) -> bool:
        """Whether the first fresh bundle of a stream since the boot is from before it.

        A dead device must not seem alive because somebody says again what it once said.
        """
        if self._seals is None:
            return False
        kept = self._state.kept
        known = (kept.get((header.origin, lane)) for lane in _KEPT_LANES)
        if any(stream and stream.position[0] > header.incarnation for stream in known):
            return True
        return self._is_old(header, now_ns)

    def joined(self, now_ns: int) -> None:
        """A device without memory has met its first neighbour."""
        if self._seals is not None and self._joined is None:
            self._joined = self._state.clock.read(now_ns) - (REPLAYED_MS << LOGICAL_BITS)

    def is_memory(self, header: Header) -> bool:
        """Whether a bundle was made so long before this device joined that it is no news."""
        return self._joined is not None and header.clock < self._joined

    def _tells_time(self, now_ns: int) -> bool:
        """Whether this device's clock is right, and has followed no wrong one."""
        clock = self._state.clock
        return clock.synchronised and clock.ahead_ms(clock.last, now_ns) <= CLOCK_AHEAD_MAX_MS

    def _is_old(self, header: Header, now_ns: int) -> bool:
        if not self._tells_time(now_ns):
            return False
        ahead_ms = self._state.clock.ahead_ms(header.clock, now_ns)
        if ahead_ms >= -(header.lifetime_ms + REPLAYED_MS):
            return False
        self._state.counters["replayed"] += 1
        return True
