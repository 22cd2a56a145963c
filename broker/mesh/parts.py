"""A record that is larger than a frame, in pieces.

Decides how it is cut and put together again. Parts carry the record's number, their place and how many there are. They
may come twice or out of order (a broker in the middle does that to frames), and one may be missing: then the record is
given up when the next one begins, and repair brings it back.

Assumes that a neighbour sends one such record after the other, so parts of at most one are held.
"""

from __future__ import annotations

import struct
from typing import Final

from broker.mesh.frame import PART, FrameInvalid, record, unpack_record
from broker.mesh.limits import MESSAGE_BYTES_MAX

__all__ = ["Assembly", "split"]

PART_BYTES: Final = 48 * 1024
"""Payload of one PART: leaves room in a frame, so that a part never waits for a frame of its own size."""
PARTS_MAX: Final = (2 * MESSAGE_BYTES_MAX) // PART_BYTES + 1
_HALF: Final = 1 << 31
_MASK: Final = (1 << 32) - 1
_PART: Final = struct.Struct(">IHH")


def split(record_bytes: bytes, number: int) -> list[bytes]:
    """A record as PART records; `number` is one more with each record of a link, in 32 bits."""
    chunks = [record_bytes[at : at + PART_BYTES] for at in range(0, len(record_bytes), PART_BYTES)]
    return [
        record(PART, _PART.pack(number & _MASK, index, len(chunks)) + chunk)
        for index, chunk in enumerate(chunks)
    ]


class Assembly:
    """Puts the parts that come from one neighbour together again."""

    __slots__ = ("_chunks", "_number", "_whole")

    def __init__(self) -> None:
        self._number: int | None = None
        self._chunks: dict[int, bytes] = {}
        self._whole = False
        """Whether the record of this number was completed."""

    def add(self, data: bytes) -> tuple[int, bytes] | None:
        """The (kind, body) that this part completes, or None.

        Raises:
            FrameInvalid: The part is impossible.
        """
        if len(data) <= _PART.size or len(data) > PART_BYTES + _PART.size:
            raise FrameInvalid("part of an impossible size")
        number, index, total = _PART.unpack_from(data)
        if not 0 < total <= PARTS_MAX or index >= total:
            raise FrameInvalid("part of an impossible record")
        if self._number is None or 0 < (number - self._number) & _MASK < _HALF:
            self._number, self._chunks, self._whole = number, {}, False
        if number != self._number or self._whole:
            return None
        self._chunks[index] = data[_PART.size :]
        if len(self._chunks) < total:
            return None
        whole = b"".join(self._chunks[place] for place in sorted(self._chunks))
        self._chunks, self._whole = {}, True
        kind, body = unpack_record(whole)
        if kind == PART:
            raise FrameInvalid("parts within parts")
        return kind, body
