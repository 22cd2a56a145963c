"""What this device knows of one neighbour: whether it is there and reads, where it stands, what it is to be told.

Decides when it is pinged, and that one that takes nothing for STALL_MS is suspended: its queue is let go, and it
fetches what it missed when it reads again. What frames to it are filled with is for `outgoing.py` to say.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from broker.mesh import frame
from broker.mesh.allowance import Allowance
from broker.mesh.control import Control, Hello, Ping, encode_control
from broker.mesh.credit import Credit
from broker.mesh.exchange import Exchange
from broker.mesh.frame import PONG, RESYNC
from broker.mesh.limits import (
    BAD_FRAMES_FORGET_MS,
    BAD_FRAMES_MAX,
    DIGEST_MS_MAX,
    LOG_BUNDLES_MAX,
    MS,
    PING_MS,
    RTT_MS,
    SILENCE_MS,
    STALL_MS,
    STREAMS_MAX,
    WORK_MAX,
    WORK_MS,
)
from broker.mesh.outbox import Outbox
from broker.mesh.outgoing import Outgoing
from broker.mesh.parts import Assembly
from broker.mesh.progress import Progress

if TYPE_CHECKING:
    from broker.mesh.bundle import Position, Stream

__all__ = ["Peer", "PeerStatistics"]

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
    suspended: bool
    suspensions: int
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
        self.assembly = Assembly()
        self.heard_ns = now_ns
        self.next_ping_ns = now_ns + PING_MS * MS
        self.rtt_ns: int | None = None
        self._measured_ns = now_ns
        """When it last answered a ping."""
        self.bad: deque[int] = deque(maxlen=BAD_FRAMES_MAX)
        self.closing = False
        self.raised = False
        """Whether it has made this device go above an incarnation; once in a session is enough."""
        self.future_ns: int | None = None
        """Since when its own bundles have been coming from the future."""
        self.held_back = False
        """Whether they are not taken from it now."""
        self.frames_in = self.bytes_in = 0
        self.credit = Credit()
        self.suspended = False
        """Whether it has taken nothing for so long that it gets announcements only, when it reads again."""
        self.suspensions = 0
        self._stalled_ns: int | None = None
        # What it is told of, and how it stands in the trees.
        self.announce_due_ns: int | None = None
        self.announces = False
        """Whether it is to be told now, as soon as there is room."""
        self._announcements: dict[Stream, int] = {}
        self.shape_due: dict[str, bool] = {}
        """By origin: True to graft, False to prune."""
        # Where both sides stand.
        self.progress = Progress()
        self.served_ns = now_ns
        """When it last sent something that was asked for."""
        self.digest_due = False
        self.resync_ns: int | None = None
        """When to ask for digests that add up, if none has come by then."""
        # What it asked for.
        self.work = Allowance(WORK_MAX, WORK_MS, now_ns)
        self.serving: dict[tuple[Stream, Position], None] = {}
        self.exchange = Exchange(now_ns)
        self.outgoing = Outgoing(self.outbox, self.serving, self.exchange, self.credit)

    @property
    def established(self) -> bool:
        """Whether both sides have introduced themselves."""
        return self.hello is not None

    @property
    def listens(self) -> bool:
        """Whether it has introduced itself and takes what is sent."""
        return self.hello is not None and not self.suspended

    def pinged(self, sent_ns: int, now_ns: int) -> None:
        """An answer to a ping came back."""
        rtt_ns = now_ns - sent_ns
        if 0 <= rtt_ns < SILENCE_MS * MS:
            self._measured_ns = now_ns
            self.next_ping_ns = max(self.next_ping_ns, sent_ns + 2 * PING_MS * MS)
            past = self.rtt_ns
            self.rtt_ns = (
                rtt_ns if past is None else (past * (_RTT_WEIGHT - 1) + rtt_ns) // _RTT_WEIGHT
            )

    @property
    def ping_due_ns(self) -> int:
        """When it is to be pinged: who speaks is there, so only for the round trip, now and then."""
        if self.rtt_ns is None or self._stalled_ns is not None:  # a ping brings lost credit back
            return self.next_ping_ns
        quiet_ns = self.heard_ns + 2 * PING_MS * MS
        return max(self.next_ping_ns, min(quiet_ns, self._measured_ns + RTT_MS * MS))

    # What it is told.

    def expect_digest(self, now_ns: int) -> None:
        """It is to say where it stands; if nothing comes that adds up, it is asked."""
        self.resync_ns = now_ns + DIGEST_MS_MAX * MS

    def resync(self, now_ns: int) -> None:
        """Ask it to say again where it stands, until something comes that adds up."""
        self.expect_digest(now_ns)
        self.say_record(frame.record(RESYNC, b""))

    def announce(self, stream: Stream, hops: int, due_ns: int) -> None:
        """Tell it by then that something has come in a stream."""
        self._announcements[stream] = hops
        if self.announces:
            return
        if self.announce_due_ns is None or due_ns < self.announce_due_ns:
            self.announce_due_ns = due_ns

    def ring(self, now_ns: int) -> None:
        """Note that announcements have waited long enough, whether or not there is room for them."""
        if self.announce_due_ns is not None and now_ns >= self.announce_due_ns:
            self.announces, self.announce_due_ns = True, None

    def take_announcements(self) -> dict[Stream, int]:
        """The streams to announce, with the hops of their last bundle."""
        taken, self._announcements = self._announcements, {}
        self.announces = False
        return taken

    def serve(self, wanted: list[tuple[Stream, Position]]) -> None:
        """Note what it asked for. One that does not read asks again when it does."""
        if not self.suspended:
            for each in wanted[: max(0, LOG_BUNDLES_MAX - len(self.serving))]:
                self.serving[each] = None

    def reshape(self, origin: str, *, eager: bool) -> None:
        """Have it push an origin's bundles, or only announce them. Who does not read is told of so many at most."""
        if origin in self.shape_due or len(self.shape_due) < STREAMS_MAX:
            self.shape_due[origin] = eager

    # Whether it reads.

    def look(self, budget_bytes: int, now_ns: int) -> bool:
        """Note whether it takes anything now. True when it had not for long and does again."""
        credit = self.credit
        if budget_bytes > 0 and credit.spent_bytes < credit.allowed_bytes:
            self._stalled_ns = None
            if self.suspended:
                self.suspended = False
                self.digest_due = True
                return True
        elif self._stalled_ns is None and (self.outbox or self.serving):
            self._stalled_ns = now_ns
        return False

    @property
    def stall_ends_ns(self) -> int | None:
        """When it is to be suspended, if it still takes nothing by then."""
        if self.suspended or self._stalled_ns is None:
            return None
        return self._stalled_ns + STALL_MS * MS

    def next_ns(self, room_bytes: int) -> int:
        """When something is due with it: ping, silence, stall, announcement, recheck or, at once, more credit."""
        if self.credit.due(room_bytes):
            return 0
        # Compared one by one: this is asked of every neighbour after every turn.
        next_ns = self.ping_due_ns
        silent_ns = self.heard_ns + SILENCE_MS * MS
        if silent_ns < next_ns and not self.closing:
            next_ns = silent_ns
        for due_ns in (
            self.announce_due_ns,
            self.exchange.recheck_ns,
            self.stall_ends_ns,
            self.resync_ns,
        ):
            if due_ns is not None and due_ns < next_ns:
                next_ns = due_ns
        return next_ns

    def suspend(self) -> None:
        """Queue nothing for it until it reads again."""
        self.suspended = True
        self.suspensions += 1
        self.outbox.clear()
        self.serving.clear()

    def count_bad(self, now_ns: int) -> bool:
        """Count a bad frame. True when there were too many within the window."""
        self.bad.append(now_ns)
        return len(self.bad) == BAD_FRAMES_MAX and now_ns - self.bad[0] < BAD_FRAMES_FORGET_MS * MS

    def has_something(self, now_ns: int) -> bool:
        """Whether there is anything to say to it now."""
        return bool(
            self.outgoing.pending
            or len(self.outbox)
            or self.digest_due
            or self.shape_due
            or self.announces
            or (self.announce_due_ns is not None and self.announce_due_ns <= now_ns)
            or self.serving
            or self.exchange.pending
        )

    def say(self, control: Control) -> None:
        """Queue a control message."""
        self.say_record(encode_control(control))

    def say_record(self, record: bytes) -> None:
        """Queue a control record."""
        self.outgoing.say(record)

    def ping(self, now_ns: int) -> None:
        """Ask for an answer."""
        self.next_ping_ns = now_ns + PING_MS * MS
        self.say(Ping(now_ns, self.credit.spent_bytes, self.credit.granted_bytes))

    def pong(self, ping: Ping) -> None:
        """Answer a ping, and take what it says of the link."""
        self.credit.settle(ping.spent_bytes)
        self.credit.allow(ping.granted_bytes)
        self.say_record(frame.record(PONG, ping.stamp.to_bytes(8, "big")))

    def statistics(self) -> PeerStatistics:
        """What was counted since the link came up."""
        return PeerStatistics(
            name=self.name,
            established=self.established,
            rtt_ms=None if self.rtt_ns is None else self.rtt_ns / MS,
            frames_in=self.frames_in,
            frames_out=self.outgoing.frames_sent,
            bytes_in=self.bytes_in,
            bytes_out=self.outgoing.bytes_sent,
            bundles_out=self.outgoing.bundles_sent,
            suspended=self.suspended,
            suspensions=self.suspensions,
            queued_bundles=len(self.outbox),
            queued_bytes=self.outbox.size_bytes,
            dropped=self.outbox.dropped,
            conflated=self.outbox.conflated,
            bad_frames=len(self.bad),
        )
