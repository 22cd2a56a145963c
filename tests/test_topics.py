import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import topic_names, topics
from broker.topic_names import TopicError
from broker.topics import Priority, Route, classify, parse, place

BUILT = {
    "heartbeat": topic_names.heartbeat_topic(site="town", device="j-1"),
    "status": topic_names.status_topic(site="town", device="j-1"),
    "obstacle": topic_names.obstacle_topic(site="town", device="j-1", obstacle="o-1"),
    "count": topic_names.count_topic(site="town", device="j-1", name="passed"),
    "task": topic_names.task_topic(site="town", device="j-1", task="patrol"),
    "model": topic_names.model_topic(site="town", name="forecast"),
    "model-status": topic_names.model_status_topic(site="town", device="j-1", name="forecast"),
    "resources": topic_names.resources_topic(site="town", device="j-1"),
    "sensor": topic_names.sensor_topic(site="town", device="j-1", name="camera"),
    "inference": topic_names.inference_topic(site="town", device="j-1", name="forecast"),
    "link": topic_names.link_topic(site="town", device="j-1", neighbour="j-2"),
    "certificate": topic_names.certificate_topic(site="town", device="j-1"),
    "revocation": topic_names.revocation_topic(site="town", fleet="town"),
    "fleet-key": topic_names.fleet_key_topic(site="town", fleet="f"),
    "call": topic_names.call_topic(site="town", to="j-1", service="pull", sender="j-2", call="7"),
    "reply": topic_names.reply_topic(site="town", to="j-1", sender="j-2", call="7"),
    "chunk": topic_names.chunk_topic(site="town", to="j-1", sender="j-2", transfer="7"),
    "bridge": topic_names.bridge_topic(site="town", device="j-1", name="plant"),
    "frame": topic_names.frame_topic(to="j-1", sender="j-2"),
    "announcement": topic_names.announcement_topic(device="j-1"),
}


def test_every_row_with_placeholders_has_a_builder():
    assert set(BUILT) == {row.name for row in topics.TABLE if "{" in row.pattern}


def manifest(**fields):
    whole = {"site": "town", "name": "forecast", "version": "1", "counter": 1}
    return json.dumps({"manifest": whole | fields, "signature": "AA=="}).encode()


@pytest.mark.parametrize("name", BUILT)
def test_what_is_built_is_classified_and_parsed(name):
    topic = BUILT[name]
    row = classify(topic)
    assert row.name == name
    assert row.pattern.format(**parse(topic)) == topic
    topic_names.check_topic_name(topic)


@pytest.mark.parametrize(
    ("topic", "name"),
    [
        ("local/anything/at all", "local"),
        ("local", "local"),
        ("$SYS/broker/uptime", "local"),
        ("home/kitchen", "other"),
        ("flock", "other"),
        ("flock/v1/town/heartbeat", "other"),
        ("flock/v1/town/heartbeat/j-1/x", "other"),
        ("flock/v2/town/heartbeat/j-1", "other"),
        ("flock/v1/town/unknown/j-1", "other"),
        ("flock/v1/Town/heartbeat/j-1", "other"),
        ("flock/v1/town/heartbeat/j_1", "other"),
        ("flock/v1/town/heartbeat/", "other"),
        ("flock/v1/town/heartbeat/" + 33 * "a", "other"),
        ("flock/v1/town/heartbeat/j-1\n", "other"),
        ("mesh/v1/", "other"),
        ("mesh/v2/j-1/j-2", "other"),
        ("", "other"),
    ],
)
def test_topics_outside_the_contract(topic, name):
    assert classify(topic).name == name
    assert classify(topic).name == name  # from the cache
    assert parse(topic) == {}


def test_the_cache_of_classes_is_bounded():
    for number in range(topics._CACHE_TOPICS_MAX + 10):
        classify(f"home/{number}")
    assert len(topics._classes) <= topics._CACHE_TOPICS_MAX
    long = "home/" + 300 * "x"
    classify(long)
    assert long not in topics._classes


def test_the_table_decides_qos_and_retained():
    placed = place(BUILT["heartbeat"], b"{}", 2, retained=True)
    assert placed == (0, False, Route.TREE, Priority.TELEMETRY, 3_000, 0)
    placed = place(BUILT["count"], b"{}", 0, retained=False)
    assert placed == (1, True, Route.TREE, Priority.NORMAL, 0, 0)
    placed = place(BUILT["call"], b"{}", 0, retained=True)
    assert placed == (1, False, Route.UNICAST, Priority.NORMAL, 0, 0)


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("retained", [False, True])
def test_other_topics_travel_as_published(qos, retained):
    assert place("home/k", b"\xff", qos, retained) == (qos, retained, "tree", 2, 0, 0)
    assert place("local/k", b"", qos, retained) == (qos, retained, "local", 2, 0, 0)


@pytest.mark.parametrize(
    ("payload", "lifetime_ms"),
    [
        (b'{"ttl_ms": 60000, "kind": [1, {"a": null}]}', 60_000),
        (b'{"ttl_ms": 1}', 1),
        (b'{"ttl_ms": 3600000}', 3_600_000),
        (b'{"ttl_ms": 3600001}', 10_000),
        (b'{"ttl_ms": 0}', 10_000),
        (b'{"ttl_ms": -5}', 10_000),
        (b'{"ttl_ms": 1e999}', 10_000),
        (b'{"ttl_ms": "60000"}', 10_000),
        (b'{"ttl_ms": ' + 5_000 * b"9" + b"}", 10_000),
        (b"{}", 10_000),
        (b"", 10_000),
        (b"\xff\xfe", 10_000),
        (b'{"x": ' + 100_000 * b"[", 10_000),
    ],
)
def test_an_obstacles_lifetime_is_its_own_or_the_default(payload, lifetime_ms):
    placed = place(BUILT["obstacle"], payload, 0, retained=True)
    assert placed == (1, False, Route.FLOOD, Priority.URGENT, lifetime_ms, 0)


@pytest.mark.parametrize(
    ("name", "payload", "rank"),
    [
        ("model", manifest(counter=7), 7),
        ("model", manifest(counter=7, more="fields"), 7),
        ("model", manifest(counter=0), 0),
        ("model", manifest(counter=9007199254740992), 0),
        ("model", manifest(counter=7, name="other"), 0),
        ("model", manifest(counter=7, site="city"), 0),
        ("model", manifest(counter=7, version=""), 0),
        ("model", b'{"counter": 7}', 0),
        ("model", b"", 0),
        ("model", b"nonsense", 0),
        ("status", b'{"incarnation": 3, "refutation": 5}', 3 * 2**24 + 5),
        ("status", b'{"incarnation": 4294967295, "refutation": 16777215}', 2**56 - 1),
        ("status", b'{"incarnation": 3}', 0),
        ("status", b'{"incarnation": 3, "refutation": 16777216}', 0),
        ("status", b"[]", 0),
    ],
)
def test_rank_comes_from_the_payload(name, payload, rank):
    placed = place(BUILT[name], payload, 0, retained=False)
    assert placed == (1, True, Route.TREE, Priority.CONTROL, 0, rank)


@given(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**24 - 1)), st.data())
def test_status_rank_orders_like_the_pair(pair, data):
    other = data.draw(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**24 - 1)))
    assert (pair < other) == (topics.status_rank(*pair) < topics.status_rank(*other))
    assert topics.status_rank(*pair) < 2**63


@given(
    st.sampled_from(sorted(BUILT)), st.binary(max_size=40) | st.text(max_size=40).map(str.encode)
)
def test_place_never_raises_for_a_payload(name, payload):
    placed = place(BUILT[name], payload, 1, retained=True)
    assert placed.lifetime_ms >= 0
    assert placed.rank >= 0


@given(st.dictionaries(st.sampled_from(["ttl_ms", "counter", "x"]), st.integers(-5, 4_000_000)))
def test_place_agrees_with_a_plain_reading(fields):
    payload = json.dumps(fields).encode()
    ttl_ms = fields.get("ttl_ms", 0)
    expected = ttl_ms if 1 <= ttl_ms <= 3_600_000 else 10_000
    assert place(BUILT["obstacle"], payload, 1, retained=False).lifetime_ms == expected
    counter = fields.get("counter", 0)
    placed = place(BUILT["model"], manifest(counter=counter), 1, retained=True)
    assert placed.rank == max(0, counter)


@pytest.mark.parametrize("bad", ["", "J-1", "a/b", "+", "#", "a b", 33 * "a", "é", "a\n"])
def test_builders_refuse_ids_that_do_not_fit(bad):
    assert not topic_names.is_id(bad)
    with pytest.raises(TopicError, match="use 1 to 32 of a-z, 0-9 and -"):
        topic_names.heartbeat_topic(site="town", device=bad)
    with pytest.raises(TopicError):
        topic_names.frame_topic(to=bad, sender="j-1")
    with pytest.raises(TopicError):
        topic_names.status_topic(site=bad, device="j-1")


@pytest.mark.parametrize(
    ("topic_filter", "topic", "matches"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/b/c", "a/b", False),
        ("a/+", "a/b", True),
        ("a/+", "a", False),
        ("a/+", "a/", True),
        ("+", "a", True),
        ("+", "/a", False),
        ("/+", "/a", True),
        ("+/+", "/a", True),
        ("#", "a/b/c", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("a/b/#", "a", False),
        ("+/b/#", "a/b", True),
        ("+/b/#", "a/c", False),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
        ("$SYS/+", "$SYS/x", True),
        ("a/$x/#", "a/$x/y", True),
    ],
)
def test_filters(topic_filter, topic, matches):
    topic_names.check_topic_filter(topic_filter)
    assert topic_names.topic_matches(topic_filter, topic) is matches
    assert bool(topic_names.topic_matcher(topic_filter)(topic)) is matches


LEVELS = st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=1, max_size=5)


@given(LEVELS, st.lists(st.sampled_from(["", "a", "b", "+", "#"]), min_size=1, max_size=5))
def test_filters_equal_a_naive_model(levels, wanted):
    def naive(wanted, levels):
        if wanted[:1] == ["#"]:
            return True
        if not wanted or not levels:
            return wanted == levels
        return wanted[0] in {"+", levels[0]} and (
            naive(wanted[1:], levels[1:]) or (wanted[1:] == ["#"] and not levels[1:])
        )

    topic_filter = "/".join(wanted)
    if "#" in wanted[:-1] or not topic_filter:
        with pytest.raises(TopicError):
            topic_names.check_topic_filter(topic_filter)
        return
    topic_names.check_topic_filter(topic_filter)
    assert topic_names.topic_matches(topic_filter, "/".join(levels)) is naive(wanted, levels)
    assert bool(topic_names.topic_matcher(topic_filter)("/".join(levels))) is naive(wanted, levels)


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        ("", "empty"),
        ("a/+", "wildcard"),
        ("#", "wildcard"),
        ("a\0b", "NUL"),
        (65_536 * "a", "65536 bytes"),
        ("\ud800", "UTF-8"),
    ],
)
def test_names_that_may_not_be_published_to(topic, reason):
    with pytest.raises(TopicError, match=reason):
        topic_names.check_topic_name(topic)


def test_a_program_of_the_device_cannot_publish_to_what_is_no_name():
    with pytest.raises(TopicError, match="wildcard"):
        place("flock/v1/+/x", b"", 0, False)


def test_names_that_may():
    for topic in ("a", "/", "a//b", "a b", "é", 65_535 * "a"):
        topic_names.check_topic_name(topic)


@pytest.mark.parametrize("topic_filter", ["", "a+", "a/b#", "#/a", "a/#/b", "a\0", "++"])
def test_filters_that_may_not_be_subscribed_to(topic_filter):
    with pytest.raises(TopicError):
        topic_names.check_topic_filter(topic_filter)
