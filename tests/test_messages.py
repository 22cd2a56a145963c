import json
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import messages
from agent.limits import PAYLOAD_BYTES_MAX, REASON_CHARACTERS_MAX
from agent.messages import PayloadInvalid, decode, encode
from broker.topics import TABLE

AT_MS = 1_760_000_000_000
SHA256 = 64 * "a"

VALID = {
    "heartbeat": messages.Heartbeat(at_ms=AT_MS, incarnation=1, uptime_s=2.5, links=3, sequence=4),
    "status": messages.Status(state="lost", incarnation=1, refutation=0, at_ms=AT_MS, by="j-2"),
    "obstacle": messages.Obstacle(
        kind="stopped",
        state="present",
        approach="n",
        distance_m=12.5,
        version=1,
        at_ms=AT_MS,
        ttl_ms=60_000,
    ),
    "count": messages.Count(replicas={"1": (3, 1), "2": (0, 0)}),
    "task": messages.TaskSet(elements={"sweep": (("j-1:1", 2),)}, context={"j-1:1": 2}),
    "model": messages.SignedModel(
        manifest=messages.Model(site="town", name="forecast", version="1.0", counter=1)
    ),
    "model-status": messages.ModelStatus(
        name="forecast",
        version="1.0",
        manifest=SHA256,
        sha256=SHA256,
        state="active",
        reason="",
        running="1.0",
        refused={"lower counter": 2},
        at_ms=AT_MS,
    ),
    "resources": messages.Resources(
        cpu_percent=12.5, rss_mb=80.0, loop_lag_ms=0.2, temperature_c=None, at_ms=AT_MS
    ),
    "sensor": messages.Reading(
        tick_s=7.0,
        phase=2,
        standing=(0, 1, 2, 3),
        vehicles=(4, 5, 6, 7),
        speed_mps=(1.5, 0.0, 3.0, 13.9),
        at_ms=AT_MS,
    ),
    "inference": messages.Inference(
        name="forecast",
        version="1.0",
        tick_s=7.0,
        horizon_s=30.0,
        forecast=(1.0, -0.5),
        latency_ms=1.2,
        state_age_ms=3.4,
        at_ms=AT_MS,
    ),
    "link": messages.Link(state="up", rtt_ms=None, at_ms=AT_MS),
}

UNTYPED = {
    "call", "reply", "chunk", "bridge", "certificate", "revocation", "fleet-key", "local", "frame",
    "announcement", "other",
}  # fmt: skip
"""Classes whose payloads have a reader of their own."""


def test_every_class_has_a_type_or_says_why_not():
    assert set(VALID) | UNTYPED == {row.name for row in TABLE}
    for name in UNTYPED:
        with pytest.raises(KeyError):
            decode(name, b"{}")


@pytest.mark.parametrize("name", VALID)
def test_round_trip(name):
    payload = encode(VALID[name])
    assert decode(name, payload) == VALID[name]
    assert encode(decode(name, payload)) == payload


@pytest.mark.parametrize("name", VALID)
def test_fields_of_newer_writers_are_ignored(name):
    fields = json.loads(encode(VALID[name])) | {"colour": {"of": ["the", 1]}}
    assert decode(name, json.dumps(fields).encode()) == VALID[name]


@pytest.mark.parametrize("name", VALID)
def test_every_field_is_needed(name):
    fields = json.loads(encode(VALID[name]))
    for field in fields:
        less = {key: value for key, value in fields.items() if key != field}
        with pytest.raises(PayloadInvalid, match=f"required field `{field}`"):
            decode(name, json.dumps(less).encode())


def _with(name, **changes):
    return json.dumps(json.loads(encode(VALID[name])) | changes).encode()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("heartbeat", {"at_ms": -1}),
        ("heartbeat", {"at_ms": 2**47}),
        ("heartbeat", {"incarnation": 2**32}),
        ("heartbeat", {"sequence": 2**53}),
        ("heartbeat", {"links": True}),
        ("heartbeat", {"links": 1.0}),
        ("heartbeat", {"uptime_s": "1"}),
        ("heartbeat", {"uptime_s": math.nan}),
        ("heartbeat", {"uptime_s": math.inf}),
        ("status", {"state": "asleep"}),
        ("status", {"by": "J 2"}),
        ("status", {"by": "j-2\n"}),
        ("status", {"refutation": 2**24}),
        ("obstacle", {"kind": ""}),
        ("obstacle", {"kind": 33 * "k"}),
        ("obstacle", {"approach": 9 * "n"}),
        ("obstacle", {"distance_m": 10_001}),
        ("obstacle", {"distance_m": -math.inf}),
        ("obstacle", {"version": 2**53}),
        ("obstacle", {"version": -1}),
        ("obstacle", {"ttl_ms": 0}),
        ("obstacle", {"ttl_ms": 3_600_001}),
        ("obstacle", {"state": None}),
        ("count", {"replicas": {"01": [1, 1]}}),
        ("count", {"replicas": {"-1": [1, 1]}}),
        ("count", {"replicas": {"1\n": [1, 1]}}),
        ("count", {"replicas": {"1": [1]}}),
        ("count", {"replicas": {"1": [1, -1]}}),
        ("count", {"replicas": {str(number): [0, 0] for number in range(1_025)}}),
        ("task", {"elements": {"sweep": [["j-1:1", 3]]}}),
        ("task", {"elements": {"sweep": [["j-9:1", 1]]}}),
        ("task", {"elements": {"sweep": []}}),
        ("task", {"elements": {"": [["j-1:1", 1]]}}),
        ("task", {"context": {"j-1": 2}}),
        ("model", {"manifest": {}}),
        ("model", {"manifest": {"site": "a", "name": "b", "version": "c", "counter": 0}}),
        ("model", {"manifest": {"site": "a", "name": "B", "version": "c", "counter": 1}}),
        ("model", {"manifest": {"site": "a", "name": "b", "version": "", "counter": 1}}),
        ("model-status", {"refused": {"unsigned": -1}}),
        ("model-status", {"state": "ready"}),
        ("model-status", {"reason": 201 * "r"}),
        ("resources", {"temperature_c": 1_000}),
        ("sensor", {"standing": 9 * [1]}),
        ("sensor", {"standing": [0.5]}),
        ("sensor", {"speed_mps": [math.nan]}),
        ("sensor", {"phase": 256}),
        ("inference", {"forecast": 17 * [0.0]}),
        ("inference", {"forecast": [math.inf]}),
        ("inference", {"forecast": [10**400]}),
        ("link", {"rtt_ms": -1}),
        ("link", {"state": "lost"}),
    ],
)
def test_values_out_of_range(name, changes):
    with pytest.raises(PayloadInvalid) as caught:
        decode(name, _with(name, **changes))
    text = str(caught.value)
    assert text.startswith(f"{name}: ")
    assert "\n" not in text


@pytest.mark.parametrize("name", VALID)
@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"42",
        b"\xff\xfe{}",
        b'{"colour": "\xff"}',
        b'{"colour": ' + 20_000 * b"[",
        20_000 * b'{"a":',
        b'{"at_ms": ' + 5_000 * b"9" + b"}",
        b'{"at_ms": NaN}',
        b"{} {}",
        b'{"colour": "' + PAYLOAD_BYTES_MAX * b"c" + b'"}',
    ],
)
def test_bytes_that_are_no_message(name, payload):
    with pytest.raises(PayloadInvalid) as caught:
        decode(name, payload)
    assert len(str(caught.value)) <= REASON_CHARACTERS_MAX + 20


def test_a_writer_hears_of_its_own_defect():
    with pytest.raises(PayloadInvalid):
        encode(msgspec.structs.replace(VALID["obstacle"], ttl_ms=0))
    with pytest.raises(PayloadInvalid):
        encode(msgspec.structs.replace(VALID["inference"], forecast=(math.nan,)))


@given(st.sampled_from(sorted(VALID)), st.binary(max_size=200))
def test_any_bytes_decode_or_are_invalid(name, payload):
    try:
        message = decode(name, payload)
    except PayloadInvalid:
        return
    assert decode(name, encode(message)) == message


@given(st.data(), st.sampled_from(sorted(VALID)))
def test_any_valid_json_with_one_byte_changed_decodes_or_is_invalid(data, name):
    payload = bytearray(encode(VALID[name]))
    payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        message = decode(name, bytes(payload))
    except PayloadInvalid:
        return
    assert decode(name, encode(message)) == message


@given(
    st.builds(
        messages.Obstacle,
        kind=st.text(min_size=1, max_size=32),
        state=st.sampled_from(["present", "gone"]),
        approach=st.text(max_size=8),
        distance_m=st.floats(0, 10_000),
        version=st.integers(0, 2**53 - 1),
        at_ms=st.integers(0, 2**47 - 1),
        ttl_ms=st.integers(1, 3_600_000),
    )
)
def test_any_obstacle_makes_the_round_trip(obstacle):
    assert decode("obstacle", encode(obstacle)) == obstacle


COUNTS = st.integers(0, 2**53 - 1)


@given(st.dictionaries(st.integers(0, 2**32).map(str), st.tuples(COUNTS, COUNTS), max_size=20))
def test_any_count_makes_the_round_trip(replicas):
    message = messages.Count(replicas=replicas)
    assert decode("count", encode(message)) == message
