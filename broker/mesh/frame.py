"""What one MQTT publish between two neighbours holds: a checksum and a row of records.

Decides the outer wire format. A frame is `u8 version, u32 crc32 of the rest, records`; a record is `u8 kind, u32
length, body`. Unknown kinds are passed over, so a newer neighbour can say more. A record larger than a frame travels
as PARTs. Anything wrong is a `FrameInvalid` for the whole frame: what a damaged frame held comes back by repair.

What records hold: bundles and credit are read here, control messages in `control.py`, parts in `parts.py`.
"""

from __future__ import annotations

import struct
from typing import Final
from zlib import crc32

from broker.mesh.bundle import BundleInvalid, Header, decode_header
from broker.mesh.limits import FRAME_BYTES_MAX, RECORDS_MAX

__all__ = [
    "SERVED",
    "FrameInvalid",
    "decode_bundle",
    "decode_credit",
    "decode_frame",
    "encode_bundle",
    "encode_credit",
    "encode_frame",
    "record",
    "unpack_record",
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

_HEAD: Final = struct.Struct(">BI")
_RECORD: Final = struct.Struct(">BI")
_BUNDLE: Final = struct.Struct(">IBH")
_CREDIT: Final = struct.Struct(">Q")
HEAD_BYTES: Final = _HEAD.size
RECORD_BYTES: Final = _RECORD.size


class FrameInvalid(ValueError):
    """Raised when a frame or a record in it is not what it claims. The text says what is wrong."""


def record(kind: int, body: bytes) -> bytes:
    """One record."""
    return _RECORD.pack(kind, len(body)) + body


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
