"""MQTT 3.1.1 packets as bytes: encoders, and an incremental parser for both sides of a connection.

Decides: where a packet ends, and whether its fixed header may exist at all. Bodies of the packets
that a broker gets rarely are read in `bodies.py`. Source: MQTT 3.1.1 (OASIS), sections 2 and 3.

Assumes: callers of encoders pass what `limits.py` allows. On failure: bytes that cannot be a
packet raise `MalformedPacket`, after every whole packet before them was handed out, however the
bytes were cut into reads.

Why not amqtt's codec: it reads from a stream with one await per field, ignores the flags of
SUBSCRIBE, and turns invalid UTF-8 into the text "b'...'".
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final

from broker.embedded.limits import (
    MESSAGE_BYTES_MAX,
    PACKET_BYTES_MAX,
    TOPIC_BYTES_MAX,
    TOPIC_LEVELS_MAX,
)
from broker.errors import MalformedPacket

CONNECT: Final = 1
CONNACK: Final = 2
PUBLISH: Final = 3
PUBACK: Final = 4
PUBREC: Final = 5
PUBREL: Final = 6
PUBCOMP: Final = 7
SUBSCRIBE: Final = 8
SUBACK: Final = 9
UNSUBSCRIBE: Final = 10
UNSUBACK: Final = 11
PINGREQ: Final = 12
PINGRESP: Final = 13
DISCONNECT: Final = 14

FLAG_RETAIN: Final = 0x01
FLAG_DUP: Final = 0x08

PINGREQ_PACKET: Final = b"\xc0\x00"
PINGRESP_PACKET: Final = b"\xd0\x00"
DISCONNECT_PACKET: Final = b"\xe0\x00"

SUBACK_REFUSED: Final = 0x80

# Table 2.2: flags that a packet must carry; PUBLISH has its own rules, and 0 and 15 are no packets.
_FLAGS_REQUIRED: Final = (None, 0, 0, None, 0, 0, 2, 0, 2, 0, 2, 0, 0, 0, 0, None)


def _length(count: int) -> bytes:
    """Encode a remaining length, 0 to 268,435,455, in one to four bytes."""
    if count < 128:
        return bytes((count,))
    if count < 16_384:
        return bytes((count & 127 | 128, count >> 7))
    if count < 2_097_152:
        return bytes((count & 127 | 128, count >> 7 & 127 | 128, count >> 14))
    return bytes((count & 127 | 128, count >> 7 & 127 | 128, count >> 14 & 127 | 128, count >> 21))


def string_field(text: str) -> bytes:
    """Encode a UTF-8 string with its two-byte length."""
    data = text.encode()
    return len(data).to_bytes(2, "big") + data


def encode_connect(
    client_id: str,
    keep_alive_s: int,
    *,
    clean_session: bool = True,
    bridge: bool = False,
    username: str | None = None,
    password: bytes | None = None,
) -> bytes:
    """Encode a CONNECT without a will; keep-alive 0 to 65,535 s, 0 for none.

    `bridge` sets the highest bit of the protocol level: Mosquitto then sends a client nothing of what it
    published itself, and RETAIN as it was published. A password needs a username.
    """
    flags = 0x02 if clean_session else 0x00
    fields = string_field(client_id)
    if username is not None:
        flags |= 0x80
        fields += string_field(username)
        if password is not None:
            flags |= 0x40
            fields += len(password).to_bytes(2, "big") + password
    level = 0x84 if bridge else 0x04
    body = b"\x00\x04MQTT" + bytes((level, flags)) + keep_alive_s.to_bytes(2, "big") + fields
    return b"\x10" + _length(len(body)) + body


def encode_connack(return_code: int, *, session_present: bool = False) -> bytes:
    """Encode a CONNACK; return codes as in table 3.1 of the standard."""
    return bytes((0x20, 2, session_present, return_code))


def encode_subscribe(packet_id: int, filters: Iterable[tuple[str, int]]) -> bytes:
    """Encode a SUBSCRIBE of (filter, QoS) pairs; at least one."""
    body = packet_id.to_bytes(2, "big")
    body += b"".join(string_field(name) + bytes((qos,)) for name, qos in filters)
    return b"\x82" + _length(len(body)) + body


def encode_suback(packet_id: int, return_codes: bytes) -> bytes:
    """Encode a SUBACK: a granted QoS or `SUBACK_REFUSED` per filter, in the SUBSCRIBE's order."""
    return b"\x90" + _length(len(return_codes) + 2) + packet_id.to_bytes(2, "big") + return_codes


def encode_ack(packet_type: int, packet_id: int) -> bytes:
    """Encode one of PUBACK, PUBREC, PUBREL, PUBCOMP, UNSUBACK."""
    flags = 2 if packet_type == PUBREL else 0
    return bytes((packet_type << 4 | flags, 2, packet_id >> 8, packet_id & 255))


def encode_publish(
    topic: str,
    payload: bytes,
    qos: int = 0,
    *,
    packet_id: int = 0,
    retained: bool = False,
    duplicate: bool = False,
) -> bytes:
    """Encode a PUBLISH; `packet_id` (1 to 65,535) counts at QoS 1 and 2 only."""
    flags = qos << 1 | retained | duplicate << 3
    return publish_frame(flags, string_field(topic), payload, packet_id)


def publish_frame(flags: int, topic_field: bytes, payload: bytes, packet_id: int = 0) -> bytes:
    """Encode a PUBLISH from its flag nibble and an already encoded topic, for the delivery path."""
    if flags & 0x06:
        identifier = packet_id.to_bytes(2, "big")
        length = _length(len(topic_field) + len(payload) + 2)
        return b"".join((bytes((0x30 | flags,)), length, topic_field, identifier, payload))
    length = _length(len(topic_field) + len(payload))
    return b"".join((bytes((0x30 | flags,)), length, topic_field, payload))


def publish_frames(topic_field: bytes, payloads: Iterable[bytes]) -> bytes:
    """Encode many QoS 0 PUBLISHes on one topic with one copy of each payload, for links."""
    parts: list[bytes] = []
    topic_bytes = len(topic_field)
    for payload in payloads:
        parts += (b"\x30", _length(topic_bytes + len(payload)), topic_field, payload)
    return b"".join(parts)


@lru_cache(maxsize=4096)
def decode_topic(data: bytes) -> str:
    """Decode a topic name of a PUBLISH or a will.

    Raises:
        MalformedPacket: empty, too long or too deep, not UTF-8, or with NUL or a wildcard in it.

    """
    if not 0 < len(data) <= TOPIC_BYTES_MAX:
        raise MalformedPacket(f"a topic of {len(data)} bytes, allowed are 1 to {TOPIC_BYTES_MAX}")
    try:
        topic = data.decode()
    except UnicodeDecodeError as error:
        raise MalformedPacket("a topic that is not UTF-8") from error
    if "\0" in topic or "+" in topic or "#" in topic:
        raise MalformedPacket("a topic with NUL, + or # in it")
    if topic.count("/") >= TOPIC_LEVELS_MAX:
        raise MalformedPacket(f"a topic of more than {TOPIC_LEVELS_MAX} levels")
    return topic


def parse_publish(
    flags: int, body: bytes, payload_bytes_max: int = MESSAGE_BYTES_MAX
) -> tuple[str, bytes, int]:
    """Read a PUBLISH: topic, payload, packet id (0 at QoS 0). The rest stands in the flags.

    Raises:
        MalformedPacket: as section 3.3 has it, or a payload over `payload_bytes_max`.

    """
    if flags & 0x06 == 0x06 or (flags & 0x08 and not flags & 0x06):
        raise MalformedPacket("a PUBLISH with QoS 3, or with DUP at QoS 0")
    if len(body) < 2:
        raise MalformedPacket("a PUBLISH without a topic")
    end = (body[0] << 8 | body[1]) + 2
    topic_data = body[2:end]
    if end > len(body):
        raise MalformedPacket("a PUBLISH whose topic is cut off")
    packet_id = 0
    if flags & 0x06:
        packet_id = int.from_bytes(body[end : end + 2], "big")
        end += 2
        if not packet_id or end > len(body):
            raise MalformedPacket("a PUBLISH at QoS 1 or 2 without a packet id")
    if len(body) - end > payload_bytes_max:
        raise MalformedPacket(f"a message over {payload_bytes_max} bytes")
    return decode_topic(topic_data), body[end:], packet_id


def parse_packet_id(body: bytes) -> int:
    """Read the body of PUBACK, PUBREC, PUBREL, PUBCOMP or UNSUBACK.

    Raises:
        MalformedPacket: not two bytes, or zero.

    """
    packet_id = int.from_bytes(body, "big")
    if len(body) != 2 or not packet_id:
        raise MalformedPacket("an acknowledgement without a packet id")
    return packet_id


class PacketParser:
    """Cuts a byte stream into packets: `feed` what was read, then iterate `packets`.

    Local state only; nothing is copied twice but the tail of a packet that spans reads. Iteration
    may stop at any packet and be taken up again later by a new call of `packets`.
    """

    __slots__ = (
        "_body_bytes_max",
        "_buffer",
        "_chunks",
        "_chunks_bytes",
        "_needed_bytes",
        "_position",
    )

    def __init__(self, body_bytes_max: int = PACKET_BYTES_MAX) -> None:
        self._body_bytes_max = body_bytes_max
        self._buffer = b""
        self._position = 0  # in _buffer: start of the first packet not handed out
        self._chunks: list[bytes] = []  # read, not yet part of _buffer
        self._chunks_bytes = 0
        self._needed_bytes = 0  # that the packet at hand must have before another look is worth it

    def allow(self, body_bytes_max: int) -> None:
        """Take packets with bodies of so many bytes from now on."""
        self._body_bytes_max = body_bytes_max

    @property
    def buffered_bytes(self) -> int:
        """Bytes fed and not handed out."""
        return len(self._buffer) - self._position + self._chunks_bytes

    def feed(self, data: bytes) -> None:
        """Take what was read from the stream."""
        if self._chunks or self._position < len(self._buffer):
            self._chunks.append(data)
            self._chunks_bytes += len(data)
        else:  # nothing waits, as between whole packets: no copy
            self._buffer = data
            self._position = 0

    def packets(self) -> Iterator[tuple[int, int, bytes]]:
        """Hand out whole packets in order: type, flags, body.

        Raises:
            MalformedPacket: at the first bytes that cannot start a packet; nothing follows.

        """
        if self._needed_bytes:
            if self.buffered_bytes < self._needed_bytes:
                return
            self._needed_bytes = 0
        if self._chunks:
            self._buffer = b"".join((self._buffer[self._position :], *self._chunks))
            self._position = 0
            self._chunks.clear()
            self._chunks_bytes = 0
        buffer = self._buffer
        end_of_buffer = len(buffer)
        while (start := self._position) < end_of_buffer:
            first = buffer[start]
            body = start + 2
            if body > end_of_buffer or (length := buffer[start + 1]) & 0x80:
                # Two bytes of length, as most messages have, are read here, without a call.
                if body < end_of_buffer and not (high := buffer[body]) & 0x80:
                    body, length = body + 1, length & 0x7F | high << 7
                else:
                    body, length = self._long_header(buffer, start)
                if not body:  # the header itself is cut off
                    _check_first_byte(first)
                    return
            if first & 0xF0 != 0x30:
                _check_first_byte(first)
            end = body + length
            if end > end_of_buffer:
                self._needed_bytes = end - start
                return
            self._position = end
            yield first >> 4, first & 15, buffer[body:end]
        self._buffer = b""
        self._position = 0

    def _long_header(self, buffer: bytes, start: int) -> tuple[int, int]:
        """Return where the body starts and its length, or (0, 0) while the header is cut off."""
        length = 0
        for index, byte in enumerate(buffer[start + 1 : start + 5]):
            length |= (byte & 0x7F) << 7 * index
            if length > self._body_bytes_max:
                raise MalformedPacket(f"a packet over {self._body_bytes_max} bytes")
            if not byte & 0x80:
                return start + 2 + index, length
        if len(buffer) >= start + 5:
            raise MalformedPacket("a remaining length of more than four bytes")
        return 0, 0


def _check_first_byte(first: int) -> None:
    """Raise `MalformedPacket` for a type that does not exist or flags that it may not carry."""
    kind = first >> 4
    if kind in {0, 15}:
        raise MalformedPacket(f"packet type {kind}")
    required = _FLAGS_REQUIRED[kind]
    if required is not None and required != first & 15:
        raise MalformedPacket(f"packet type {kind} with flags {first & 15}")
