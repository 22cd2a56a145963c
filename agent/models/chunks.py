"""What devices say to each other about content: questions and answers as JSON, chunks as bytes.

A device asks the service `chunks` of a neighbour; what it is given comes on `chunk/{to}/{from}/{id}`, whose id is the
first 32 digits of the content's digest. Each of these says what its sender has, a bit for each chunk, the first chunk
in the lowest bit of the first byte. A chunk message is

    1 byte    version, 1
    2 bytes   index of the chunk, big-endian
    2 bytes   length of the bits
    n bytes   the bits
    the rest  the chunk; empty: only the bits are news

Decides nothing but the form. Assumes nothing of what comes. On failure: `ChunkInvalid`.
"""

from __future__ import annotations

import struct
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from agent.models.limits import ASK_CHUNKS_MAX, CHUNK_BYTES_MAX, CHUNKS_MAX

__all__ = [
    "SERVICE",
    "Answer",
    "Chunk",
    "ChunkInvalid",
    "Question",
    "bits_of",
    "decode_answer",
    "decode_chunk",
    "decode_question",
    "encode_chunk",
    "text_of",
    "transfer_of",
]

SERVICE: Final = "chunks"
VERSION: Final = 1
_HEAD: Final = struct.Struct(">BHH")
_BITS_BYTES_MAX: Final = (CHUNKS_MAX + 7) // 8
_Bits = Annotated[str, Meta(pattern=r"^([0-9a-f]{2})*\Z", max_length=2 * _BITS_BYTES_MAX)]
_Index = Annotated[int, Meta(ge=0, lt=CHUNKS_MAX)]
_Indices = Annotated[tuple[_Index, ...], Meta(max_length=ASK_CHUNKS_MAX)]


class ChunkInvalid(ValueError):
    """What a neighbour said cannot be read."""


class Question(msgspec.Struct, frozen=True):
    """What do you have, and give me these."""

    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    """Which content."""
    chunk_bytes: Annotated[int, Meta(ge=1, le=CHUNK_BYTES_MAX)]
    """How the asker cuts it."""
    have: _Bits
    """What the asker has, in hex."""
    want: _Indices = ()


class Answer(msgspec.Struct, frozen=True):
    """What I have, and what of your wishes is on its way."""

    have: _Bits | None = None
    """In hex; null: this device has nothing to do with that content."""
    coming: _Indices = ()


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """A chunk message."""

    index: int
    have: int
    """What the sender has, a bit each."""
    data: bytes


_question: Final = msgspec.json.Decoder(Question).decode
_answer: Final = msgspec.json.Decoder(Answer).decode


def transfer_of(sha256: str) -> str:
    """The id in the topics of content's chunks."""
    return sha256[:32]


def text_of(have: int, count: int) -> str:
    """Bits of `count` chunks as they stand in JSON."""
    return have.to_bytes((count + 7) // 8, "little").hex()


def bits_of(text: str, count: int) -> int:
    """The same back. Bits beyond the last chunk count for nothing."""
    return int.from_bytes(bytes.fromhex(text), "little") & ((1 << count) - 1)


def decode_question(payload: bytes) -> Question:
    """Read a question.

    Raises:
        ChunkInvalid: It is none.
    """
    try:
        return _question(payload)
    except (ValueError, RecursionError) as error:
        raise ChunkInvalid(f"not a question for chunks: {error}") from None


def decode_answer(payload: bytes) -> Answer:
    """Read an answer.

    Raises:
        ChunkInvalid: It is none.
    """
    try:
        return _answer(payload)
    except (ValueError, RecursionError) as error:
        raise ChunkInvalid(f"not an answer about chunks: {error}") from None


def encode_chunk(index: int, have: int, count: int, data: bytes) -> bytes:
    """The payload of a chunk message; without data, word of what this device has."""
    bits = have.to_bytes((count + 7) // 8, "little")
    return _HEAD.pack(VERSION, index, len(bits)) + bits + data


def decode_chunk(payload: bytes, count: int) -> Chunk:
    """Read the payload of a chunk message about content of `count` chunks.

    Raises:
        ChunkInvalid: It is none.
    """
    if len(payload) < _HEAD.size:
        raise ChunkInvalid(f"{len(payload)} bytes are no chunk")
    version, index, length = _HEAD.unpack_from(payload)
    if version != VERSION or index >= count or length != (count + 7) // 8:
        raise ChunkInvalid(f"version {version}, chunk {index} of {count}, {length} bytes of bits")
    end = _HEAD.size + length
    bits = payload[_HEAD.size : end]
    if len(bits) != length:
        raise ChunkInvalid("it ends within its bits")
    have = int.from_bytes(bits, "little") & ((1 << count) - 1)
    return Chunk(index, have, payload[end:])
