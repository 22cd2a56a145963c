"""What one MQTT publish between two neighbours holds: a checksum and a row of records.

Decides the outer wire format. A frame is `u8 version, u32 crc32 of the rest, records`; a record is `u8 kind, u32
length, body`. Unknown kinds are passed over, so a newer neighbour can say more. A record larger than a frame travels
as PARTs. Anything wrong is a `FrameInvalid` for the whole frame: what a damaged frame held comes back by repair.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any, Final
from zlib import crc32

import msgspec

from broker.mesh.bundle import BundleInvalid, Header, decode_header
from broker.mesh.limits import (
    ANNOUNCE_ENTRIES_MAX,
    CERTIFICATE_BYTES_MAX,
    DIGEST_ENTRIES_MAX,
    FRAME_BYTES_MAX,
    RANGE_LIST_MAX,
    RANGES_MAX,
    RECORDS_MAX,
    SHAPE_ORIGINS_MAX,
    VOUCHED_MAX,
    WANT_RANGES_MAX,
)

__all__ = [
    "SERVED",
    "Ack",
    "Ask",
    "Digest",
    "DigestEntry",
    "Entries",
    "EntryRow",
    "FrameInvalid",
    "Have",
    "Hello",
    "Ping",
    "Proofs",
    "Ranges",
    "Shape",
    "Unreachable",
    "Vouch",
    "Want",
    "WantRange",
    "Who",
    "body_of",
    "decode_bundle",
    "decode_control",
    "decode_credit",
    "decode_frame",
    "encode_bundle",
    "encode_control",
    "encode_credit",
    "encode_frame",
    "pack_sums",
    "record",
    "unpack_record",
    "unpack_sums",
]

VERSION: Final = 1
PROTOCOL: Final = 1

HELLO: Final = 1
PING: Final = 2
PONG: Final = 3
BUNDLE: Final = 4
PART: Final = 5
DIGEST: Final = 6
WANT: Final = 7
RANGES: Final = 8
ENTRIES: Final = 9
ASK: Final = 10
RESYNC: Final = 11
HAVE: Final = 12
SHAPE: Final = 13
CREDIT: Final = 14
UNICAST: Final = 16
ACK: Final = 17
UNREACHABLE: Final = 18
WHO: Final = 19
VOUCH: Final = 20
PROOFS: Final = 21

SERVED: Final = 255
"""In the place of hops: the bundle was resent on request, which says nothing of paths."""
NEVER: Final = 0xFFFFFFFF
"""Remaining lifetime of a bundle that does not expire."""

Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Signer = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
"""A key, by 63 bits of its hash."""

_HEAD: Final = struct.Struct(">BI")
_RECORD: Final = struct.Struct(">BI")
_BUNDLE: Final = struct.Struct(">IBH")
_SUMS: Final = struct.Struct(">16Q")
_CREDIT: Final = struct.Struct(">Q")
HEAD_BYTES: Final = _HEAD.size
RECORD_BYTES: Final = _RECORD.size


DigestEntry = tuple[str, int, int, int, int, int]
"""origin, lane, passed incarnation, passed sequence, held after incarnation, held after sequence."""
WantRange = tuple[str, int, int, int, int, int]
"""origin, lane, after (incarnation, sequence), up to (incarnation, sequence)."""
EntryRow = tuple[str, bytes, int, int, int, str]
"""topic, payload (empty: deleted), qos, rank, clock, origin."""


class FrameInvalid(ValueError):
    """Raised when a frame or a record in it is not what it claims. The text says what is wrong."""


class Hello(msgspec.Struct, array_like=True, frozen=True):
    """The first record on a link, in both directions; nothing else is said before it was heard."""

    protocol: int
    device: str
    incarnation: int
    known: int
    """The highest incarnation that the sender knows of the receiver (0: none)."""
    clock: int
    heard: bool
    """Whether the sender has heard the receiver's hello; if not, it is to be said again."""


class Digest(msgspec.Struct, array_like=True, frozen=True):
    """Where the sender's streams stand: all of them (`full`), or those that changed since it last said so."""

    full: bool
    settled: bool
    """Whether the sender has a memory by now, or has waited long enough for one."""
    more: bool
    """Whether another record continues this digest."""
    vector_hash: int
    """Over all the sender's streams, so that the receiver notices what it missed."""
    retained_hash: int
    floor: int
    """The clock below which the sender has forgotten deletions."""
    entries: list[DigestEntry]


class Want(msgspec.Struct, array_like=True, frozen=True):
    """Asks for logged bundles."""

    ranges: list[WantRange]


class Ranges(msgspec.Struct, array_like=True, frozen=True):
    """Ranges of the sender's retained map that may differ, each as (digits, prefix, ...)."""

    floor: int
    """The sender's, as it was when it did not have what it does not list."""
    sums: list[tuple[int, int, bytes]]
    """Fingerprints of the sixteen ranges below, 8 bytes each, big-endian."""
    lists: list[tuple[int, int, list[tuple[int, int, int, str]]]]
    """All that the sender has in the range: topic hash, rank, clock, origin."""

    def __len__(self) -> int:
        return len(self.sums) + len(self.lists)


class Entries(msgspec.Struct, array_like=True, frozen=True):
    """Retained values."""

    entries: list[EntryRow]


class Ask(msgspec.Struct, array_like=True, frozen=True):
    """Asks for retained values by topic hash."""

    floor: int
    """As in Ranges."""
    unknown: list[int]
    """The sender has nothing there: they may be too old to be given."""
    newer: list[int]
    """The sender has something older."""


class Have(msgspec.Struct, array_like=True, frozen=True):
    """Announces what has come: origin, lane, incarnation, sequence, hops. Kept: passed; fresh: the newest."""

    entries: list[tuple[str, int, int, int, int]]


class Shape(msgspec.Struct, array_like=True, frozen=True):
    """GRAFT and PRUNE of Plumtree: origins whose bundles are wanted at once, and origins of which news suffice."""

    grafts: list[str]
    prunes: list[str]


class Ping(msgspec.Struct, array_like=True, frozen=True):
    """Asks for a PONG with the same stamp, and says what was sent and granted so far, should a record be lost."""

    stamp: Count
    spent_bytes: Count
    """Of records with payload, sent by the sender of the ping since the link came up."""
    granted_bytes: Count
    """How far the receiver of the ping may go."""


class Ack(msgspec.Struct, array_like=True, frozen=True):
    """A destination has a unicast bundle, or had it before; told back to the origin."""

    origin: str
    incarnation: int
    to: str
    number: int
    expired: bool
    """It came too late and was not delivered."""
    hops: int


class Unreachable(msgspec.Struct, array_like=True, frozen=True):
    """There is no way for a unicast bundle from here; told back along the way that it came."""

    origin: str
    incarnation: int
    to: str
    number: int
    retry: bool
    """Another way is known by now: send it again by the same neighbour."""


class Who(msgspec.Struct, array_like=True, frozen=True):
    """Asks for the certificates of keys that have signed what the receiver brought."""

    signers: list[Signer]


class Vouch(msgspec.Struct, array_like=True, frozen=True):
    """Certificates that were asked for, each with its key."""

    certificates: list[
        tuple[Signer, Annotated[bytes, msgspec.Meta(max_length=CERTIFICATE_BYTES_MAX)]]
    ]


class Proofs(msgspec.Struct, array_like=True, frozen=True):
    """Retained values that carry authority: topic, and header and body of the bundle in which its origin said it."""

    values: list[tuple[str, bytes, bytes]]


Control = (
    Hello
    | Digest
    | Want
    | Ranges
    | Entries
    | Ask
    | Have
    | Shape
    | Ping
    | Ack
    | Unreachable
    | Who
    | Vouch
    | Proofs
)
_KINDS: Final[dict[type, int]] = {
    Hello: HELLO,
    Digest: DIGEST,
    Want: WANT,
    Ranges: RANGES,
    Entries: ENTRIES,
    Ask: ASK,
    Have: HAVE,
    Shape: SHAPE,
    Ping: PING,
    Ack: ACK,
    Unreachable: UNREACHABLE,
    Who: WHO,
    Vouch: VOUCH,
    Proofs: PROOFS,
}
_encoder: Final = msgspec.msgpack.Encoder()
_decoders: Final[dict[int, msgspec.msgpack.Decoder[Any]]] = {
    kind: msgspec.msgpack.Decoder(of) for of, kind in _KINDS.items()
}


def record(kind: int, body: bytes) -> bytes:
    """One record."""
    return _RECORD.pack(kind, len(body)) + body


def encode_control(control: Control) -> bytes:
    """A control message as a record."""
    return record(_KINDS[type(control)], _encoder.encode(control))


def body_of(control: Control) -> bytes:
    """What a record of a control message holds, to be decoded again later."""
    return _encoder.encode(control)


def decode_control(kind: int, body: bytes) -> Control:
    """A control message from a record.

    Raises:
        FrameInvalid: It does not decode, or holds more than a record may.
    """
    try:
        control: Control = _decoders[kind].decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FrameInvalid(f"record {kind} does not decode: {error}") from None
    match control:
        case Digest(entries=rows) if len(rows) > DIGEST_ENTRIES_MAX:
            raise FrameInvalid("digest with too many entries")
        case Want(ranges=rows) if len(rows) > WANT_RANGES_MAX:
            raise FrameInvalid("request with too many ranges")
        case Ranges() if len(control) > RANGES_MAX:
            raise FrameInvalid("too many ranges")
        case Ranges(lists=lists) if any(len(rows) > RANGE_LIST_MAX for *_, rows in lists):
            raise FrameInvalid("a range with too many entries for a list")
        case Ask(unknown=unknown, newer=newer) if max(len(unknown), len(newer)) > RANGES_MAX:
            raise FrameInvalid("request for too many values")
        case Have(entries=rows) if len(rows) > ANNOUNCE_ENTRIES_MAX:
            raise FrameInvalid("announcement with too many entries")
        case Shape(grafts=grafts, prunes=prunes) if len(grafts) + len(prunes) > SHAPE_ORIGINS_MAX:
            raise FrameInvalid("grafts and prunes of too many origins")
        case Who(signers=rows) if len(rows) > VOUCHED_MAX:
            raise FrameInvalid("request for too many certificates")
        case Proofs(values=rows) if len(rows) > RANGES_MAX:
            raise FrameInvalid("too many retained values")
        case Vouch(certificates=rows) if len(rows) > VOUCHED_MAX:
            raise FrameInvalid("too many certificates")
        case _:
            return control


def pack_sums(sums: list[int]) -> bytes:
    """Sixteen fingerprints as they travel."""
    return _SUMS.pack(*sums)


def unpack_sums(packed: bytes) -> tuple[int, ...]:
    """Sixteen fingerprints.

    Raises:
        FrameInvalid: They are not sixteen.
    """
    if len(packed) != _SUMS.size:
        raise FrameInvalid("not sixteen fingerprints")
    return _SUMS.unpack(packed)


def encode_frame(records: list[bytes]) -> bytes:
    """A frame of these records."""
    body = b"".join(records)
    return _HEAD.pack(VERSION, crc32(body)) + body


def decode_frame(frame: bytes) -> list[tuple[int, bytes]]:
    """The (kind, body) records of a frame.

    Raises:
        FrameInvalid: Too long, cut short, damaged, or of another version.
    """
    if len(frame) > FRAME_BYTES_MAX:
        raise FrameInvalid(f"frame of {len(frame)} bytes is over the limit of {FRAME_BYTES_MAX}")
    if len(frame) < HEAD_BYTES:
        raise FrameInvalid("frame cut short")
    version, checksum = _HEAD.unpack_from(frame)
    if version != VERSION:
        raise FrameInvalid(f"frame version {version}, this device speaks {VERSION}")
    if crc32(memoryview(frame)[HEAD_BYTES:]) != checksum:
        raise FrameInvalid("frame checksum does not match")
    records: list[tuple[int, bytes]] = []
    at, end = HEAD_BYTES, len(frame)
    while at < end:
        if at + RECORD_BYTES > end or len(records) >= RECORDS_MAX:
            raise FrameInvalid("record cut short, or too many of them")
        kind, length = _RECORD.unpack_from(frame, at)
        at += RECORD_BYTES
        if at + length > end:
            raise FrameInvalid("record longer than its frame")
        records.append((kind, frame[at : at + length]))
        at += length
    return records


def encode_bundle(
    head: bytes, body: bytes, remaining_ms: int, hops: int, kind: int = BUNDLE
) -> bytes:
    """A bundle as a record, BUNDLE or UNICAST. An empty body travels for an expired bundle."""
    return record(kind, _BUNDLE.pack(remaining_ms, hops, len(head)) + head + body)


def decode_bundle(data: bytes, kind: int = BUNDLE) -> tuple[Header, bytes, bytes, int, int]:
    """Header, header bytes, body bytes (empty: expired), remaining_ms (NEVER: does not expire), hops.

    Raises:
        FrameInvalid: The record does not hold a bundle.
    """
    if len(data) < _BUNDLE.size:
        raise FrameInvalid("bundle cut short")
    remaining_ms, hops, head_bytes = _BUNDLE.unpack_from(data)
    at = _BUNDLE.size + head_bytes
    head, body = data[_BUNDLE.size : at], data[at:]
    try:
        header = decode_header(head)
    except BundleInvalid as error:
        raise FrameInvalid(str(error)) from None
    if (kind == UNICAST) is not bool(header.to):
        raise FrameInvalid("a bundle for one device among those for all, or the other way round")
    if (remaining_ms == NEVER) is not (header.lifetime_ms == 0):
        raise FrameInvalid("remaining lifetime does not fit the bundle's")
    if remaining_ms != NEVER and remaining_ms > header.lifetime_ms:
        raise FrameInvalid("a bundle with more lifetime left than it began with")
    if len(body) != (header.body_bytes if remaining_ms else 0):
        raise FrameInvalid("bundle body is not as long as its header says")
    return header, head, body, remaining_ms, hops


def encode_credit(granted_bytes: int) -> bytes:
    """How far the receiver may go with records that carry payload, since the link came up, as a record."""
    return record(CREDIT, _CREDIT.pack(granted_bytes))


def decode_credit(body: bytes) -> int:
    """The bytes granted.

    Raises:
        FrameInvalid: The record does not hold one number.
    """
    if len(body) != _CREDIT.size:
        raise FrameInvalid("credit of an impossible size")
    granted_bytes: int = _CREDIT.unpack(body)[0]
    return granted_bytes


def unpack_record(data: bytes) -> tuple[int, bytes]:
    """The (kind, body) of a record that fills `data` exactly.

    Raises:
        FrameInvalid: It does not.
    """
    if len(data) < RECORD_BYTES or _RECORD.unpack_from(data)[1] != len(data) - RECORD_BYTES:
        raise FrameInvalid("parts do not add up to a record")
    return data[0], data[RECORD_BYTES:]
