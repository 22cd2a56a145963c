"""Records that hypothesis makes up, sound and mutated: only the codec's own errors, and a mesh that goes on.

`make fuzz` goes on from here, led by coverage.
"""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.mesh import control, frame
from broker.mesh.bundle import (
    BundleInvalid,
    Message,
    decode_body,
    decode_header,
    encode_body,
    encode_header,
)
from broker.mesh.control import (
    Ack,
    Ask,
    Digest,
    Entries,
    Have,
    Hello,
    Ping,
    Proofs,
    Ranges,
    Shape,
    Unreachable,
    Vouch,
    Want,
    Who,
    decode_control,
    encode_control,
)
from broker.mesh.events import Deliver
from broker.mesh.frame import FrameInvalid
from broker.mesh.parts import _PART, Assembly, split
from tests.mesh.drawn import headers
from tests.mesh.hostile import Driver, containers

bounded = settings(derandomize=True, deadline=None, max_examples=300)

names = st.sampled_from(["a", "g", "h", "o", "", "O", "o" * 33])
numbers = st.one_of(
    st.integers(0, 9), st.integers(-(2**63), 2**64 - 1), st.sampled_from([2**31, 2**32, 2**63 - 1])
)
counts = st.one_of(st.integers(0, 9), st.integers(0, 2**63 - 1))
lanes = st.integers(-1, 11)
topics = st.sampled_from(["t", "t/u", "local/x", "#", "é" * 9])


def rows(*columns):
    return st.lists(st.tuples(*columns), max_size=4)


versions = rows(numbers, numbers, numbers, names)
sums = st.one_of(st.binary(min_size=128, max_size=128), st.binary(max_size=9))
controls = st.one_of(
    st.builds(Hello, numbers, names, numbers, numbers, numbers, st.booleans()),
    st.builds(Ping, counts, counts, counts),
    st.builds(
        Digest, st.booleans(), st.booleans(), st.booleans(), numbers, numbers, numbers,
        rows(names, lanes, numbers, numbers, numbers, numbers),
    ),
    st.builds(Want, rows(names, lanes, numbers, numbers, numbers, numbers)),
    st.builds(
        Ranges, numbers, rows(st.integers(-1, 17), numbers, sums),
        rows(st.integers(-1, 17), numbers, versions),
    ),
    st.builds(
        Entries, rows(topics, st.binary(max_size=9), st.integers(-1, 4), numbers, numbers, names)
    ),
    st.builds(Ask, numbers, st.lists(numbers, max_size=4), st.lists(numbers, max_size=4)),
    st.builds(Have, rows(names, lanes, numbers, numbers, st.integers(-1, 256))),
    st.builds(Shape, st.lists(names, max_size=4), st.lists(names, max_size=4)),
    st.builds(Ack, names, numbers, names, numbers, st.booleans(), numbers),
    st.builds(Unreachable, names, numbers, names, numbers, st.booleans()),
    st.builds(Proofs, rows(topics, st.binary(max_size=60), st.binary(max_size=9))),
    st.builds(Who, st.lists(st.integers(1, 2**63 - 1), max_size=20)),
    st.builds(Vouch, rows(st.integers(1, 2**63 - 1), st.binary(max_size=9))),
)  # fmt: skip


@st.composite
def bundles(draw):
    """A bundle that is sound, or nearly."""
    lifetime_ms = draw(st.sampled_from([0, 1_000]))
    message = Message(
        draw(st.integers(1, 2**20)), draw(st.integers(0, 7)), lifetime_ms, draw(counts),
        draw(topics), draw(st.binary(max_size=9)),
    )  # fmt: skip
    body, compressed = encode_body([message] * draw(st.integers(1, 3)))
    header = draw(headers())._replace(
        origin=draw(names), sequence=draw(st.integers(0, 5)), incarnation=draw(st.integers(1, 3)),
        clock=2**20, messages=draw(st.integers(1, 3)), lifetime_ms=lifetime_ms,
        body_bytes=len(body), closes=draw(st.none() | st.tuples(st.integers(0, 2), counts)),
        to=draw(st.sampled_from(["", "a", "g", "q"])),
        compressed=compressed is not draw(st.sampled_from([False] * 9 + [True])),
    )  # fmt: skip
    remaining_ms = draw(st.sampled_from([0, 1, lifetime_ms or frame.NEVER]))
    kind = frame.UNICAST if header.to else frame.BUNDLE
    sent = body if remaining_ms else b""
    return frame.encode_bundle(
        encode_header(header), sent, remaining_ms, draw(st.integers(0, 255)), kind
    )


@st.composite
def mutated(draw, records):
    """A record with some bytes changed, cut out or put in; its length is right again."""
    data = draw(records)
    body = bytearray(data[frame.RECORD_BYTES :])
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
    return frame.record(data[0], bytes(body))


sound = st.one_of(controls.map(encode_control), bundles())
parts = st.one_of(
    st.tuples(sound, st.integers(0, 2)).map(lambda of: split(of[0], of[1])[0]),
    st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 12), st.binary(max_size=9)).map(
        lambda of: frame.record(frame.PART, _PART.pack(*of[:3]) + of[3])
    ),
)
records = st.one_of(
    sound,
    mutated(sound),
    parts,
    counts.map(frame.encode_credit),
    st.builds(frame.record, st.integers(0, 255), st.binary(max_size=40)),
)


@bounded
@given(records)
def test_the_codec_raises_nothing_but_its_own_errors(record):
    kind, body = record[0], record[frame.RECORD_BYTES :]
    try:
        if kind in control._decoders:
            message = decode_control(kind, body)
            assert decode_control(kind, encode_control(message)[5:]) == message
        elif kind in (frame.BUNDLE, frame.UNICAST):
            header, head, sent, _, _ = frame.decode_bundle(body, kind)
            assert encode_header(header) == head
            assert decode_header(head) == header
            messages = decode_body(header, sent) if sent else []
            assert all(0 < message.clock <= header.clock for message in messages)
        elif kind == frame.CREDIT:
            frame.decode_credit(body)
        elif kind == frame.PART:
            Assembly().add(body)
    except (FrameInvalid, BundleInvalid):
        pass


@bounded
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_a_frame_or_a_bad_one(data, checked):
    if checked:
        data = frame._HEAD.pack(frame.VERSION, frame.crc32(data)) + data
    try:
        records = frame.decode_frame(data)
    except FrameInvalid:
        return
    assert frame.encode_frame([frame.record(*record) for record in records]) == data


steps = st.tuples(st.sampled_from("hhhg"), st.lists(records, max_size=3), st.integers(0, 400))


@bounded
@given(st.lists(steps, max_size=12), st.sampled_from([0, 1, 1 << 20]))
def test_a_mesh_goes_on_whatever_it_is_told(story, budget):
    driver = Driver(Random(1))
    for peer in "gh":
        driver.link_up(peer, budget)
        driver.say(peer, Hello(1, peer, 1, 0, 1, True))
    driver.link_up("i")
    driver.say("i", Hello(1, "i", 1, 0, 1, True))
    for peer, told, pause_ms in story:
        driver.say(peer, *told)
        driver.wait(pause_ms)
        driver.say("i", frame.record(frame.PONG, b""))
    driver.mesh.publish("u", b"own", driver.now_ns, qos=1)
    driver.settle()
    assert driver.heard()[-1] == b"own"
    assert driver.sent["i"]
    assert all(message.topic != "local/x" for event in driver.events if isinstance(event, Deliver)
               for message in event.messages)  # fmt: skip
    assert max(size for _, size in containers(driver.mesh)) < 200
