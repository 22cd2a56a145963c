"""Bundles and frames as bytes: round trips, damage, and bytes that never were a frame."""

import struct
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.mesh import control, frame
from broker.mesh.bundle import (
    BundleInvalid,
    Header,
    Message,
    decode_body,
    decode_header,
    encode_body,
    encode_header,
    lane_of,
)
from broker.mesh.control import Digest, Hello, decode_control, encode_control
from broker.mesh.frame import NEVER, FrameInvalid
from broker.mesh.limits import FRAME_BYTES_MAX, MS
from broker.mesh.mesh import Mesh
from broker.mesh.parts import Assembly, split
from tests.mesh.drawn import headers, ids


@given(headers())
def test_a_header_comes_back_as_it_was(header):
    assert decode_header(encode_header(header)) == header


@given(headers(), st.data())
def test_a_header_cut_short_or_lengthened_is_refused(header, data):
    encoded = encode_header(header)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(BundleInvalid):
        decode_header(encoded[:cut])
    with pytest.raises(BundleInvalid):
        decode_header(encoded + b"\0")


@given(st.binary(max_size=300))
def test_arbitrary_bytes_never_raise_anything_else(data):
    for decode in (decode_header, frame.decode_frame, frame.decode_bundle):
        try:
            decode(data)
        except (BundleInvalid, FrameInvalid):
            pass
    for kind in control._decoders:
        try:
            decode_control(kind, data)
        except FrameInvalid:
            pass


def body_of(messages, *, lane=lane_of(2, kept=True), clock=1000, lifetime_ms=0, count=None):
    body, compressed = encode_body(messages)
    number = len(messages) if count is None else count
    return Header(
        "a", lane, 1, 1, number, clock, lifetime_ms, len(body), compressed=compressed
    ), body


def message(clock=1, flags=2, lifetime_ms=0, rank=0, topic="t", payload=b"p"):
    return Message(clock, flags, lifetime_ms, rank, topic, payload)


@given(
    st.lists(
        st.builds(message, topic=st.text("abc/é", min_size=1), payload=st.binary()), min_size=1
    )
)
def test_a_body_comes_back_as_it_was(messages):
    header, body = body_of(messages)
    assert decode_body(header, body) == messages


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (body_of([message()], count=2), "messages where"),
        (body_of([message(flags=0)]), "QoS"),
        (body_of([message(flags=6)]), "QoS"),
        (body_of([message(clock=2000)]), "clock"),
        (body_of([message(clock=0)]), "int. >= 1"),
        (body_of([message(rank=2**63)]), "int. <= "),
        (body_of([message(lifetime_ms=5)]), "outlives"),
        (body_of([message(topic="")]), "str. of length >= 1"),
        (body_of([message(topic="x" * 1025)]), "str. of length <= 1024"),
        (body_of([message(topic="a/+")]), "filter"),
        (body_of([message(topic="a\0b")]), "NUL"),
        ((body_of([message()])[0], b"\xc1garbage"), "decode"),
        ((body_of([message()])[0], b"\x91\x96\x01\x02\x00\x00\xa1\xff\xc4\x01p"), "decode"),
    ],
)
def test_an_impossible_body_is_refused(broken, reason):
    with pytest.raises(BundleInvalid, match=reason):
        decode_body(*broken)


@given(st.lists(st.binary(max_size=100), max_size=20))
def test_frames_come_back_as_they_were(bodies):
    records = [frame.record(200 + n % 5, body) for n, body in enumerate(bodies)]
    decoded = frame.decode_frame(frame.encode_frame(records))
    assert [body for _, body in decoded] == bodies


@given(st.binary(min_size=1, max_size=200), st.data())
def test_a_flipped_bit_is_noticed(body, data):
    encoded = bytearray(frame.encode_frame([frame.record(frame.PING, body)]))
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    with pytest.raises(FrameInvalid):
        frame.decode_frame(bytes(encoded))


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (b"", "cut short"),
        (b"\x01\0\0", "cut short"),
        (bytes(FRAME_BYTES_MAX + 1), "over the limit"),
        (b"\x02" + frame.encode_frame([])[1:], "version 2"),
        (frame.encode_frame([struct.pack(">BI", 2, 99) + b"x"]), "longer than its frame"),
        (frame.encode_frame([b"\x02\0"]), "cut short"),
        (frame.encode_frame([frame.record(2, b"")] * 3000), "too many"),
    ],
)
def test_an_impossible_frame_is_refused(broken, reason):
    with pytest.raises(FrameInvalid, match=reason):
        frame.decode_frame(broken)


@given(st.integers(60_000, 500_000), st.integers(0, 2**32 - 1))
def test_a_large_record_is_put_together_from_its_parts(size, number):
    body = Random(size).randbytes(size)
    parts = split(frame.record(frame.BUNDLE, body), number)
    assembly = Assembly()
    whole = None
    for part in parts:
        assert whole is None
        ((_, data),) = frame.decode_frame(frame.encode_frame([part]))
        whole = assembly.add(data)
    assert whole == (frame.BUNDLE, body)


def test_a_missing_part_gives_the_record_up():
    parts = split(frame.record(frame.BUNDLE, bytes(200_000)), 7)
    assembly = Assembly()
    data = [frame.decode_frame(frame.encode_frame([part]))[0][1] for part in parts]
    assert [assembly.add(part) for part in (data[0], *data[2:])] == [None] * (len(data) - 1)


def test_parts_may_come_twice_and_out_of_order_and_late():
    number = 2**32 - 1
    body = Random(3).randbytes(200_000)
    first, second = (
        [
            frame.decode_frame(frame.encode_frame([part]))[0][1]
            for part in split(frame.record(frame.BUNDLE, of), n)
        ]
        for of, n in ((body, number), (body[::-1], number + 1))
    )
    assembly = Assembly()
    shuffled = first[::-1] + first
    whole = [assembly.add(part) for part in (shuffled[0], *shuffled)]
    assert [w for w in whole if w] == [(frame.BUNDLE, body)]
    mixed = [second[0], first[1], *second[1:], first[0], *second]
    assert [w for w in map(assembly.add, mixed) if w] == [(frame.BUNDLE, body[::-1])]


def test_the_wire_format_holds_still():
    header = Header("j-1-1", 3, 7, 1, 1, 0x18BCFE568000001, 60_000, 23, closes=(6, 41))
    body, _ = encode_body([Message(0x18BCFE568000001, 2, 60_000, 0, "a/b", b"x")])
    record = frame.encode_bundle(encode_header(header), body, 59_000, 2)
    assert frame.encode_frame([record]).hex() == GOLDEN


GOLDEN = (
    "01a010e78f04000000550000e67802003701030001000000070000000000000001018bcfe5680000"
    "010000ea6000000017056a2d312d3100000006000000000000002900000000009196cf018bcfe568"
    "00000102cdea6000a3612f62c40178"
)


def fed(*frames):
    """A mesh that has met `b` and then got these frames."""
    mesh = Mesh("a", Random(1), now_ns=0, wall_ms=1_700_000_000_000)
    mesh.link_up("b", 0)
    hello = encode_control(Hello(1, "b", 1, 0, 1, True))
    mesh.receive("b", frame.encode_frame([hello]), 0)
    for data in frames:
        mesh.receive("b", data, 0)
    mesh.seal(0)
    mesh.frames_to_send("b", 1 << 20, 0)
    return mesh


kinds = st.integers(1, 12)


@given(st.lists(st.lists(st.tuples(kinds, st.binary(max_size=80)), max_size=4), max_size=8))
def test_no_record_makes_the_mesh_raise_or_grow(frames):
    mesh = fed(*(frame.encode_frame([frame.record(k, b) for k, b in rows]) for rows in frames))
    assert mesh.statistics().log_bundles == 0
    mesh.handle_timer(10_000 * MS)


numbers = st.integers(0, 2**64 - 1)


@given(
    st.lists(st.tuples(ids, st.integers(0, 12), numbers, numbers, numbers, numbers), max_size=10),
    numbers,
    st.booleans(),
)
def test_a_digest_that_lies_is_asked_about_and_nothing_more(entries, vector_hash, full):
    digest = encode_control(Digest(full, True, False, vector_hash, 0, 0, entries))
    mesh = fed(frame.encode_frame([digest]))
    for step in range(20):
        mesh.handle_timer(step * 500 * MS)
        mesh.take_changes()
        mesh.frames_to_send("b", 1 << 20, step * 500 * MS)
    assert mesh.statistics().streams <= len(entries)


def test_a_remaining_lifetime_must_fit_the_bundle():
    header, body = body_of([message()])
    encoded = encode_header(header)
    for remaining_ms, sent in ((5, body), (0, b""), (NEVER, body[:-1])):
        with pytest.raises(FrameInvalid):
            frame.decode_bundle(frame.encode_bundle(encoded, sent, remaining_ms, 0)[5:])
