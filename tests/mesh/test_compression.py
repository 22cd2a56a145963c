"""Compressed bodies: what comes back, what is not worth it, and what a neighbour may not do with them."""

import struct
from random import Random

import lz4.block
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.mesh.bundle import BundleInvalid, Header, Message, decode_body, encode_body
from broker.mesh.compression import CompressionInvalid, compress, decompress
from broker.mesh.limits import BODY_BYTES_MAX, COMPRESS_BYTES_MIN, COMPRESSION_RATIO_MAX

ALIKE = b'{"kind":"stopped-vehicle","version":%d}'


def messages(count):
    return [
        Message(1 + number, 2, 0, 0, f"a/{number % 7}", ALIKE % number) for number in range(count)
    ]


def forged(length, block):
    return struct.pack(">I", length) + block


@given(st.lists(st.sampled_from([b"north", b"south", b"\0", b"x" * 40]), max_size=400))
def test_a_body_comes_back_as_it_was(pieces):
    body = b"".join(pieces)
    compressed = compress(body)
    assert compressed is None or (decompress(compressed) == body and len(compressed) < len(body))


def test_messages_alike_travel_in_a_third():
    alike = messages(100)
    body, compressed = encode_body(alike)
    header = Header("a", 5, 1, 1, 100, 1000, 0, len(body), compressed=compressed)
    assert compressed
    assert len(body) < len(encode_body(alike[:50])[0]) * 3
    assert len(body) * 3 < sum(len(message.payload) for message in alike)
    assert decode_body(header, body) == alike


def test_what_is_small_or_saves_nothing_travels_as_it_is():
    assert compress(b"x" * (COMPRESS_BYTES_MIN - 1)) is None
    assert compress(Random(1).randbytes(8 * COMPRESS_BYTES_MIN)) is None


def test_what_is_too_much_alike_travels_as_it_is():
    assert compress(bytes(BODY_BYTES_MAX)) is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cut short"),
        (b"\0\0\0\1", "cut short"),
        (forged(BODY_BYTES_MAX + 1, bytes(BODY_BYTES_MAX // COMPRESSION_RATIO_MAX)), "would have"),
        (
            forged(BODY_BYTES_MAX, lz4.block.compress(bytes(BODY_BYTES_MAX), store_size=False)),
            "would have",
        ),
        (forged(2**32 - 1, b"\x10x"), "would have"),
        (forged(100, b"\xf0garbage"), "damaged"),
        (forged(9, lz4.block.compress(b"x" * 20, store_size=False)), "damaged"),
        (forged(21, lz4.block.compress(b"x" * 20, store_size=False)), "20 bytes that said 21"),
    ],
)
def test_what_is_no_compressed_body_is_refused(data, reason):
    with pytest.raises(CompressionInvalid, match=reason):
        decompress(data)


@given(st.binary(max_size=200), st.integers(0, 3000))
def test_arbitrary_bytes_never_raise_anything_else(block, length):
    try:
        assert len(decompress(forged(length, block))) == length
    except CompressionInvalid:
        pass


def test_a_body_that_does_not_decompress_is_a_bad_bundle():
    with pytest.raises(BundleInvalid, match="damaged"):
        decode_body(Header("a", 5, 1, 1, 1, 9, 0, 20, compressed=True), forged(64, b"\xf0" * 16))
