"""The window of one session: QoS 1 and 2 messages that were sent and are not yet acknowledged.

Decides: packet ids, and what an acknowledgement closes. Assumes: `limits` keeps the window far
below 65,535 messages, so that a free id is near. On failure: an acknowledgement that fits no
message changes nothing. With a journal, each step is noted in it.

Why not amqtt's: its table of messages in flight is emptied when the connection drops, so nothing
is sent again.
"""

from broker.embedded.limits import Limits
from broker.embedded.packets import (
    FLAG_DUP,
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    PacketParser,
    encode_ack,
    parse_publish,
    publish_frame,
    string_field,
)
from broker.embedded.session_journal import Change, SessionJournal, StoredMessage


class Window:
    """Messages in flight, in the order in which they were first sent."""

    __slots__ = (
        "_client_id",
        "_frames",
        "_journal",
        "_limits",
        "_next_id",
        "_serials",
        "size_bytes",
    )

    def __init__(
        self, limits: Limits, client_id: str = "", journal: SessionJournal | None = None
    ) -> None:
        self._limits = limits
        self._client_id = client_id
        self._journal = journal
        self._serials: dict[int, int] = {}  # by packet id, with a journal
        # By packet id; None once the client has sent PUBREC and only the id is still in use.
        self._frames: dict[int, bytes | None] = {}
        self.size_bytes = 0
        self._next_id = 0

    @property
    def has_room(self) -> bool:
        """Whether another message may be sent; one of any size fits into an empty window."""
        return (
            len(self._frames) < self._limits.inflight_messages_max
            and self.size_bytes < self._limits.inflight_bytes_max
        )

    def send(self, flags: int, topic_field: bytes, payload: bytes, serial: int = 0) -> bytes:
        """Return the frame of a message at QoS 1 or 2, which is in flight from now on.

        The journal knows it by its serial already, if it has one.
        """
        packet_id = self._next_id % 65_535 + 1
        while packet_id in self._frames:
            packet_id = packet_id % 65_535 + 1
        self._next_id = packet_id
        frame = publish_frame(flags, topic_field, payload, packet_id)
        self._frames[packet_id] = frame
        self.size_bytes += len(frame)
        if (journal := self._journal) is not None:
            sent = journal.serial()
            if serial:
                journal.add("sent", self._client_id, serial, packet_id, sent)
            else:
                serial = journal.serial()
                values = (self._client_id, serial, packet_id, sent, flags, topic_field, payload)
                journal.add("queue", *values)
            self._serials[packet_id] = serial
        return frame

    def acknowledge(self, packet_type: int, packet_id: int) -> None:
        """Take a PUBACK, PUBREC or PUBCOMP."""
        if packet_id not in self._frames:
            return
        frame = self._frames[packet_id]
        qos = 2 if frame is None else frame[0] >> 1 & 3
        if packet_type == PUBREC and qos == 2 and frame is not None:
            self._frames[packet_id] = None
            self.size_bytes -= len(frame)
            if self._journal is not None:
                self._journal.add("received", self._client_id, self._serials[packet_id])
        elif (packet_type == PUBACK and qos == 1) or (packet_type == PUBCOMP and frame is None):
            del self._frames[packet_id]
            self.size_bytes -= 0 if frame is None else len(frame)
            if self._journal is not None:
                self._journal.add("done", self._client_id, self._serials.pop(packet_id))

    def restore(self, message: StoredMessage) -> None:
        """Take up a message that was in flight before a restart."""
        packet_id = self._next_id = message.packet_id
        frame = None
        if message.flags:
            frame = publish_frame(message.flags, message.topic_field, message.payload, packet_id)
            self.size_bytes += len(frame)
        self._frames[packet_id] = frame
        self._serials[packet_id] = message.serial

    def changes(self) -> list[Change]:
        """Describe everything that is in flight, as if it had been sent just now."""
        found: list[Change] = []
        assert self._journal is not None, "only persistent sessions are described"
        for packet_id, frame in self._frames.items():
            flags, topic_field, payload = 0, b"", b""
            if frame is not None:
                parser = PacketParser()
                parser.feed(frame)
                _, flags, body = next(parser.packets())
                topic, payload, _ = parse_publish(flags, body)
                topic_field = string_field(topic)
            serial, sent = self._serials[packet_id], self._journal.serial()
            values = (self._client_id, serial, packet_id, sent, flags, topic_field, payload)
            found.append(("queue", values))
        return found

    def again(self) -> list[bytes]:
        """Return what a client that comes back is to get: PUBREL, or PUBLISH with DUP (4.4)."""
        return [
            encode_ack(PUBREL, packet_id)
            if frame is None
            else bytes((frame[0] | FLAG_DUP,)) + frame[1:]
            for packet_id, frame in self._frames.items()
        ]
