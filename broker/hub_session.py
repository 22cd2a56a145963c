"""What two devices say to each other through a hub, one session at a time; no I/O.

Decides the envelope around each frame and when a session is there. A hub is any MQTT broker in the middle: it drops,
reorders across reconnects, repeats, reads, and does not tell of a peer's death. Against it each envelope carries

    u8 version, u8 kind, u64 sender's id, u64 receiver's id, u64 number, body, 16-byte tag

The tag is HMAC-SHA256 over receiver, sender and all of the above, under a key that the hub does not have. It proves
who wrote, not that nobody reads. The ids are drawn anew for each session by both ends. A session is there when an
envelope came back that names the id that this end last offered: only the peer could write it, and only now. So what
the hub recorded of an older session is of no use to it. The number puts frames in order: one that comes early waits
HOLD_MS for those before it; what does not come by then is lost, and the mesh repairs it by digest. What is older than
the last one taken is a repetition and is dropped.

Keep-alive is the mesh's own ping, twice a second; without it the mesh closes the link after SILENCE_MS, and the driver
closes the session.

Assumes an unpredictable `draw` and monotonic `now_ns`. On failure: whatever cannot be understood is counted and
dropped; nothing here raises.
"""

from __future__ import annotations

import hmac
import struct
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from broker.mesh.limits import MS

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ENVELOPE_BYTES",
    "Came",
    "HubSession",
    "Outcome",
    "announcement",
    "is_announcement",
    "is_envelope",
]

VERSION: Final = 1
OFFER: Final = 1
"""The sender offers its id and says which one it knows of the receiver, 0 for none."""
READY: Final = 2
"""The same, and the sender's end of the session is there: no answer is needed."""
FRAME: Final = 3
BYE: Final = 4
ANNOUNCEMENT: Final = 5
"""To everybody at the hub: the sender is here."""

_HEAD: Final = struct.Struct(">BBQQQ")
_TAG_BYTES: Final = 16
"""Half of SHA-256, as RFC 2104 allows: 2**64 tries for an even chance would take a hub some centuries."""
ENVELOPE_BYTES: Final = _HEAD.size + _TAG_BYTES

OFFER_MS_MIN: Final = 250
"""An offer that nobody answers is repeated after so long, then after twice as long each time,"""
OFFER_MS_MAX: Final = 4_000
"""and at least this often: 60 bytes. A peer that comes back offers by itself, so nobody waits for this."""
LIVED_MS_MIN: Final = 1_000
"""A session that ends sooner counts as a failure, as with a link that is dialled (broker/dialler.py)."""
ANSWER_MS: Final = 100
"""Offers that prove nothing are answered at most this often: a hub may repeat one without end."""
HOLD_MS: Final = 40
"""How long a missing frame may be merely late: what the mesh grants a hole (WANT_DELAY_MS)."""
HELD_FRAMES_MAX: Final = 64
HELD_BYTES_MAX: Final = 512 * 1024
"""Frames that wait for one before them: eight of full size. Beyond it the missing one is given up. Guess."""


class Outcome(NamedTuple):
    """What a call brought about, for the driver to do in this order."""

    down: bool = False
    """The session that was there is over."""
    up: bool = False
    """A session is there now."""
    send: tuple[bytes, ...] = ()
    """Envelopes to write."""
    frames: tuple[bytes, ...] = ()
    """Frames for the mesh, in order."""


class Came(NamedTuple):
    """The parts of an envelope whose tag is right."""

    kind: int
    sender_id: int
    receiver_id: int
    number: int
    body: bytes


def _seal(key: bytes, sender: str, receiver: str, head: bytes, body: bytes) -> bytes:
    return head + body + _tag(key, sender, receiver, head + body)


def _tag(key: bytes, sender: str, receiver: str, text: bytes) -> bytes:
    names = f"{receiver}\0{sender}\0".encode()
    return hmac.digest(key, names + text, "sha256")[:_TAG_BYTES]


def _open(key: bytes, sender: str, receiver: str, data: bytes) -> Came | None:
    if len(data) < ENVELOPE_BYTES:
        return None
    text, tag = data[:-_TAG_BYTES], data[-_TAG_BYTES:]
    if not hmac.compare_digest(tag, _tag(key, sender, receiver, text)):
        return None
    version, kind, sender_id, receiver_id, number = _HEAD.unpack_from(text)
    if version != VERSION:
        return None
    return Came(kind, sender_id, receiver_id, number, text[_HEAD.size :])


def announcement(key: bytes, device: str) -> bytes:
    """What a device says to everybody at a hub."""
    return _seal(key, device, "", _HEAD.pack(VERSION, ANNOUNCEMENT, 0, 0, 0), b"")


def is_announcement(key: bytes, device: str, data: bytes) -> bool:
    """Whether `device`, or whoever else has the key, wrote this announcement. A hub may repeat it."""
    came = _open(key, device, "", data)
    return came is not None and came.kind == ANNOUNCEMENT


def is_envelope(key: bytes, sender: str, receiver: str, data: bytes) -> bool:
    """Whether `sender`, or whoever else has the key, wrote this for `receiver`. A hub may repeat it."""
    return _open(key, sender, receiver, data) is not None


class HubSession:
    """This device's end of the session with one peer at one hub.

    Args:
        device: This device's id.
        peer: The other one's.
        key: What both ends know and the hub does not; empty: the tag only shows damage.
        draw: Gives unpredictable ids, 1 to 2**64 - 1.
        now_ns: Monotonic time.
    """

    def __init__(
        self, device: str, peer: str, key: bytes, draw: Callable[[], int], now_ns: int
    ) -> None:
        self.peer = peer
        self.counters: Counter[str] = Counter()
        self.offers = 0
        """Since the last session, or the last sign of the peer."""
        self._device = device
        self._key = key
        self._draw = draw
        self._offered = draw()
        self._mine = self._theirs = 0
        self._next_offer_ns = now_ns
        self._answer_after_ns = now_ns
        self._began_ns = now_ns
        self._short = 0
        self._sent = 0
        self._taken = 0
        self._held: dict[int, bytes] = {}
        self._held_bytes = 0
        self._hold_until_ns: int | None = None

    @property
    def is_up(self) -> bool:
        """Whether the session is there."""
        return self._mine != 0

    @property
    def rank(self) -> int:
        """The same number at both ends, which no other session has: to choose between two of them."""
        return min(self._mine, self._theirs)

    # What the driver tells.

    def seek(self, now_ns: int) -> None:
        """Offer a session now, and again and again; the link to the peer has just been lost, or it showed itself."""
        if not self.is_up and not self._short:
            self.offers = 0
            self._next_offer_ns = now_ns

    def receive(self, data: bytes, now_ns: int, *, wanted: bool) -> Outcome:
        """Take what came on this peer's topic. `wanted`: there is no other link to the peer."""
        came = _open(self._key, self.peer, self._device, data)
        if came is None:
            self.counters["refused"] += 1
            return Outcome()
        if came.kind in (OFFER, READY):
            return self._offer(came, now_ns, wanted=wanted)
        if not self.is_up or (came.sender_id, came.receiver_id) != (self._theirs, self._mine):
            self.counters["stale"] += 1
            return Outcome()
        if came.kind == FRAME:
            return Outcome(frames=self._take(came, now_ns))
        if came.kind == BYE:
            self._end(now_ns)
            return Outcome(down=True)
        self.counters["refused"] += 1
        return Outcome()

    def close(self, now_ns: int) -> Outcome:
        """End the session and say so."""
        if not self.is_up:
            return Outcome()
        goodbye = self._envelope(BYE, self._mine, self._theirs, b"")
        self._end(now_ns)
        return Outcome(down=True, send=(goodbye,))

    def wrap(self, frames: list[bytes]) -> list[bytes]:
        """Frames of the mesh as envelopes; none while there is no session."""
        if not self.is_up:
            return []
        return [self._envelope(FRAME, self._mine, self._theirs, frame) for frame in frames]

    def next_timer(self, *, wanted: bool) -> int | None:
        """When `handle_timer` wants to be called."""
        if self.is_up:
            return self._hold_until_ns
        return self._next_offer_ns if wanted else None

    def handle_timer(self, now_ns: int, *, wanted: bool) -> Outcome:
        """Do what is due."""
        if self.is_up:
            if self._hold_until_ns is not None and now_ns >= self._hold_until_ns:
                return Outcome(frames=tuple(self._skip(now_ns)))
        elif wanted and now_ns >= self._next_offer_ns:
            wait_ms = min(OFFER_MS_MAX, OFFER_MS_MIN << min(self.offers, 8))
            self._next_offer_ns = now_ns + wait_ms * MS
            self.offers += 1
            return Outcome(send=(self._envelope(OFFER, self._offered, 0, b""),))
        return Outcome()

    # Inside.

    def _offer(self, came: Came, now_ns: int, *, wanted: bool) -> Outcome:
        """The peer names its id, and the one of ours that it knows."""
        if came.sender_id == 0:
            self.counters["refused"] += 1
            return Outcome()
        known = self.is_up and came.sender_id == self._theirs
        if known and came.receiver_id in {0, self._mine}:
            # The answer was lost, or the hub repeats the offer.
            return Outcome(send=self._answer(READY, self._mine, came, now_ns))
        if came.receiver_id == self._offered:
            return self._begin(came, now_ns)
        if came.receiver_id:
            self.counters["stale"] += 1
            return Outcome()
        if not wanted and not self.is_up:
            return Outcome()
        self.offers = 0
        return Outcome(send=self._answer(OFFER, self._offered, came, now_ns))

    def _answer(self, kind: int, mine: int, came: Came, now_ns: int) -> tuple[bytes, ...]:
        if came.kind == READY or now_ns < self._answer_after_ns:
            return ()
        self._answer_after_ns = now_ns + ANSWER_MS * MS
        return (self._envelope(kind, mine, came.sender_id, b""),)

    def _begin(self, came: Came, now_ns: int) -> Outcome:
        """The peer has answered this end's offer, so it is there now, whatever was before."""
        was_up = self.is_up
        self._mine, self._theirs = self._offered, came.sender_id
        self._offered = self._draw()
        self._began_ns = now_ns
        self.offers = 0
        self._sent = self._taken = 0
        self._forget_held()
        answer = self._envelope(READY, self._mine, self._theirs, b"")
        return Outcome(was_up, up=True, send=(answer,) if came.kind == OFFER else ())

    def _end(self, now_ns: int) -> None:
        """Wait before the next offer, the longer the more sessions in a row did not last."""
        self._mine = self._theirs = 0
        self._short = self._short + 1 if now_ns - self._began_ns < LIVED_MS_MIN * MS else 0
        self._next_offer_ns = now_ns + min(OFFER_MS_MAX, OFFER_MS_MIN << min(self._short, 8)) * MS
        self._forget_held()

    def _envelope(self, kind: int, mine: int, theirs: int, body: bytes) -> bytes:
        if kind == FRAME:
            self._sent += 1
        head = _HEAD.pack(VERSION, kind, mine, theirs, self._sent)
        return _seal(self._key, self._device, self.peer, head, body)

    def _take(self, came: Came, now_ns: int) -> tuple[bytes, ...]:
        """Frames that can be handed on, now that this one is there."""
        if came.number <= self._taken or came.number in self._held:
            self.counters["repeated"] += 1
            return ()
        if came.number == self._taken + 1:
            self._taken += 1
            return (came.body, *self._follow(now_ns)) if self._held else (came.body,)
        self.counters["early"] += 1
        self._held[came.number] = came.body
        self._held_bytes += len(came.body)
        if self._hold_until_ns is None:
            self._hold_until_ns = now_ns + HOLD_MS * MS
        if len(self._held) > HELD_FRAMES_MAX or self._held_bytes > HELD_BYTES_MAX:
            return tuple(self._skip(now_ns))
        return ()

    def _follow(self, now_ns: int) -> list[bytes]:
        """Held frames that follow the last one taken."""
        frames: list[bytes] = []
        while (body := self._held.pop(self._taken + 1, None)) is not None:
            self._taken += 1
            self._held_bytes -= len(body)
            frames.append(body)
        if frames:
            self._hold_until_ns = now_ns + HOLD_MS * MS if self._held else None
        return frames

    def _skip(self, now_ns: int) -> list[bytes]:
        """Give up what is missing before the first held frame."""
        first = min(self._held)
        self.counters["lost"] += first - self._taken - 1
        self._taken = first - 1
        return self._follow(now_ns)

    def _forget_held(self) -> None:
        self._held.clear()
        self._held_bytes = 0
        self._hold_until_ns = None
