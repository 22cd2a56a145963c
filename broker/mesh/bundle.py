"""The unit that travels: what an origin published in one turn on one lane, encoded once.

Decides the bytes of a bundle. A relay reads the header and forwards the same bytes; only a receiver that delivers
decodes the body. The header alone closes a sequence (an expired bundle travels without its body), therefore the
integrity tag, which ends the header, covers the two separately (`tags.py`).

Assumes nothing of the bytes it decodes: every length is checked before use, and anything wrong is a `BundleInvalid`.

Layout of the header, big-endian:

    u8  flags       bit 0: closes an earlier incarnation; bit 1: the earlier one is lost; bit 2: unicast;
                    bit 3: the body is compressed; others must be 0
    u8  lane        priority * 2 + kept
    u16 messages    how many the body holds
    u32 incarnation     u64 sequence (from 1; of unicast: the number, per destination)
    u64 clock       newest hybrid clock in the body
    u32 lifetime_ms longest lifetime in the body; 0: does not expire
    u32 body_bytes
    u8  length, origin in UTF-8
    [u32 incarnation, u64 sequence]  the stream's last position before this incarnation, where bit 0 is set
    [u8 length, destination in UTF-8]    where bit 2 is set; such a bundle is in no stream, its lane is a kept one
    u16 n, n * u64  hashes of the topics, on fresh lanes (else n = 0)
    u8  kind, u16 length, tag        integrity tag; kind 0 has length 0

The body is a msgpack array of messages, each an array of clock, flags, lifetime_ms, rank, topic, payload; it may
travel compressed (`compression.py`).
"""

from __future__ import annotations

import re
import struct
from typing import Annotated, Final, NamedTuple

import msgspec

from broker.mesh.compression import CompressionInvalid, compress, decompress
from broker.mesh.limits import (
    BODY_BYTES_MAX,
    BUNDLE_MESSAGES_MAX,
    CLOCK_MAX,
    MESSAGE_BYTES_MAX,
    ORIGIN_BYTES_MAX,
    TAG_BYTES_MAX,
    TOPIC_BYTES_MAX,
)

__all__ = [
    "PRIORITIES",
    "START",
    "BundleInvalid",
    "Header",
    "Message",
    "Position",
    "Stream",
    "body_bytes_estimate",
    "decode_body",
    "decode_header",
    "encode_body",
    "encode_header",
    "is_device",
    "is_kept",
    "is_private",
    "lane_of",
]

Stream = tuple[str, int]
"""(origin, lane): within it sequence and order hold."""

Position = tuple[int, int]
"""(incarnation, sequence): where a stream stands."""

START: Final[Position] = (0, 0)
"""Before everything."""

PRIORITIES: Final = 5
"""control, urgent, normal, telemetry, bulk."""

FLAG_RETAINED: Final = 0x01
QOS_SHIFT: Final = 1
VIA_SHIFT: Final = 3

_FIXED: Final = struct.Struct(">BBHIQQII")
_CLOSES: Final = struct.Struct(">IQ")
_CLOSES_BIT: Final = 0x01
_LOST_BIT: Final = 0x02
_UNICAST_BIT: Final = 0x04
_COMPRESSED_BIT: Final = 0x08
TAG_HEAD_BYTES: Final = 3
"""Kind and length of a tag, the last fields of a header before the tag itself."""
INTEGER_MAX: Final = 1 << 63
"""Sequences and ranks stay below it, so that any store and language can hold them in a signed 64-bit integer."""
_DEVICE: Final = re.compile(rf"[a-z0-9-]{{1,{ORIGIN_BYTES_MAX}}}")
PRIVATE_INITIALS: Final = "$lm"
"""What begins otherwise is not private, and so is much that begins like this."""
_PRIVATE_BEGINS: Final = ("\0$", "\0local", "\0mesh")
_PRIVATE: Final = re.compile("\0(?:\\$|(?:local|mesh)[/\0])")
"""Topics that never leave a device, in a row of topics with NUL around each."""
MESSAGE_OVERHEAD_BYTES: Final = 36
"""Of msgpack: an array, five numbers or lengths at their longest, rounded up."""


class BundleInvalid(ValueError):
    """Raised when bytes that claim to be a bundle are not one. The text says what is wrong."""


class Message(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """One published message as it travels."""

    # The ranges are checked where a body is decoded, at the price of none of our own work per message.
    clock: Annotated[int, msgspec.Meta(gt=0)]
    """Hybrid logical clock of the publish."""
    flags: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
    """Bit 0: retained. Bits 1 and 2: QoS. From bit 3 on: the mark of the bridge that it came in through, 0 for none."""
    lifetime_ms: Annotated[int, msgspec.Meta(ge=0)]
    """How long it may be delivered after its publish; 0: for ever."""
    rank: Annotated[int, msgspec.Meta(ge=0, le=INTEGER_MAX - 1)]
    """Orders retained values before the clock does; 0 where the topic contract names none."""
    topic: Annotated[str, msgspec.Meta(min_length=1, max_length=TOPIC_BYTES_MAX)]
    payload: Annotated[bytes, msgspec.Meta(max_length=MESSAGE_BYTES_MAX)]

    @property
    def retained(self) -> bool:
        """Whether it is the topic's retained value."""
        return bool(self.flags & FLAG_RETAINED)

    @property
    def qos(self) -> int:
        """The QoS of the publish, 0 to 2."""
        return (self.flags >> QOS_SHIFT) & 3

    @property
    def via(self) -> int:
        """The mark of the bridge that it came in through; 0: none."""
        return self.flags >> VIA_SHIFT


class Header(NamedTuple):
    """What a relay knows of a bundle."""

    origin: str
    lane: int
    incarnation: int
    sequence: int
    messages: int
    clock: int
    lifetime_ms: int
    body_bytes: int
    closes: Position | None = None
    """The last position of the stream before this incarnation; only on sequence 1."""
    closes_lost: bool = False
    """The origin does not know how its earlier incarnation ended."""
    topics: tuple[int, ...] = ()
    tag_kind: int = 0
    tag: bytes = b""
    to: str = ""
    """The destination of a unicast bundle; empty: it is for everyone."""
    compressed: bool = False
    """Whether the body travels compressed."""

    @property
    def position(self) -> Position:
        """Where the bundle stands in its stream."""
        return (self.incarnation, self.sequence)

    @property
    def before(self) -> Position:
        """The position that the bundle follows in its stream."""
        if self.sequence > 1:
            return (self.incarnation, self.sequence - 1)
        return self.closes or START

    @property
    def stream(self) -> Stream:
        """The stream that it is part of."""
        return (self.origin, self.lane)

    @property
    def flight(self) -> tuple[str, int, str, int]:
        """What a unicast bundle is told by: origin, incarnation, destination, number."""
        return (self.origin, self.incarnation, self.to, self.sequence)


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[Message])


def lane_of(priority: int, *, kept: bool) -> int:
    """The lane of a priority (0 control to 4 bulk), kept (QoS 1 and 2) or fresh (QoS 0)."""
    return priority * 2 + kept


def is_kept(lane: int) -> bool:
    """Whether a lane's bundles are logged, repaired and delivered exactly once."""
    return bool(lane & 1)


def is_device(name: str) -> bool:
    """Whether a device may be called so. Names come to logs and tables, so no others are taken from the wire."""
    return _DEVICE.fullmatch(name) is not None


def is_private(topic: str) -> bool:
    """Whether a topic stays on its device: `local`, links' own, and those that begin with `$`."""
    return _PRIVATE.match(f"\0{topic}\0") is not None


def body_bytes_estimate(topic: str, payload: bytes) -> int:
    """About how much a message adds to a body; never less than it does."""
    topic_bytes = len(topic) if topic.isascii() else 4 * len(topic)
    return topic_bytes + len(payload) + MESSAGE_OVERHEAD_BYTES


def encode_body(messages: list[Message]) -> tuple[bytes, bool]:
    """The body of a bundle as it travels, and whether it is compressed."""
    body = _encoder.encode(messages)
    compressed = compress(body)
    return (body, False) if compressed is None else (compressed, True)


def decode_body(header: Header, body: bytes) -> list[Message]:
    """The messages of a bundle.

    Raises:
        BundleInvalid: The body is not what the header announced.
    """
    try:
        messages = _decoder.decode(decompress(body) if header.compressed else body)
    except CompressionInvalid as error:
        raise BundleInvalid(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleInvalid(f"body does not decode: {error}") from None
    if len(messages) != header.messages:
        raise BundleInvalid(f"{len(messages)} messages where the header says {header.messages}")
    # One pass per question instead of one per message: this is the hot path of every device.
    kept = is_kept(header.lane)
    if any(
        (flags >> QOS_SHIFT & 3) not in ((1, 2) if kept else (0,))
        for flags in {m.flags for m in messages}
    ):
        raise BundleInvalid("a message whose QoS does not fit its lane")
    if max([m.clock for m in messages]) > header.clock:
        raise BundleInvalid("a message whose clock is after its bundle's")
    if max([m.lifetime_ms for m in messages]) > header.lifetime_ms:
        raise BundleInvalid("a message that outlives its bundle")
    topics = "\0".join(["", *[m.topic for m in messages], ""])
    if topics.count("\0") != len(messages) + 1 or "+" in topics or "#" in topics:
        raise BundleInvalid("a message whose topic is a filter or holds NUL")
    if any(begins in topics for begins in _PRIVATE_BEGINS) and _PRIVATE.search(topics):
        raise BundleInvalid("a message on a topic that never leaves its device")
    return messages


def encode_header(header: Header) -> bytes:
    """The bytes of a header."""
    origin = header.origin.encode()
    flags = (
        (_CLOSES_BIT if header.closes else 0)
        | (_LOST_BIT if header.closes_lost else 0)
        | (_UNICAST_BIT if header.to else 0)
        | (_COMPRESSED_BIT if header.compressed else 0)
    )
    parts = [
        _FIXED.pack(
            flags,
            header.lane,
            header.messages,
            header.incarnation,
            header.sequence,
            header.clock,
            header.lifetime_ms,
            header.body_bytes,
        ),
        bytes((len(origin),)),
        origin,
    ]
    if header.closes:
        parts.append(_CLOSES.pack(*header.closes))
    if header.to:
        to = header.to.encode()
        parts += (bytes((len(to),)), to)
    parts.append(struct.pack(f">H{len(header.topics)}Q", len(header.topics), *header.topics))
    parts.append(struct.pack(">BH", header.tag_kind, len(header.tag)))
    parts.append(header.tag)
    return b"".join(parts)


def decode_header(data: bytes) -> Header:
    """Read a header that fills `data` exactly.

    Raises:
        BundleInvalid: It does not, or a field is impossible.
    """
    try:
        return _decode_header(data)
    except (struct.error, IndexError, UnicodeDecodeError):
        raise BundleInvalid("header cut short or not UTF-8") from None


def _decode_header(data: bytes) -> Header:
    flags, lane, messages, incarnation, sequence, clock, lifetime_ms, body_bytes = (
        _FIXED.unpack_from(data)
    )
    at = _FIXED.size
    length = data[at]
    origin = data[at + 1 : at + 1 + length].decode()
    at += 1 + length
    closes: Position | None = None
    if flags & _CLOSES_BIT:
        closes = _CLOSES.unpack_from(data, at)
        at += _CLOSES.size
    to = ""
    if flags & _UNICAST_BIT:
        to = data[at + 1 : at + 1 + data[at]].decode()
        at += 1 + data[at]
        _check_unicast(flags, lane, to)
    (count,) = struct.unpack_from(">H", data, at)
    topics = struct.unpack_from(f">{count}Q", data, at + 2)
    at += 2 + 8 * count
    tag_kind, tag_length = struct.unpack_from(">BH", data, at)
    tag = data[at + 3 : at + 3 + tag_length]
    if at + 3 + tag_length != len(data):
        raise BundleInvalid("header length does not add up")
    _check_header(flags, lane, messages, incarnation, sequence, body_bytes, closes)
    if not 0 < clock < CLOCK_MAX or sequence >= INTEGER_MAX:
        raise BundleInvalid("clock or sequence is impossible")
    if not is_device(origin) or tag_length > TAG_BYTES_MAX or (count and lane & 1):
        raise BundleInvalid("origin, tag or topic hashes outside their limits")
    return Header(
        origin,
        lane,
        incarnation,
        sequence,
        messages,
        clock,
        lifetime_ms,
        body_bytes,
        closes,
        bool(flags & _LOST_BIT),
        topics,
        tag_kind,
        tag,
        to,
        bool(flags & _COMPRESSED_BIT),
    )


def _check_unicast(flags: int, lane: int, to: str) -> None:
    if flags & ~_COMPRESSED_BIT != _UNICAST_BIT or not is_kept(lane):
        raise BundleInvalid("unicast that closes an incarnation or is not kept")
    if not is_device(to):
        raise BundleInvalid("destination outside its limits")


def _check_header(
    flags: int,
    lane: int,
    messages: int,
    incarnation: int,
    sequence: int,
    body_bytes: int,
    closes: Position | None,
) -> None:
    if flags & ~(_CLOSES_BIT | _LOST_BIT | _UNICAST_BIT | _COMPRESSED_BIT):
        raise BundleInvalid("unknown flags")
    if lane >= PRIORITIES * 2:
        raise BundleInvalid(f"no lane {lane}")
    if not 0 < messages <= BUNDLE_MESSAGES_MAX or not incarnation or not sequence:
        raise BundleInvalid("message count, incarnation or sequence is impossible")
    if body_bytes > BODY_BYTES_MAX:
        raise BundleInvalid(f"body of {body_bytes} bytes is over the limit")
    if (flags & (_CLOSES_BIT | _LOST_BIT) and sequence != 1) or (
        closes and closes[0] >= incarnation
    ):
        raise BundleInvalid("closes an earlier incarnation where it cannot")
