"""Questions, answers and chunk messages: their bytes, and what is none of them."""

import json
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.models.chunks import (
    Answer,
    ChunkInvalid,
    Question,
    bits_of,
    decode_answer,
    decode_chunk,
    decode_question,
    encode_chunk,
    text_of,
)
from agent.models.limits import ASK_CHUNKS_MAX, CHUNKS_MAX

SHA = "ab" * 32


def test_the_bytes_of_a_chunk_message():
    payload = encode_chunk(258, 0b101 | 1 << 299, 300, b"data")
    assert payload == struct.pack(">BHH", 1, 258, 38) + b"\x05" + bytes(36) + b"\x08" + b"data"
    chunk = decode_chunk(payload, 300)
    assert (chunk.index, chunk.have, chunk.data) == (258, 0b101 | 1 << 299, b"data")


@given(count=st.integers(1, CHUNKS_MAX), data=st.data())
def test_what_is_said_is_understood(count, data):
    index = data.draw(st.integers(0, count - 1))
    have = data.draw(st.integers(0, (1 << count) - 1))
    body = data.draw(st.binary(max_size=100))
    chunk = decode_chunk(encode_chunk(index, have, count, body), count)
    assert (chunk.index, chunk.have, chunk.data) == (index, have, body)
    assert bits_of(text_of(have, count), count) == have


@given(st.binary(max_size=200), st.integers(1, CHUNKS_MAX))
def test_whatever_comes_is_a_chunk_message_or_refused(payload, count):
    try:
        chunk = decode_chunk(payload, count)
    except ChunkInvalid:
        return
    assert 0 <= chunk.index < count
    assert 0 <= chunk.have < 1 << count


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x01\0\0\0",
        struct.pack(">BHH", 2, 0, 1) + b"\0",
        struct.pack(">BHH", 1, 8, 1) + b"\0",
        struct.pack(">BHH", 1, 0, 2) + b"\0\0",
        struct.pack(">BHH", 1, 0, 1),
    ],
    ids=["empty", "short", "version", "index", "bits", "cut"],
)
def test_what_is_no_chunk_message(payload):
    with pytest.raises(ChunkInvalid):
        decode_chunk(payload, 8)


def test_bits_beyond_the_last_chunk_count_for_nothing():
    assert bits_of("ff", 3) == 0b111
    assert decode_chunk(struct.pack(">BHH", 1, 0, 1) + b"\xff", 3).have == 0b111


def test_questions_and_answers_survive_json():
    question = Question(SHA, 32_768, "ff00", (1, 2))
    assert decode_question(msgspec.json.encode(question)) == question
    answer = Answer("00ff", (3,))
    assert decode_answer(msgspec.json.encode(answer)) == answer
    assert decode_answer(b"{}") == Answer()


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "ab"},
        {"chunk_bytes": 0},
        {"have": "f"},
        {"have": "zz"},
        {"have": "00" * 1_000},
        {"want": list(range(ASK_CHUNKS_MAX + 1))},
        {"want": [-1]},
        {"want": [CHUNKS_MAX]},
        {"want": "all"},
    ],
    ids=str,
)
def test_what_is_no_question(change):
    good = {"sha256": SHA, "chunk_bytes": 32_768, "have": "", "want": []}
    decode_question(json.dumps(good).encode())
    with pytest.raises(ChunkInvalid):
        decode_question(json.dumps(good | change).encode())


@pytest.mark.parametrize("payload", [b"", b"[]", b'{"have": 3}', b'{"coming": [-1]}', b"[" * 9_999])
def test_what_is_no_answer(payload):
    with pytest.raises(ChunkInvalid):
        decode_answer(payload)
