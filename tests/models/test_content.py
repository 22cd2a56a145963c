"""Content by its digests: how it is cut, and what cannot be said of it."""

import hashlib
from random import Random

import msgspec
import pytest

from agent.models.content import Content, content_of
from agent.models.limits import CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, CHUNKS_MAX, MODEL_BYTES_MAX


@pytest.mark.parametrize(
    "size_bytes", [1, CHUNK_BYTES_MIN - 1, CHUNK_BYTES_MIN, CHUNK_BYTES_MIN + 1, 300_000]
)
def test_chunks_cover_every_byte_once_and_have_their_digests(size_bytes):
    data = Random(1).randbytes(size_bytes)
    content = content_of(data)
    assert content.sha256 == hashlib.sha256(data).hexdigest()
    pieces = []
    for index, digest in enumerate(content.digests()):
        begin, length = content.span(index)
        pieces.append(data[begin : begin + length])
        assert hashlib.sha256(pieces[-1]).digest() == digest
    assert b"".join(pieces) == data
    assert len(pieces) == content.count


@pytest.mark.parametrize(
    "size_bytes", [CHUNKS_MAX * CHUNK_BYTES_MIN, CHUNKS_MAX * CHUNK_BYTES_MIN + 1, MODEL_BYTES_MAX]
)
def test_large_content_has_larger_chunks_and_three_of_it_fit_a_manifest(size_bytes):
    content = content_of(bytes(size_bytes))
    assert content.count <= CHUNKS_MAX
    assert content.chunk_bytes <= CHUNK_BYTES_MAX
    assert 3 * len(msgspec.json.encode(content)) < 60_000


@pytest.mark.parametrize("size_bytes", [0, MODEL_BYTES_MAX + 1])
def test_nothing_and_too_much_are_no_content(size_bytes):
    with pytest.raises(ValueError, match="content has 1 to"):
        content_of(bytes(size_bytes))


def test_it_survives_json():
    content = content_of(Random(2).randbytes(100_000))
    assert msgspec.json.decode(msgspec.json.encode(content), type=Content) == content


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "0" * 63},
        {"sha256": "G" * 64},
        {"size_bytes": 0},
        {"size_bytes": MODEL_BYTES_MAX + 1},
        {"size_bytes": 100_000 + CHUNK_BYTES_MIN},
        {"chunk_bytes": 0},
        {"chunk_bytes": 1},
        {"chunk_bytes": CHUNK_BYTES_MAX + 1},
        {"chunks": ""},
        {"chunks": "?" * 172},
        {"chunks": "A" * 200_000},
    ],
    ids=str,
)
def test_what_does_not_fit_together_cannot_be_read(change):
    fields = msgspec.to_builtins(content_of(Random(2).randbytes(100_000))) | change
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(fields), type=Content)


def test_too_many_chunks_are_found_before_they_are_digested(monkeypatch):
    monkeypatch.setattr(hashlib, "sha256", lambda *_: pytest.fail("a digest was taken"))
    with pytest.raises(ValueError, match="at most"):
        content_of(bytes(CHUNKS_MAX + 1), 1)
