"""What this device knows of one neighbour, and the frames that go to it.

Decides what a frame is filled with, and in which order: control first, then urgent bundles, what the neighbour asked
for, and the rest. Everything that answers a request is produced only when there is room in a frame, so a neighbour
that asks without reading costs a bounded amount.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from broker.mesh import frame
from broker.mesh.frame import PING, PONG, Assembly, Hello
from broker.mesh.limits import (
    BAD_FRAMES_FORGET_MS,
    BAD_FRAMES_MAX,
    CONTROL_RECORDS_MAX,
    FRAME_BYTES_MAX,
    MS,
    PING_MS,
    RECORDS_MAX,
    SILENCE_MS,
)
from broker.mesh.outbox import Outbox
from broker.mesh.reconcile import Exchange

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.mesh.bundle import Position
    from broker.mesh.log import Log
    from broker.mesh.retained import RetainedMap

__all__ = ["Peer", "PeerStatistics"]

_URGENT: Final = (0, 1)
_REST: Final = (2, 3, 4)
_RTT_WEIGHT: Final = 8
"""Weight of the past in the smoothed round trip, as in TCP (RFC 6298)."""


@dataclass(frozen=True, slots=True)
class PeerStatistics:
    """One neighbour, as `status` shows it."""

    name: str
    established: bool
    rtt_ms: float | None
    frames_in: int
    frames_out: int
    bytes_in: int
    bytes_out: int
    bundles_out: int
    """Bundles sent, copies that the neighbour had already and repairs included."""
    queued_bundles: int
    queued_bytes: int
    dropped: int
    conflated: int
    bad_frames: int


class Peer:
    """One neighbour, from link_up to link_down."""

    def __init__(self, name: str, now_ns: int) -> None:
        self.name = name
        self.hello: Hello | None = None
        self.outbox = Outbox()
        self._control: deque[bytes] = deque()
        self.assembly = Assembly()
        self.heard_ns = now_ns
        self.next_ping_ns = now_ns + PING_MS * MS
        self.rtt_ns: int | None = None
        self.bad: deque[int] = deque(maxlen=BAD_FRAMES_MAX)
        self.closing = False
        self.raised = False
        """Whether it has made this device go above an incarnation; once in a session is enough."""
        self.future_ns: int | None = None
        """Since when its own bundles have been coming from the future."""
        self.held_back = False
        """Whether they are not taken from it now."""
        self.frames_in = self.frames_out = self.bytes_in = self.bytes_out = 0
        self.bundles_out = 0
        # What it said of its streams, and what it was told of ours.
        self.theirs: dict[tuple[str, int], tuple[Position, Position]] = {}
        self.theirs_hash = 0
        self.digests_heard = 0
        self.told_stamp = 0
        self.digest_due = False
        # What it asked for.
        self.serving: dict[tuple[tuple[str, int], Position], None] = {}
        self.exchange = Exchange(now_ns)
        self._parts: deque[bytes] = deque()
        self._part_number = 0
        self._ahead: bytes | None = None

    @property
    def established(self) -> bool:
        """Whether both sides have introduced themselves."""
        return self.hello is not None

    def pinged(self, sent_ns: int, now_ns: int) -> None:
        """An answer to a ping came back."""
        rtt_ns = now_ns - sent_ns
        if 0 <= rtt_ns < SILENCE_MS * MS:
            past = self.rtt_ns
            self.rtt_ns = (
                rtt_ns if past is None else (past * (_RTT_WEIGHT - 1) + rtt_ns) // _RTT_WEIGHT
            )

    def count_bad(self, now_ns: int) -> bool:
        """Count a bad frame. True when there were too many within the window."""
        self.bad.append(now_ns)
        return len(self.bad) == BAD_FRAMES_MAX and now_ns - self.bad[0] < BAD_FRAMES_FORGET_MS * MS

    def frames(
        self, budget_bytes: int, log: Log, retained: RetainedMap, now_ns: int
    ) -> list[bytes]:
        """Frames of together about `budget_bytes`, at least one if there is anything to say."""
        frames: list[bytes] = []
        records = self._records(log, retained, now_ns)
        while budget_bytes > 0:
            filled = self._fill(records)
            if not filled:
                break
            data = frame.encode_frame(filled)
            frames.append(data)
            budget_bytes -= len(data)
            self.bytes_out += len(data)
        self.frames_out += len(frames)
        return frames

    def _fill(self, records: Iterator[bytes]) -> list[bytes]:
        """Records for one frame. The first that does not fit stays ahead for the next."""
        filled: list[bytes] = []
        room = FRAME_BYTES_MAX - frame.HEAD_BYTES
        while len(filled) < RECORDS_MAX:
            following = self._ahead if self._ahead is not None else next(records, None)
            self._ahead = following
            if following is None or len(following) > room:
                break
            self._ahead = None
            filled.append(following)
            room -= len(following)
        return filled

    def _records(self, log: Log, retained: RetainedMap, now_ns: int) -> Iterator[bytes]:
        while True:
            record = self._next_record(log, retained, now_ns)
            if record is None:
                return
            if len(record) > FRAME_BYTES_MAX - frame.HEAD_BYTES:
                self._part_number = (self._part_number + 1) & 0xFFFFFFFF
                self._parts.extend(frame.split(record, self._part_number))
                continue
            yield record

    def _next_record(self, log: Log, retained: RetainedMap, now_ns: int) -> bytes | None:
        if self._control:
            return self._control.popleft()
        if self.hello is None:
            return None
        stored = self.outbox.pop(_URGENT, now_ns)
        if stored is None and self._parts:
            return self._parts.popleft()
        while stored is None and self.serving:
            wanted = next(iter(self.serving))
            del self.serving[wanted]
            stored = log.get(*wanted)
        if stored is None and (answer := self.exchange.next_record(retained)) is not None:
            return answer
        stored = stored or self.outbox.pop(_REST, now_ns)
        if stored is None:
            return None
        self.bundles_out += 1
        remaining_ms = stored.remaining_ms(now_ns)
        return frame.encode_bundle(
            stored.head,
            stored.body if remaining_ms else b"",
            remaining_ms,
            stored.hops,
            frame.UNICAST if stored.header.to else frame.BUNDLE,
        )

    def say(self, control: frame.Control) -> None:
        """Queue a control message."""
        self.say_record(frame.encode_control(control))

    def say_record(self, record: bytes) -> None:
        """Queue a control record; beyond the bound it is dropped, since the neighbour does not read."""
        if len(self._control) < CONTROL_RECORDS_MAX:
            self._control.append(record)

    def ping(self, now_ns: int) -> None:
        """Ask for an answer."""
        self.next_ping_ns = now_ns + PING_MS * MS
        self.say_record(frame.record(PING, now_ns.to_bytes(8, "big")))

    def pong(self, stamp: bytes) -> None:
        """Answer a ping."""
        self.say_record(frame.record(PONG, stamp))

    def statistics(self) -> PeerStatistics:
        """What was counted since the link came up."""
        return PeerStatistics(
            name=self.name,
            established=self.established,
            rtt_ms=None if self.rtt_ns is None else self.rtt_ns / MS,
            frames_in=self.frames_in,
            frames_out=self.frames_out,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            bundles_out=self.bundles_out,
            queued_bundles=len(self.outbox),
            queued_bytes=self.outbox.size_bytes,
            dropped=self.outbox.dropped,
            conflated=self.outbox.conflated,
            bad_frames=len(self.bad),
        )
