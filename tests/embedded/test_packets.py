"""The parser against arbitrary bytes and arbitrary reads, and every encoder against the parser."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.embedded import packets
from broker.embedded.limits import MESSAGE_BYTES_MAX, TOPIC_BYTES_MAX
from broker.embedded.packets import PacketParser
from broker.errors import MalformedPacket

topic_names = st.text(
    st.characters(exclude_characters="\0+#", exclude_categories=["Cs"]), min_size=1, max_size=60
)
packet_ids = st.integers(1, 65_535)


@st.composite
def whole_packets(draw: st.DrawFn) -> bytes:
    kind = draw(st.integers(0, 5))
    packet_id = draw(packet_ids)
    if kind == 0:
        size = draw(st.sampled_from([0, 1, 100, 127, 128, 16_383, 16_384, 70_000]))
        return packets.encode_publish(
            draw(topic_names), bytes(size), draw(st.integers(0, 2)), packet_id=packet_id
        )
    if kind == 1:
        return packets.encode_connect(draw(topic_names), draw(st.integers(0, 65_535)))
    if kind == 2:
        pairs = st.tuples(topic_names, st.integers(0, 2))
        return packets.encode_subscribe(packet_id, draw(st.lists(pairs, min_size=1, max_size=5)))
    if kind == 3:
        return packets.encode_suback(packet_id, draw(st.binary(min_size=1, max_size=300)))
    if kind == 4:
        acks = [packets.PUBACK, packets.PUBREC, packets.PUBREL, packets.PUBCOMP, packets.UNSUBACK]
        return packets.encode_ack(draw(st.sampled_from(acks)), packet_id)
    return draw(
        st.sampled_from(
            [packets.PINGREQ_PACKET, packets.PINGRESP_PACKET, packets.DISCONNECT_PACKET]
        )
    )


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def parse(chunks: list[bytes]) -> tuple[list[tuple[int, int, bytes]], bool]:
    """Parse chunk by chunk; returns the packets and whether the stream ended as malformed."""
    parser = PacketParser()
    found = []
    for chunk in chunks:
        parser.feed(chunk)
        try:
            drain(parser, found)
        except MalformedPacket:
            return found, True
    return found, False


def drain(parser: PacketParser, found: list[tuple[int, int, bytes]]) -> None:
    """Drain one packet per call of `packets`, so that stopping between packets is covered too."""
    while (packet := next(parser.packets(), None)) is not None:
        found.append(packet)


@given(st.lists(whole_packets(), max_size=6), st.lists(st.integers(0, 1_000_000), max_size=8))
def test_packets_come_back_whole_however_they_are_cut(sent: list[bytes], places: list[int]) -> None:
    found, malformed = parse(cut(b"".join(sent), places))
    assert not malformed
    rebuilt = []
    for packet, (kind, flags, body) in zip(sent, found, strict=True):
        assert packet[0] == kind << 4 | flags
        assert packet.endswith(body)
        rebuilt.append(packet[: len(packet) - len(body)] + body)
    assert rebuilt == sent


@given(st.lists(whole_packets(), max_size=3), st.binary(max_size=80), st.data())
def test_any_bytes_parse_alike_however_they_are_cut(
    sent: list[bytes], noise: bytes, data: st.DataObject
) -> None:
    stream = b"".join(sent) + noise
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=10))
    assert parse(cut(stream, places)) == parse([stream])


@given(st.binary(min_size=1, max_size=40))
def test_bytes_one_by_one_parse_as_at_once(stream: bytes) -> None:
    assert parse([bytes((byte,)) for byte in stream]) == parse([stream])


@given(topic_names, st.binary(max_size=300), st.integers(0, 2), packet_ids, st.data())
def test_publish_round_trip(
    topic: str, payload: bytes, qos: int, packet_id: int, data: st.DataObject
) -> None:
    retained = data.draw(st.booleans())
    duplicate = qos > 0 and data.draw(st.booleans())
    packet = packets.encode_publish(
        topic, payload, qos, packet_id=packet_id, retained=retained, duplicate=duplicate
    )
    parser = PacketParser()
    parser.feed(packet)
    [(kind, flags, body)] = parser.packets()
    assert kind == packets.PUBLISH
    assert flags == qos << 1 | retained | duplicate << 3
    assert packets.parse_publish(flags, body) == (topic, payload, packet_id if qos else 0)


@given(st.integers(0, 15), st.binary(max_size=60))
def test_publish_bodies_parse_or_are_malformed(flags: int, body: bytes) -> None:
    try:
        topic, _, packet_id = packets.parse_publish(flags, body)
    except MalformedPacket:
        return
    assert topic
    assert not set(topic) & set("+#\0")
    assert bool(packet_id) == bool(flags & 0x06)


@pytest.mark.parametrize(
    ("flags", "body"),
    [
        (0, b""),
        (0, b"\0"),
        (0, b"\0\0payload"),
        (0, b"\0\x05abcd"),
        (0, b"\0\x01+"),
        (0, b"\0\x01#"),
        (0, b"\0\x01\0"),
        (0, b"\0\x02\xc3\x28"),
        (0, b"\0\x03\xed\xa0\x80"),  # a surrogate
        (6, b"\0\x01a\0\x01"),
        (8, b"\0\x01a"),
        (2, b"\0\x01a\0\0"),
        (2, b"\0\x01a\0"),
        (0, b"\0\x01a" + bytes(MESSAGE_BYTES_MAX + 1)),
        (0, (TOPIC_BYTES_MAX + 1).to_bytes(2, "big") + b"a" * (TOPIC_BYTES_MAX + 1)),
        (0, b"\0\x46" + b"/" * 70),
    ],
)
def test_publish_refuses(flags: int, body: bytes) -> None:
    with pytest.raises(MalformedPacket):
        packets.parse_publish(flags, body)


@pytest.mark.parametrize(
    "stream",
    [
        b"\x00\x00",
        b"\xf0\x00",
        b"\xf0",
        b"\x81\x00",  # SUBSCRIBE without its flags
        b"\x62\x02\x00\x01\x60\x02\x00\x01",  # PUBREL, then one without its flags
        b"\xc1\x00",
        b"\x30\xff\xff\xff\xff\x01",
        b"\x30\x80\x80\x80\x80",
        b"\x30\x80\x80\x80\x01",  # 2 MiB
    ],
)
def test_stream_that_is_lost(stream: bytes) -> None:
    parser = PacketParser()
    parser.feed(stream)
    with pytest.raises(MalformedPacket):
        list(parser.packets())


def test_a_packet_before_the_malformed_one_is_handed_out() -> None:
    assert parse([b"\xc0\x00\xf0\x00"]) == ([(packets.PINGREQ, 0, b"")], True)


def test_frames_in_one_write_are_publishes_one_by_one() -> None:
    frames = [b"", b"x" * 200, b"y" * 65_536]
    field = packets.string_field("mesh/v1/b/a")
    expected = b"".join(packets.encode_publish("mesh/v1/b/a", frame) for frame in frames)
    assert packets.publish_frames(field, frames) == expected


@given(st.binary(max_size=4))
def test_packet_ids(body: bytes) -> None:
    if len(body) == 2 and any(body):
        assert packets.parse_packet_id(body) == int.from_bytes(body, "big")
    else:
        with pytest.raises(MalformedPacket):
            packets.parse_packet_id(body)


def test_a_long_packet_in_small_reads_is_not_copied_over_and_over() -> None:
    parser = PacketParser()
    packet = packets.encode_publish("t", bytes(MESSAGE_BYTES_MAX))
    for offset in range(0, len(packet) - 1, 1000):
        parser.feed(packet[offset : offset + 1000])
        found = list(parser.packets())
        if offset + 1000 < len(packet):
            assert not found
    assert len(found) == 1
    assert parser.buffered_bytes == 0
