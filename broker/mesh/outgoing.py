"""The frames that go to one neighbour: what they are filled with, and in which order.

Decides the order: control first, then urgent bundles, what the neighbour asked for, and the rest; every few records a
less urgent one goes before its turn, so none waits for ever. Everything that answers a request is produced only when
there is room in a frame, so a neighbour that asks without reading costs a bounded amount. A record larger than a frame
goes in parts, before anything but control and what is urgent.

Assumes that only what the neighbour may get is queued. Without credit only control goes, and parts of what has begun.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from broker.mesh import frame
from broker.mesh.frame import SERVED
from broker.mesh.limits import (
    CONTROL_BYTES_MAX,
    CONTROL_RECORDS_MAX,
    FRAME_BYTES_MAX,
    RECORDS_MAX,
)
from broker.mesh.parts import split

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.mesh.bundle import Position, Stream
    from broker.mesh.credit import Credit
    from broker.mesh.exchange import Exchange
    from broker.mesh.log import Log, Stored
    from broker.mesh.outbox import Outbox
    from broker.mesh.retained import RetainedMap

__all__ = ["Outgoing"]

_URGENT: Final = (0, 1)
_REST: Final = (2, 3, 4)
_TURNS: Final = 32
"""Of 32 records with payload one looks first for bulk, two for telemetry, four for normal priority. Guess."""
_BEFORE: Final = {0: (4,), 8: (3,), 24: (3,), 4: (2,), 12: (2,), 20: (2,), 28: (2,)}


class Outgoing:
    """What goes to one neighbour.

    Args:
        outbox: Bundles that wait for it.
        serving: Bundles that it asked for, by stream and position.
        exchange: What is to be said to it about retained values.
        credit: How much it takes.
    """

    __slots__ = (
        "_ahead",
        "_control_bytes",
        "_credit",
        "_exchange",
        "_outbox",
        "_part_number",
        "_parts",
        "_serving",
        "_turn",
        "bundles_sent",
        "bytes_sent",
        "control",
        "frames_sent",
    )

    def __init__(
        self,
        outbox: Outbox,
        serving: dict[tuple[Stream, Position], None],
        exchange: Exchange,
        credit: Credit,
    ) -> None:
        self._outbox = outbox
        self._serving = serving
        self._exchange = exchange
        self._credit = credit
        self.control: deque[bytes] = deque()
        """Control records that wait."""
        self._control_bytes = 0
        self._parts: deque[bytes] = deque()
        self._part_number = 0
        self._ahead: bytes | None = None
        """A record that did not fit into the last frame."""
        self._turn = 0
        self.frames_sent = self.bytes_sent = self.bundles_sent = 0

    @property
    def pending(self) -> bool:
        """Whether there is anything to send of what was begun, or queued here."""
        return bool(self.control or self._parts or self._ahead is not None)

    def say(self, record: bytes) -> None:
        """Queue a control record; beyond the bound it is dropped, since the neighbour does not read."""
        if (
            len(self.control) < CONTROL_RECORDS_MAX
            and self._control_bytes + len(record) <= CONTROL_BYTES_MAX
        ):
            self.control.append(record)
            self._control_bytes += len(record)

    def fill(self, budget_bytes: int, log: Log, retained: RetainedMap, now_ns: int) -> list[bytes]:
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
            self.bytes_sent += len(data)
        self.frames_sent += len(frames)
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
                self._parts.extend(split(record, self._part_number))
                continue
            yield record

    def _next_record(self, log: Log, retained: RetainedMap, now_ns: int) -> bytes | None:
        if self.control:
            record = self.control.popleft()
            self._control_bytes -= len(record)
            return record
        if not (self._outbox or self._parts or self._serving or self._exchange.pending):
            return None
        if not self._credit.may_spend:
            return self._parts.popleft() if self._parts else self._exchange.next_record(retained)
        self._turn = (self._turn + 1) % _TURNS
        stored = self._outbox.pop(_BEFORE.get(self._turn, _URGENT), now_ns)
        stored = stored or self._outbox.pop(_URGENT, now_ns)
        if stored is None and self._parts:
            return self._parts.popleft()
        if stored is None and (served := self._next_served(log)) is not None:
            return self._bundle(served, SERVED, now_ns)
        if stored is None and (answer := self._exchange.next_record(retained)) is not None:
            return answer
        stored = stored or self._outbox.pop(_REST, now_ns)
        return None if stored is None else self._bundle(stored, stored.hops, now_ns)

    def _next_served(self, log: Log) -> Stored | None:
        """The next bundle that it asked for and that is still held."""
        while self._serving:
            wanted = next(iter(self._serving))
            del self._serving[wanted]
            stored = log.get(*wanted)
            if stored is not None:
                return stored
        return None

    def _bundle(self, stored: Stored, hops: int, now_ns: int) -> bytes:
        remaining_ms = stored.remaining_ms(now_ns)
        body = stored.body if remaining_ms else b""
        kind = frame.UNICAST if stored.header.to else frame.BUNDLE
        record = frame.encode_bundle(stored.head, body, remaining_ms, hops, kind)
        self.bundles_sent += 1
        self._credit.spent_bytes += len(record)
        return record
