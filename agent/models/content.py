"""What a model's bytes are called: the digest of all, and of each piece in which they travel.

Decides into how many chunks content is cut: of 60 KiB each, larger where there would be more than CHUNKS_MAX. A chunk
is checked by its own digest when it comes, whoever it comes from; the whole by its digest before anybody sees it.
Assumes that who has a `Content` trusts where it came from: a signed manifest. On failure: one whose numbers do not fit
each other cannot be made; it raises `ValueError`, and decoding it `msgspec.ValidationError`.
Source: SHA-256, FIPS 180-4; chunk digests in the manifest as in Uptane's and SUIT's.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from agent.models.limits import (
    CHUNK_BYTES_MAX,
    CHUNK_BYTES_MIN,
    CHUNK_BYTES_STEP,
    CHUNKS_MAX,
    MODEL_BYTES_MAX,
)

__all__ = ["Content", "content_of", "sha256_of"]

DIGEST_BYTES: Final = 32
_DIGESTS_CHARACTERS_MAX: Final = (CHUNKS_MAX * DIGEST_BYTES + 2) // 3 * 4


class Content(msgspec.Struct, frozen=True, gc=False):
    """Bytes by their digests; stands in JSON as an object of these four."""

    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    """Of all bytes, in hex."""
    size_bytes: Annotated[int, Meta(ge=1, le=MODEL_BYTES_MAX)]
    chunk_bytes: Annotated[int, Meta(ge=1, le=CHUNK_BYTES_MAX)]
    """Of each chunk but the last, which has what is left."""
    chunks: Annotated[str, Meta(max_length=_DIGESTS_CHARACTERS_MAX)]
    """The SHA-256 of each chunk, 32 bytes, one after another and in base64."""

    def __post_init__(self) -> None:
        """Refuse numbers that do not fit each other.

        Raises:
            ValueError: There is not one digest for each chunk, or there are too many chunks.
        """
        if self.count > CHUNKS_MAX:
            raise ValueError(f"{self.count} chunks; at most {CHUNKS_MAX}, so make them larger")
        try:
            digests = base64.b64decode(self.chunks, validate=True)
        except ValueError:
            raise ValueError("the digests of the chunks are not base64") from None
        if len(digests) != self.count * DIGEST_BYTES:
            raise ValueError(
                f"{len(digests)} bytes of digests; {self.size_bytes} bytes in chunks of {self.chunk_bytes} need "
                f"{self.count * DIGEST_BYTES}"
            )

    @property
    def count(self) -> int:
        """How many chunks there are."""
        return -(-self.size_bytes // self.chunk_bytes)

    def digests(self) -> list[bytes]:
        """The SHA-256 of each chunk."""
        joined = base64.b64decode(self.chunks)
        return [joined[at : at + DIGEST_BYTES] for at in range(0, len(joined), DIGEST_BYTES)]

    def digest(self, index: int) -> bytes:
        """The SHA-256 of one chunk, at a tenth of the price of all."""
        begin, end = index * DIGEST_BYTES, (index + 1) * DIGEST_BYTES
        first, last = begin // 3, -(-end // 3)  # base64: four characters for three bytes
        return base64.b64decode(self.chunks[4 * first : 4 * last])[begin - 3 * first :][
            :DIGEST_BYTES
        ]

    def span(self, index: int) -> tuple[int, int]:
        """Where a chunk begins and how long it is, in bytes."""
        begin = index * self.chunk_bytes
        return begin, min(self.chunk_bytes, self.size_bytes - begin)


def sha256_of(data: bytes | memoryview) -> str:
    """Digest in hex."""
    return hashlib.sha256(data).hexdigest()


def content_of(data: bytes, chunk_bytes: int = 0) -> Content:
    """What these bytes are called. Takes 1.5 ms a megabyte: for large ones, call it in a thread.

    Args:
        data: The bytes.
        chunk_bytes: How to cut them, where somebody has decided that already; 0: as is best.

    Raises:
        ValueError: There are none, more than MODEL_BYTES_MAX, or too many chunks.
    """
    if not 1 <= len(data) <= MODEL_BYTES_MAX:
        raise ValueError(f"{len(data)} bytes; content has 1 to {MODEL_BYTES_MAX}")
    if not chunk_bytes:
        least_bytes = -(-len(data) // CHUNKS_MAX)
        chunk_bytes = max(CHUNK_BYTES_MIN, -(-least_bytes // CHUNK_BYTES_STEP) * CHUNK_BYTES_STEP)
    if len(data) > CHUNKS_MAX * chunk_bytes:  # before each has cost a digest
        raise ValueError(f"{len(data)} bytes in chunks of {chunk_bytes}; at most {CHUNKS_MAX}")
    view = memoryview(data)
    pieces = (view[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes))
    digests = b"".join(hashlib.sha256(piece).digest() for piece in pieces)
    return Content(sha256_of(data), len(data), chunk_bytes, base64.b64encode(digests).decode())
