"""What neighbours say to each other beside bundles: the control messages, and how they stand in records.

Decides the fields of each message, and how many of anything one may hold. A message is a msgpack array of its fields in
the order below, so a newer one may have more of them at its end. What the numbers in it may be is checked by whoever
acts on it. Anything that does not decode, or is too long, is a `FrameInvalid`.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any, Final

import msgspec

from broker.mesh.frame import (
    ACK,
    ASK,
    DIGEST,
    ENTRIES,
    HAVE,
    HELLO,
    PING,
    PROOFS,
    RANGES,
    SHAPE,
    UNREACHABLE,
    VOUCH,
    WANT,
    WHO,
    FrameInvalid,
    record,
)
from broker.mesh.limits import (
    ANNOUNCE_ENTRIES_MAX,
    CERTIFICATE_BYTES_MAX,
    DIGEST_ENTRIES_MAX,
    RANGE_LIST_MAX,
    RANGES_MAX,
    SHAPE_ORIGINS_MAX,
    VOUCHED_MAX,
    WANT_RANGES_MAX,
)

__all__ = [
    "Ack",
    "Ask",
    "Control",
    "Digest",
    "DigestEntry",
    "Entries",
    "EntryRow",
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
    "decode_control",
    "encode_control",
    "pack_sums",
    "unpack_sums",
]

Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Signer = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
"""A key, by 63 bits of its hash."""

DigestEntry = tuple[str, int, int, int, int, int]
"""origin, lane, passed incarnation, passed sequence, held after incarnation, held after sequence."""
WantRange = tuple[str, int, int, int, int, int]
"""origin, lane, after (incarnation, sequence), up to (incarnation, sequence)."""
EntryRow = tuple[str, bytes, int, int, int, str]
"""topic, payload (empty: deleted), qos, rank, clock, origin."""

_SUMS: Final = struct.Struct(">16Q")


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
