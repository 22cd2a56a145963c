"""The window of one session: QoS 1 and 2 messages that were sent and are not yet acknowledged.

Decides: packet ids, and what an acknowledgement closes. Assumes: `limits` keeps the window far
below 65,535 messages, so that a free id is near. On failure: an acknowledgement that fits no
message changes nothing.

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
    encode_ack,
    publish_frame,
)


class Window:
    """Messages in flight, in the order in which they were first sent."""

    __slots__ = ("_bytes", "_frames", "_limits", "_next_id")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # By packet id; None once the client has sent PUBREC and only the id is still in use.
        self._frames: dict[int, bytes | None] = {}
        self._bytes = 0
        self._next_id = 0

    @property
    def has_room(self) -> bool:
        """Whether another message may be sent; one of any size fits into an empty window."""
        return (
            len(self._frames) < self._limits.inflight_messages_max
            and self._bytes < self._limits.inflight_bytes_max
        )

    def send(self, flags: int, topic_field: bytes, payload: bytes) -> bytes:
        """Return the frame of a message at QoS 1 or 2, which is in flight from now on."""
        packet_id = self._next_id % 65_535 + 1
        while packet_id in self._frames:
            packet_id = packet_id % 65_535 + 1
        self._next_id = packet_id
        frame = publish_frame(flags, topic_field, payload, packet_id)
        self._frames[packet_id] = frame
        self._bytes += len(frame)
        return frame

    def acknowledge(self, packet_type: int, packet_id: int) -> None:
        """Take a PUBACK, PUBREC or PUBCOMP."""
        if packet_id not in self._frames:
            return
        frame = self._frames[packet_id]
        qos = 2 if frame is None else frame[0] >> 1 & 3
        if packet_type == PUBREC and qos == 2 and frame is not None:
            self._frames[packet_id] = None
            self._bytes -= len(frame)
        elif (packet_type == PUBACK and qos == 1) or (packet_type == PUBCOMP and frame is None):
            del self._frames[packet_id]
            self._bytes -= 0 if frame is None else len(frame)

    def again(self) -> list[bytes]:
        """Return what a client that comes back is to get: PUBREL, or PUBLISH with DUP (4.4)."""
        return [
            encode_ack(PUBREL, packet_id)
            if frame is None
            else bytes((frame[0] | FLAG_DUP,)) + frame[1:]
            for packet_id, frame in self._frames.items()
        ]
