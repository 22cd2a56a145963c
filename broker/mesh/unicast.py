"""Unicast: to one device along the way on which its bundles come, acknowledged by it, sent again until the deadline.

Theory of operation. The origin numbers its bundles per destination and hands each to one neighbour. A relay hands it
on and remembers, bounded, where it came from and went; it never keeps the bundle. The destination tells copies by
number, delivers each message once and acknowledges every copy. Order is not promised: a bundle that took the longer
way comes later. A destination that restarts forgets the numbers, so what was sent again to it then may be delivered a
second time.

A relay without a way, behind the hop limit, or whose only way is back, says UNREACHABLE along the way that the bundle
came. Everyone on it drops the way that failed; a relay that knows another one says so (`retry`), and the origin sends
again. The origin tries its own other neighbours too, and begins again with each timer until the deadline. What is not
acknowledged by then ends as `Undelivered`: an answer, not a silence.

Assumes that relays and neighbours may lie: whatever they claim costs bounded work and at most a bundle's delay or
loss. The origin is told of a loss, unless the lie was a forged acknowledgement: nothing shows that yet. A device that
has published nothing and is no neighbour has no way to it. Where a way died and no other is known, the next bundle of
the destination shows one, a heartbeat later at most, and what waited for it leaves at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from broker.mesh import frame
from broker.mesh.bundle import INTEGER_MAX, BundleInvalid, decode_body, is_device
from broker.mesh.control import Ack, Unreachable, decode_control
from broker.mesh.events import Undelivered
from broker.mesh.frame import FrameInvalid
from broker.mesh.limits import (
    MS,
    UNICAST_HOPS_MAX,
    UNICAST_LIFETIME_MAX_MS,
    UNICAST_PASSING_MAX,
    UNICAST_RETRIES_MAX,
    UNICAST_SENDERS_MAX,
)
from broker.mesh.log import Stored
from broker.mesh.window import Window

if TYPE_CHECKING:
    from broker.mesh.flights import Flight
    from broker.mesh.guard import Guard
    from broker.mesh.peer import Peer
    from broker.mesh.state import State

__all__ = ["Passing", "Unicast", "check_unicast"]

Key = tuple[str, int, str, int]
"""A bundle as `Header.flight` tells it: origin, incarnation, destination, number."""


def check_unicast(to: str, lifetime_ms: int, *, retained: bool) -> None:
    """Raise ValueError where a publish to one device is outside its limits."""
    if not 0 < lifetime_ms <= UNICAST_LIFETIME_MAX_MS:
        raise ValueError(f"unicast needs a deadline of 1 to {UNICAST_LIFETIME_MAX_MS} ms")
    if retained:
        raise ValueError("unicast cannot be retained; nobody could ask for it later")
    if not is_device(to):
        raise ValueError(f"no device is called {to!r}")


class Passing(NamedTuple):
    """A unicast bundle on its way through this device."""

    source: str
    """The neighbour that it came from, where answers go."""
    next_hop: str
    hops: int
    expires_ns: int


class Unicast:
    """Bundles for one device: own ones out, others' through, and those for this device in."""

    __slots__ = ("_guard", "_state")

    def __init__(self, state: State, guard: Guard) -> None:
        self._state = state
        self._guard = guard

    # The origin.

    def seal(self, now_ns: int) -> None:
        """End the turn: hand to neighbours what was published, and what had no way until now."""
        for flight in self._state.flights.seal():
            self._dispatch(flight, now_ns)
        for device in self._state.routes.take_found():
            for flight in self._state.flights.stranded(device):
                flight.tried.clear()
                self._dispatch(flight, now_ns)

    def due(self, now_ns: int) -> None:
        """Send again what was not answered; end what is past its deadline."""
        for flight in self._state.flights.due(now_ns):
            if now_ns >= flight.expires_ns:
                self._fail(flight, "unreachable" if flight.refused else "unanswered")
                continue
            flight.silences += 1
            if flight.peer:
                flight.refused = False
                flight.tried.add(flight.peer)
            if flight.tried.issuperset(self._candidates(flight)):
                flight.tried.clear()
            self._dispatch(flight, now_ns)

    def lost_by(self, peer: str, now_ns: int) -> None:
        """A neighbour is gone, or its queue is let go because it does not read: find other ways for what it had."""
        state = self._state
        for flight in state.flights.given_to(peer):
            self._dispatch(flight, now_ns)
        stranded = [key for key, passing in state.passing.items() if passing.next_hop == peer]
        for key in stranded:
            passing = state.passing.pop(key)
            if now_ns < passing.expires_ns:
                self._turn_back(passing.source, key, retry=True)

    def _candidates(self, flight: Flight) -> list[str]:
        """Neighbours to try: those known to lead there, then all others, since one of them may know."""
        peers = self._state.peers
        others = sorted(name for name, peer in peers.items() if peer.listens)
        return list(dict.fromkeys((*self._state.routes.ways(flight.to), *others)))

    def _dispatch(self, flight: Flight, now_ns: int) -> None:
        state = self._state
        flight.peer = next((n for n in self._candidates(flight) if n not in flight.tried), "")
        if flight.peer:
            stored = flight.encode(state.device, state.origin.incarnation, state.seals)
            state.peers[flight.peer].outbox.add(stored)
            state.counters["unicast_resent" if flight.sends else "unicast_sent"] += 1
            flight.sends += 1
            flight.sent_ns = now_ns
        else:
            flight.refused = True
        state.flights.wait(flight, now_ns)

    def _fail(self, flight: Flight, reason: str) -> None:
        state = self._state
        state.flights.end(flight)
        state.counters[f"unicast_{reason}"] += 1
        for message in flight.messages:
            state.events.append(Undelivered(flight.to, message.topic, message.clock, reason))

    # What neighbours send.

    def hear(self, link: Peer, kind: int, body: bytes, now_ns: int) -> None:
        """Take a UNICAST, ACK or UNREACHABLE record.

        Raises:
            FrameInvalid: It is not what it claims.
        """
        if kind == frame.UNICAST:
            self._bundle(link, body, now_ns)
            return
        control = decode_control(kind, body)
        assert isinstance(control, Ack | Unreachable)
        key = (control.origin, control.incarnation, control.to, control.number)
        for name in (control.origin, control.to):
            if not is_device(name):
                raise FrameInvalid("an answer about an impossible device")
        if not 0 < control.number < INTEGER_MAX or control.incarnation < 1:
            raise FrameInvalid("an answer about an impossible bundle")
        if isinstance(control, Ack):
            self._ack(control, key, now_ns)
        else:
            self._unreachable(link.name, key, now_ns, retry=control.retry)

    def _bundle(self, link: Peer, data: bytes, now_ns: int) -> None:
        state = self._state
        header, head, body, remaining_ms, hops = frame.decode_bundle(data, frame.UNICAST)
        if not 0 < header.lifetime_ms <= UNICAST_LIFETIME_MAX_MS:
            raise FrameInvalid("unicast without a deadline, or one too far away")
        guard = self._guard
        if header.origin == link.name and guard.holds_back(link.name, header.clock, now_ns):
            return
        if not guard.is_genuine(link.name, frame.UNICAST, data, header, head, body, now_ns):
            return
        if guard.is_over(header, remaining_ms, now_ns):
            remaining_ms, body = 0, b""
        stored = Stored(header, head, body, now_ns + remaining_ms * MS, hops + 1)
        if header.origin == state.device:
            state.counters["unicast_looped"] += 1
            self._turn_back(link.name, header.flight, retry=False)
        elif header.to == state.device:
            self._arrive(link, stored, now_ns)
        else:
            self._relay(link.name, stored, now_ns)

    # The destination.

    def _arrive(self, link: Peer, stored: Stored, now_ns: int) -> None:
        state, header = self._state, stored.header
        window = self._window(header.origin, header.incarnation)
        number = header.sequence
        if not window.reaches(number):
            # An honest origin has nothing under way from so long ago; to acknowledge it could hide a loss from one
            # whose number was forged.
            state.counters["unicast_stale"] += 1
            return
        known = window.has(number)
        expired = not known and not stored.body
        if known:
            state.counters["unicast_duplicates"] += 1
        elif expired:
            state.counters["expired"] += header.messages
        else:
            self._deliver(link.name, stored, now_ns)
            window.add(number)
        state.routes.copy(header.origin, link.name)
        link.say(Ack(*header.flight, expired, 1))

    def _deliver(self, peer: str, stored: Stored, now_ns: int) -> None:
        state, header = self._state, stored.header
        try:
            messages = decode_body(header, stored.body)
        except BundleInvalid as error:
            raise FrameInvalid(str(error)) from None
        if any(message.retained for message in messages):
            raise FrameInvalid("unicast that claims to be retained")
        messages = self._guard.admit(peer, header, messages, now_ns)
        state.clock.observe(header.clock, now_ns)
        state.deliver(header.origin, header.incarnation, messages)

    def _window(self, origin: str, incarnation: int) -> Window:
        windows = self._state.windows
        window = windows.get((origin, incarnation))
        if window is None:
            window = windows[origin, incarnation] = Window()
            if len(windows) > UNICAST_SENDERS_MAX:
                windows.popitem(last=False)
        windows.move_to_end((origin, incarnation))
        return window

    # The relay.

    def _relay(self, source: str, stored: Stored, now_ns: int) -> None:
        state, header = self._state, stored.header
        ways = state.routes.ways(header.to, but=source)
        if not ways or stored.hops > UNICAST_HOPS_MAX:
            self._turn_back(source, header.flight, retry=False)
            return
        key = header.flight
        before = state.passing.pop(key, None)
        if before is not None and before.hops < stored.hops and before.source in state.peers:
            source = before.source  # it went round a loop; answers go back to where it entered
        expires_ns = now_ns if stored.expires_ns is None else stored.expires_ns
        state.passing[key] = Passing(source, ways[0], stored.hops, expires_ns)
        if len(state.passing) > UNICAST_PASSING_MAX:
            state.passing.popitem(last=False)
        state.routes.copy(header.origin, source)
        state.counters["unicast_relayed"] += 1
        state.peers[ways[0]].outbox.add(stored)

    def _turn_back(self, source: str, key: Key, *, retry: bool) -> None:
        """Tell where a bundle came from that it does not go on here."""
        peer = self._state.peers.get(source)
        if peer is not None:
            self._state.counters["unicast_turned_back"] += 1
            ways = self._state.routes.ways(key[2], but=source) if retry else []
            peer.say(Unreachable(*key, retry=bool(ways)))

    # Answers.

    def _ack(self, ack: Ack, key: Key, now_ns: int) -> None:
        state = self._state
        if ack.origin != state.device:
            self._pass_back(ack, key)
            return
        flight = self._own(key)
        if flight is None:
            return  # the answer to a copy
        if ack.expired:
            self._fail(flight, "expired")
            return
        state.counters["unicast_acked"] += 1
        state.flights.answered(flight, now_ns)

    def _pass_back(self, ack: Ack, key: Key) -> None:
        """The way that the bundle came, else a way to its origin; once, so that no two relays play ball with copies."""
        state = self._state
        passing = state.passing.pop(key, None)
        if passing is None or not 0 < ack.hops < UNICAST_HOPS_MAX:
            state.counters["unicast_acks_dropped"] += 1
            return
        for name in (passing.source, *state.routes.ways(ack.origin)):
            if name in state.peers:
                state.peers[name].say(Ack(*key, ack.expired, ack.hops + 1))
                return
        state.counters["unicast_acks_dropped"] += 1

    def _unreachable(self, peer: str, key: Key, now_ns: int, *, retry: bool) -> None:
        state = self._state
        if not retry:
            state.routes.drop(key[2], peer)
        if key[0] == state.device:
            self._refused(peer, key, now_ns, retry=retry)
            return
        passing = state.passing.get(key)
        if passing is not None and passing.next_hop == peer:
            del state.passing[key]
            self._turn_back(passing.source, key, retry=True)

    def _refused(self, peer: str, key: Key, now_ns: int, *, retry: bool) -> None:
        """A neighbour gives an own bundle back: it goes there again, or another way, or waits for its timer."""
        flight = self._own(key)
        if flight is None or flight.peer != peer:
            return
        if retry and flight.retries < UNICAST_RETRIES_MAX:
            flight.retries += 1
        else:
            flight.tried.add(peer)
            flight.refused = True
        self._dispatch(flight, now_ns)

    def _own(self, key: Key) -> Flight | None:
        """The flight that an answer is about."""
        flight = self._state.flights.get(key[2], key[3])
        if flight is None or flight.stored is None or flight.stored.header.flight != key:
            return None
        return flight
