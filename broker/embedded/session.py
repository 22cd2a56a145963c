"""What the broker owes one client: a plain class without sockets, kept between connections.

Decides: what is written next, what waits, what is dropped.

- QoS 0 waits only while the socket does not drain, in a queue of limited bytes that sheds its
  oldest.
- QoS 1 and 2 go out through a window of in-flight messages, and behind it stands a queue. While
  that is over half full the client lags, and local publishers wait for their acknowledgements
  (`Writes.lagging`). A client that lets it fill, or lags for too long, is a slow consumer:
  counted, logged and cut off; MQTT 3.1.1 has no other way to tell it. For an absent client the
  oldest message goes.
- Retained messages for a new subscription go first, as fast as window and socket allow. Live
  messages wait behind them, so that nobody gets the past after the present.
- Answers to what the client sent go before messages, when `answers.py` lets them.
- A session that is persistent notes each change in the journal.

Assumes: `output` is written to from one event loop, and `flush` follows every change. On failure:
none of the methods raises; a client that breaks the rules of acknowledgement is answered as the
standard says or ignored.

Why not amqtt's `Session`: building its state machine takes 175 us, its queues have no bound, and
what was queued offline arrives with RETAIN set.
"""

import logging
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from broker.embedded.allowed import Allowed
from broker.embedded.answers import Answers
from broker.embedded.limits import Limits
from broker.embedded.packets import PUBLISH, PUBREC, PUBREL, encode_ack, publish_frame
from broker.embedded.session_journal import Change, SessionJournal, StoredSession
from broker.embedded.statistics import Counters
from broker.embedded.window import Window

logger = logging.getLogger(__name__)

# Python's own bytes per queued message: objects and slots. A bound on bytes then bounds empty
# messages too.
OVERHEAD_BYTES = 100

Message = tuple[int, bytes, bytes]  # flags of the PUBLISH, topic field, payload
Waiting = tuple[int, bytes, bytes, int]  # the same, and its serial in the journal, or 0


class Output(Protocol):
    """The connection that a session writes to."""

    def write(self, data: bytes) -> None:
        """Write whole packets."""

    def drop(self, reason: str) -> None:
        """End the connection at once."""

    def lags(self, *, now: bool) -> None:
        """Learn that the session's queue is filling, or that it has caught up or gone."""

    def taken_over(self) -> None:
        """Leave the session to a new connection of the same client, and end."""


class Session:
    """One client's state. `dirty` and `hasty` belong to `Writes`, which writes what it has marked."""

    def __init__(
        self, client_id: str, limits: Limits, counters: Counters, journal: SessionJournal | None
    ) -> None:
        self.client_id = client_id
        self.clean = journal is None
        self.replaying = False  # retained messages were on their way when the device went down
        self.bridge = False  # whether the client is a broker that bridges: see `Exchange.route`
        self.allowed = Allowed()  # who the client is
        self.writable: set[str] = set()  # topics that the client was found to be free to write
        self.dirty = False
        self.forgotten = False  # it ended, and no message is its any more
        self.hasty = False  # whether `Writes` has it among those to write before the flush
        self.output: Output | None = None
        self.subscriptions: dict[str, int] = {}
        self.levels = 0  # of these filters
        self.answers = Answers(client_id, journal)
        self._limits = limits
        self._counters = counters
        self._journal = journal
        self._lags = False
        self._ready: list[bytes] = []  # PUBLISH for the next write
        self._ready_bytes = 0
        self._fresh: deque[bytes] = deque()  # QoS 0 that waits for the socket
        self._fresh_bytes = 0
        self._replay: deque[Message] = deque()
        self._queue: deque[Waiting] = deque()
        self._queue_bytes = 0
        self._window = Window(limits, client_id, journal)
        self._congested = False
        self._blocked = True  # QoS 0 may not go straight to _ready

    # -- the connection ------------------------------------------------------------------------

    def attach(self, output: Output) -> None:
        """Take a connection, and put what was in flight on it again."""
        self.output = output
        self._congested = False
        # Left by packets that were handled after the last connection was cut off.
        self.answers.forget()
        self._ready.clear()
        self._ready_bytes = 0
        for packet in self._window.again():
            (self._ready if packet[0] >> 4 == PUBLISH else self.answers.ready).append(packet)
        self._blocked = False

    def detach(self) -> None:
        """Lose the connection: QoS 0 and answers go with it, QoS 1 and 2 stay."""
        self._lag(now=False)
        self.output = None
        self._blocked = True
        self.answers.forget()
        self._ready.clear()
        self._ready_bytes = 0
        self._fresh.clear()
        self._fresh_bytes = 0
        for flags, topic_field, payload in reversed(self._replay):
            if flags & 0x06:
                self._wait(flags, topic_field, payload, front=True)
        self._replay.clear()
        self._replays(now=False)
        self._trim()

    def congested(self, *, now: bool) -> None:
        """Learn that the socket has filled, or that it has drained."""
        self._congested = now
        self._blocked = self._blocked or now

    @property
    def more_waits(self) -> bool:
        """Whether an acknowledgement may let a waiting message out."""
        return bool(self._queue or self._replay)

    # -- what the client is to get -------------------------------------------------------------

    def deliver_fresh(self, frame: bytes) -> None:
        """Deliver an encoded QoS 0 PUBLISH, which may be shared with other sessions."""
        if not self._blocked:
            self._ready.append(frame)
            self._ready_bytes += len(frame)
            if self._ready_bytes > self._limits.fresh_queue_bytes_max:
                self._spill()
        elif self.output is not None:
            self._wait_fresh(frame)

    def deliver_kept(self, flags: int, topic_field: bytes, payload: bytes) -> None:
        """Deliver at QoS 1 or 2, as the flags say."""
        if (
            self.output is not None
            and not self._queue
            and not self._replay
            and self._window.has_room
        ):
            self._ready.append(self._window.send(flags, topic_field, payload))
            return
        self._wait(flags, topic_field, payload)
        if self._queue_full():
            if self.output is None:
                self._trim()
            else:
                self.cut_off(f"{len(self._queue)} messages wait")
        elif not self._lags and self._fill() > 1 / 2:
            self._lag(now=True)

    def replay(self, messages: Iterable[Message]) -> None:
        """Deliver retained messages ahead of everything that comes from now on."""
        self._replay.extend(messages)
        self._replays(now=bool(self._replay))
        self._blocked = self._blocked or bool(self._replay)
        if len(self._replay) > self._limits.replay_messages_max:
            self.cut_off(f"{len(self._replay)} retained messages wait")

    # -- what the client says ------------------------------------------------------------------

    def client_acknowledges(self, packet_type: int, packet_id: int) -> None:
        """Take a PUBACK, PUBREC or PUBCOMP for a message that was delivered."""
        if packet_type == PUBREC:
            # Answered for unknown ids too: after a restart this is how the client gets rid of one.
            self.answers.reply_stored(encode_ack(PUBREL, packet_id))
        self._window.acknowledge(packet_type, packet_id)

    # -- writing -------------------------------------------------------------------------------

    def flush(
        self,
        *,
        committed: bool,
        acknowledge: bool,
        turn: int = 0,
        durable: int = 0,
        messages: bool = True,
    ) -> None:
        """Write what is due, answers first, then messages, in one write; see `writes_more`.

        A persistent session writes what `prepare` has chosen. Without `messages` they stay for a later turn.

        Without `acknowledge`, PUBACK and PUBREC stay for a later flush (`Answers.owed`), and those of
        turns after `durable` until it has come to them (`Answers.await_disk`).

        Without a commit, what waits for it is forgotten, so that the client's repetition counts
        as new, and the client is cut off.
        """
        answers = self.answers
        if not committed and answers.lose():
            if self.output is not None:
                self._counters.not_committed += 1
                self.output.drop("what it published could not be kept")
                self.detach()
            return
        if answers.wait:
            answers.turn_ended(turn, durable, acknowledge=acknowledge)
        if messages:
            if self._journal is None and self.output is not None and (self._queue or self._blocked):
                self._pump()
            self._write()
        elif answers.ready and self.output is not None:
            data = b"".join(answers.ready)
            answers.ready.clear()
            self.output.write(data)

    def hasten(self) -> bool:
        """Write messages that are ready, behind answers that are, unless the session is stored first.

        Returns whether something is left for the flush.
        """
        self.hasty = False
        if self._journal is not None:
            return True
        if self._ready:
            self._write()
        return self.writes_more

    def _write(self) -> None:
        """Write all that is ready."""
        answers, output = self.answers.ready, self.output
        if output is None or not (answers or self._ready):
            return
        self._counters.messages_out += len(self._ready)
        data = b"".join((*answers, *self._ready))
        answers.clear()
        self._ready.clear()
        self._ready_bytes = 0
        output.write(data)

    def prepare(self) -> None:
        """Choose what a persistent session writes next, packet ids included, so that it can be stored first."""
        if self._journal is not None and self.output is not None and (self._queue or self._blocked):
            self._pump()

    @property
    def writes_more(self) -> bool:
        """Whether messages wait that window and socket would take in the next turn."""
        if self.output is None:
            return False
        if self._ready:
            return True
        if self._replay:
            kept = self._replay[0][0] & 0x06
            return not self._congested and (not kept or self._window.has_room)
        if self._queue:
            return self._window.has_room
        return bool(self._fresh) and not self._congested

    def _pump(self) -> None:
        """Move what waited to the next write, as far as window and socket allow."""
        limits = self._limits
        while self._replay and self._ready_bytes < limits.unsent_bytes_high:
            flags, topic_field, payload = self._replay[0]
            if self._congested or (flags & 0x06 and not self._window.has_room):
                break
            self._replay.popleft()
            if flags & 0x06:
                self._ready.append(self._window.send(flags, topic_field, payload))
            else:
                frame = publish_frame(flags, topic_field, payload)
                self._ready.append(frame)
                self._ready_bytes += len(frame)
        if self._replay:
            return
        self._replays(now=False)
        while self._queue and self._window.has_room:
            flags, topic_field, payload, serial = self._queue.popleft()
            self._queue_bytes -= len(payload) + OVERHEAD_BYTES
            self._ready.append(self._window.send(flags, topic_field, payload, serial))
        if self._lags and self._fill() < 3 / 8:
            self._lag(now=False)
        if not self._congested:
            self._ready.extend(self._fresh)
            self._fresh.clear()
            self._fresh_bytes = 0
            self._blocked = False

    def _spill(self) -> None:
        """Put the QoS 0 of this turn, too much for one write, into the queue that sheds."""
        frames, self._ready = self._ready, []
        self._ready_bytes = 0
        self._blocked = True
        for frame in frames:
            if frame[0] & 0x06:
                self._ready.append(frame)
            else:
                self._wait_fresh(frame)

    def _wait_fresh(self, frame: bytes) -> None:
        self._fresh.append(frame)
        self._fresh_bytes += len(frame) + OVERHEAD_BYTES
        while self._fresh_bytes > self._limits.fresh_queue_bytes_max:
            self._fresh_bytes -= len(self._fresh.popleft()) + OVERHEAD_BYTES
            self._counters.shed += 1

    def _wait(self, flags: int, topic_field: bytes, payload: bytes, *, front: bool = False) -> None:
        serial = 0
        if (journal := self._journal) is not None:
            serial = journal.front_serial() if front else journal.serial()
            journal.add("queue", self.client_id, serial, 0, 0, flags, topic_field, payload)
        add = self._queue.appendleft if front else self._queue.append
        add((flags, topic_field, payload, serial))
        self._queue_bytes += len(payload) + OVERHEAD_BYTES

    def _replays(self, *, now: bool) -> None:
        if self._journal is not None and self.replaying != now:
            self.replaying = now
            self._journal.add("replaying", self.client_id, now)

    def _fill(self) -> float:
        """How full the queue is: 1 is the limit."""
        return max(
            len(self._queue) / self._limits.kept_queue_messages_max,
            self._queue_bytes / self._limits.kept_queue_bytes_max,
        )

    def _queue_full(self) -> bool:
        return self._fill() > 1

    def _lag(self, *, now: bool) -> None:
        if self._lags != now and self.output is not None:
            self._lags = now
            self.output.lags(now=now)

    def _trim(self) -> None:
        while self._queue_full():
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, _, payload, serial = self._queue.popleft()
        self._queue_bytes -= len(payload) + OVERHEAD_BYTES
        self._counters.dropped_offline += 1
        if self._journal is not None:
            self._journal.add("done", self.client_id, serial)

    # -- surviving a restart ---------------------------------------------------------------------

    def restore(self, stored: StoredSession) -> None:
        """Take up what a session was before a restart."""
        self.subscriptions = dict(stored.filters)
        self.levels = sum(topic_filter.count("/") + 1 for topic_filter in stored.filters)
        self.answers.incoming = set(stored.incoming)
        self.replaying = stored.replaying
        for message in stored.messages:
            if message.packet_id:
                self._window.restore(message)
            else:
                self._queue.append(
                    (message.flags, message.topic_field, message.payload, message.serial)
                )
                self._queue_bytes += len(message.payload) + OVERHEAD_BYTES
        self._trim()

    def changes(self) -> list[Change]:
        """Describe the whole session, for a journal that has lost something."""
        name = self.client_id
        found: list[Change] = [("open", (name,)), ("replaying", (name, self.replaying))]
        found += [("subscribe", (name, *entry)) for entry in self.subscriptions.items()]
        found += self._window.changes()
        found += [
            ("queue", (name, serial, 0, 0, flags, topic_field, payload))
            for flags, topic_field, payload, serial in self._queue
        ]
        found += [("take", (name, packet_id)) for packet_id in self.answers.incoming]
        return found

    # -- the end -------------------------------------------------------------------------------

    @property
    def kept_bytes(self) -> int:
        """What waits or is in flight at QoS 1 and 2."""
        return self._queue_bytes + self._window.size_bytes

    def give_up_half(self) -> bool:
        """Drop the older half of the queue; False if there is none."""
        wanted = len(self._queue) // 2
        if not self._queue:
            return False
        while len(self._queue) > wanted:
            self._drop_oldest()
        return True

    def cut_off(self, reason: str) -> None:
        """End the connection of a slow consumer; a persistent session waits for its return."""
        self._counters.slow_consumers += 1
        self._counters.last_slow_consumer = f"{self.client_id}: {reason}"
        logger.warning("client %s reads too slowly and is cut off: %s", self.client_id, reason)
        if self.output is not None:
            self.output.drop("slow consumer")
        self.detach()
