import time
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import messages, world
from agent.crdt.counters import PnCounter
from agent.crdt.orset import OrSet
from agent.messages import PayloadInvalid, decode, encode
from agent.replicas import counter_of, replica_name, task_set_of, to_count, to_task_set
from agent.world import Outcome, World
from broker import topics
from broker.mesh import limits

SITE = "town"
WALL_MS = 1_760_000_000_000
S = 1_000_000_000


def clock(offset_ms=0, logical=0):
    return (WALL_MS + offset_ms) << 16 | logical


class Delivered(NamedTuple):
    origin: str
    incarnation: int
    clock: int
    rank: int
    topic: str
    payload: bytes
    retained: bool = False
    rebuild: bool = False


def delivered(origin, at, topic, message, **changes):
    """A message as the node delivers it, its rank as the topic contract says."""
    payload = message if isinstance(message, bytes) else encode(message)
    placed = topics.place(topic, payload, 0, retained=False)
    return Delivered(origin, 1, at, placed.rank, topic, payload, placed.retained)._replace(
        **changes
    )


def obstacle(
    device="j-1", name="o-1", version=1, at=None, state="present", ttl_ms=60_000, distance_m=3.0
):
    topic = topics.obstacle_topic(site=SITE, device=device, obstacle=name)
    event = messages.Obstacle(
        kind="stopped",
        state=state,
        approach="n",
        distance_m=distance_m,
        version=version,
        at_ms=WALL_MS,
        ttl_ms=ttl_ms,
    )
    return delivered(device, clock(version) if at is None else at, topic, event)


def heartbeat(device="j-2", incarnation=1, sequence=1):
    topic = topics.heartbeat_topic(site=SITE, device=device)
    message = messages.Heartbeat(
        at_ms=WALL_MS, incarnation=incarnation, uptime_s=1.0, links=2, sequence=sequence
    )
    return delivered(device, clock(sequence), topic, message)


def status(device="j-2", state="up", incarnation=1, refutation=0, at=0, by=None):
    topic = topics.status_topic(site=SITE, device=device)
    message = messages.Status(
        state=state,
        incarnation=incarnation,
        refutation=refutation,
        at_ms=WALL_MS,
        by=by or device,
    )
    return delivered(by or device, clock(at), topic, message)


def model(counter, at=0, name="forecast", origin="op"):
    topic = topics.model_topic(site=SITE, name=name)
    message = messages.Model(
        name=name, version=f"1.{counter}", counter=counter, sha256=64 * "a", size_bytes=9
    )
    return delivered(origin, clock(at), topic, message)


def count(device, replicas, at=0, name="passed"):
    topic = topics.count_topic(site=SITE, device=device, name=name)
    return delivered(device, clock(at), topic, messages.Count(replicas=replicas))


def tasks(device, value, at=0, name="patrol"):
    topic = topics.task_topic(site=SITE, device=device, task=name)
    return delivered(device, clock(at), topic, to_task_set(value))


def reading(device="j-2", at=0, tick_s=1.0):
    topic = topics.sensor_topic(site=SITE, device=device, name="camera")
    message = messages.Reading(
        tick_s=tick_s, phase=0, standing=(1,), vehicles=(2,), speed_mps=(3.0,), at_ms=WALL_MS
    )
    return delivered(device, clock(at), topic, message)


def link(device="j-3", neighbour="j-2", state="down", at=0):
    topic = topics.link_topic(site=SITE, device=device, neighbour=neighbour)
    message = messages.Link(state=state, rtt_ms=None, at_ms=WALL_MS)
    return delivered(device, clock(at), topic, message)


def deletion(of, at):
    return of._replace(payload=b"", clock=clock(at))


@pytest.fixture
def subject():
    return World(SITE, "j-1")


def test_obstacles_appear_change_and_go(subject):
    assert subject.apply(obstacle(version=1), 1) is Outcome.APPLIED
    assert subject.apply(obstacle(version=2, distance_m=2.0), 2) is Outcome.APPLIED
    assert subject.apply(obstacle(version=1), 3) is Outcome.STALE
    assert subject.apply(obstacle("j-2", version=1), 4) is Outcome.APPLIED
    seen = subject.snapshot().obstacles
    assert set(seen) == {("j-1", "o-1"), ("j-2", "o-1")}
    assert seen["j-1", "o-1"].event.distance_m == 2.0
    assert seen["j-1", "o-1"].clock == clock(2)
    assert subject.apply(obstacle(version=3, state="gone"), 5) is Outcome.APPLIED
    assert set(subject.snapshot().obstacles) == {("j-2", "o-1")}
    assert set(seen) == {("j-1", "o-1"), ("j-2", "o-1")}, "a snapshot never changes"


def test_what_is_gone_is_not_raised_by_an_older_event(subject):
    subject.apply(obstacle(version=2, state="gone"), 1)
    assert subject.apply(obstacle(version=1), 2) is Outcome.STALE
    assert subject.snapshot().obstacles == {}
    subject.expire(clock(59_000))
    assert subject.apply(obstacle(version=1), 3) is Outcome.STALE
    subject.expire(clock(60_002))
    assert subject.statistics().obstacles == 0
    assert subject.apply(obstacle(version=1), 4) is Outcome.EXPIRED
    assert subject.snapshot().obstacles == {}


def test_obstacles_expire_by_the_clock_of_their_event(subject):
    subject.apply(obstacle(name="short", ttl_ms=1_000), 1)
    subject.apply(obstacle(name="long", ttl_ms=9_000), 1)
    assert subject.expire(clock(1_000)) == 0
    assert subject.expire(clock(1_001)) == 1
    assert set(subject.snapshot().obstacles) == {("j-1", "long")}
    assert subject.expire(0) == 0, "time does not run back"


def test_an_obstacles_version_comes_before_its_clock(subject):
    subject.apply(obstacle(version=2, at=clock(1)), 1)
    assert subject.apply(obstacle(version=1, at=clock(5), state="gone"), 1) is Outcome.STALE
    assert subject.apply(obstacle(version=3, at=clock(0), state="gone"), 1) is Outcome.APPLIED


def test_a_shorter_ttl_does_not_bring_the_expiry_forward():
    long, short = obstacle(version=1, ttl_ms=9_000), obstacle(version=2, ttl_ms=1_000, state="gone")
    for order in ([long, short], [short, long]):
        subject = World(SITE, "j-1")
        subject.apply_batch(order, 1)
        assert subject.expire(clock(8_000)) == 0
        assert subject.apply(long, 1) is Outcome.STALE
        assert subject.expire(clock(9_001)) == 1


def test_too_many_obstacles_the_first_to_expire_goes(subject, monkeypatch):
    monkeypatch.setattr(world, "OBSTACLES_MAX", 2)
    events = [obstacle(name=f"o-{ttl_s}", ttl_ms=ttl_s * 1_000) for ttl_s in (5, 7, 3, 9)]
    for order in (events, events[::-1]):
        subject = World(SITE, "j-1")
        subject.apply_batch(order, 1)
        assert set(subject.snapshot().obstacles) == {("j-1", "o-7"), ("j-1", "o-9")}
    assert subject.statistics().evicted == 2


def test_the_mesh_evicts_retained_topics_before_the_world_does():
    assert limits.RETAINED_TOPICS_MAX * limits.RETAINED_HARD_FACTOR <= world.KEPT_TOPICS_MAX


def test_too_many_topics_the_lowest_rank_goes(monkeypatch):
    monkeypatch.setattr(world, "KEPT_TOPICS_MAX", 2)
    inputs = [status(), count("j-2", {"1": (1, 0)}, 5), tasks("j-2", OrSet().add("j-2:1", "x"), 6)]
    for order in (inputs, inputs[::-1]):
        subject = World(SITE, "j-1")
        subject.apply_batch(order, 1)
        snapshot = subject.snapshot()
        assert (len(snapshot.status), dict(snapshot.counts)) == (1, {})
        assert snapshot.tasks == {"patrol": {"x"}}


def test_models_go_by_counter_then_clock(subject):
    assert subject.apply(model(2, at=0), 1) is Outcome.APPLIED
    assert subject.apply(model(1, at=9), 1) is Outcome.STALE
    assert subject.apply(model(3, at=-9), 1) is Outcome.APPLIED
    assert subject.snapshot().models["forecast"].counter == 3


def test_a_deletion_has_the_rank_of_its_header(subject):
    subject.apply(model(3), 1)
    assert subject.apply(deletion(model(2), at=9), 1) is Outcome.STALE
    assert subject.apply(deletion(model(3), at=9), 1) is Outcome.APPLIED
    assert subject.snapshot().models == {}
    assert subject.apply(model(3, at=5), 1) is Outcome.STALE
    assert subject.digest(0) == World(SITE, "j-2").digest(0)
    assert subject.apply(model(4, at=5), 1) is Outcome.APPLIED


def test_status_goes_by_incarnation_then_refutation(subject):
    subject.apply(status(incarnation=2, at=0), 1)
    assert subject.apply(status(state="lost", incarnation=1, at=9, by="j-3"), 1) is Outcome.STALE
    assert subject.apply(status(state="lost", incarnation=2, at=9, by="j-3"), 1) is Outcome.APPLIED
    assert subject.snapshot().status["j-2"].state == "lost"
    assert subject.apply(status(incarnation=2, refutation=1, at=1), 1) is Outcome.APPLIED
    assert subject.snapshot().status["j-2"].state == "up"


def test_counts_are_joined_over_devices_and_incarnations(subject):
    subject.apply(count("j-1", {"1": (5, 1), "2": (1, 0)}), 1)
    subject.apply(count("j-2", {"1": (10, 0)}), 1)
    assert subject.snapshot().counts == {"passed": 15}
    subject.apply(count("j-2", {"1": (10, 0), "2": (0, 2)}, at=1), 1)
    assert subject.snapshot().counts == {"passed": 13}
    subject.apply(deletion(count("j-1", {}), at=2), 1)
    assert subject.snapshot().counts == {"passed": 8}
    subject.apply(deletion(count("j-2", {}), at=2), 1)
    assert subject.snapshot().counts == {}
    assert subject.counter("passed") == PnCounter()


def test_a_writer_counts_on_from_the_joined_counter(subject):
    subject.apply(count("j-1", {"1": (5, 1)}), 1)
    subject.apply(count("j-2", {"7": (2, 0)}), 1)
    counter = subject.counter("passed").add(replica_name("j-1", 2), 3)
    mine = to_count("j-1", counter)
    assert mine == messages.Count(replicas={"1": (5, 1), "2": (3, 0)})
    assert subject.counter("passed").join(counter_of("j-1", mine)).value == 9


def test_task_sets_are_joined_over_devices(subject):
    mine = OrSet().add("j-1:1", "sweep").add("j-1:1", "watch")
    subject.apply(tasks("j-1", mine), 1)
    assert subject.snapshot().tasks == {"patrol": {"sweep", "watch"}}
    theirs = subject.task_set("patrol").remove("sweep").add("j-2:1", "charge")
    subject.apply(tasks("j-2", theirs), 1)
    assert subject.snapshot().tasks == {"patrol": {"watch", "charge"}}
    subject.apply(deletion(tasks("j-2", theirs), at=1), 1)
    assert subject.snapshot().tasks == {"patrol": {"sweep", "watch"}}
    assert task_set_of(to_task_set(theirs)) == theirs
    assert subject.task_set("other") == OrSet()


def test_a_task_set_that_outgrows_its_bounds_is_refused_at_its_writer():
    value = OrSet()
    for number in range(513):
        value = value.add("j-1:1", f"task {number}")
    with pytest.raises(PayloadInvalid):
        encode(to_task_set(value))


def test_the_newest_reading_counts(subject):
    subject.apply(reading(at=5, tick_s=5.0), 7)
    assert subject.apply(reading(at=4, tick_s=4.0), 8) is Outcome.STALE
    heard = subject.snapshot().readings["j-2", "camera"]
    assert (heard.message.tick_s, heard.heard_ns, heard.clock) == (5.0, 7, clock(5))


def test_every_class_of_the_world_is_seen(subject):
    inference = messages.Inference(
        name="forecast",
        version="1",
        tick_s=1.0,
        horizon_s=30.0,
        forecast=(1.0,),
        latency_ms=1.0,
        state_age_ms=2.0,
        at_ms=WALL_MS,
    )
    resources = messages.Resources(
        cpu_percent=1.0, rss_mb=2.0, loop_lag_ms=0.0, temperature_c=50.0, at_ms=WALL_MS
    )
    has = messages.ModelStatus(
        name="forecast", version="1", sha256=64 * "a", state="active", reason="", at_ms=WALL_MS
    )
    name = {"site": SITE, "device": "j-2", "name": "forecast"}
    device = {"site": SITE, "device": "j-2"}
    inputs = [
        delivered("j-2", clock(), topics.inference_topic(**name), inference),
        delivered("j-2", clock(), topics.resources_topic(**device), resources),
        delivered("j-2", clock(), topics.model_status_topic(**name), has),
        link(state="up"),
    ]
    assert subject.apply_batch(inputs, 3) == 4 * [Outcome.APPLIED]
    snapshot = subject.snapshot()
    assert snapshot.inferences["j-2", "forecast"].message == inference
    assert snapshot.resources["j-2"].message == resources
    assert snapshot.model_status["j-2", "forecast"] == has
    assert snapshot.links["j-3", "j-2"].message.state == "up"
    subject.apply(deletion(link(), at=1), 4)
    assert subject.snapshot().links == {}


def test_heartbeats_feed_liveness(subject):
    subject.apply(heartbeat(), 1 * S)
    subject.apply(heartbeat("j-1"), 1 * S)  # one's own says nothing
    snapshot = subject.snapshot()
    assert snapshot.alive(2 * S) == subject.liveness.alive(2 * S) == ("j-2",)
    assert snapshot.alive(20 * S) == ()
    assert subject.apply(heartbeat(), 9 * S) is Outcome.STALE
    assert subject.snapshot().peers["j-2"].heard_ns == 1 * S
    late = heartbeat(sequence=2)._replace(rebuild=True)
    assert subject.apply(late, 9 * S) is Outcome.APPLIED
    assert subject.snapshot().peers["j-2"].heard_ns == 1 * S


def test_a_goodbye_and_a_broken_link_feed_liveness(subject):
    subject.apply(heartbeat("j-2"), 1 * S)
    subject.apply(heartbeat("j-3"), 1 * S)
    subject.apply(status("j-3", state="down", at=1), 1 * S)
    assert subject.snapshot().alive(5 * S) == ("j-2",)
    subject.apply(link(device="j-4", neighbour="j-2"), 1 * S)
    assert subject.snapshot().alive(5 * S) == ()
    subject.liveness.loop_lag(S)
    subject.liveness.loop_lag(S)
    assert subject.snapshot().alive(5 * S) == ("j-2",)


@pytest.mark.parametrize(
    ("topic", "payload", "reason"),
    [
        (obstacle().topic, b"nonsense", "obstacle: JSON is malformed"),
        (obstacle().topic, b"", "obstacle: Input data was truncated"),
        (heartbeat().topic, b'{"at_ms": "now"}', "heartbeat: "),
        (status().topic, b"\xff", "status: not UTF-8"),
        (topics.model_topic(site=SITE, name="other"), model(1).payload, "its topic says other"),
        (count("j-1", {}).topic, b'{"replicas": {"1": [NaN, 1]}}', "count: "),
    ],
)
def test_an_invalid_payload_is_counted_and_the_next_one_applied(subject, topic, payload, reason):
    name = topics.classify(topic).name
    valid = {"obstacle": obstacle, "heartbeat": heartbeat, "status": status}.get(name)
    bad = Delivered("j-9", 1, clock(-1), 0, topic, payload)
    before = subject.digest(0)
    assert subject.apply(bad, 5) is Outcome.INVALID
    assert subject.digest(0) == before
    assert subject.snapshot().newest_ns is None
    statistics = subject.statistics()
    assert statistics.outcomes[name] == {Outcome.INVALID: 1}
    assert statistics.last_invalid[name][:2] == (topic, "j-9")
    assert reason in statistics.last_invalid[name].reason
    if valid is not None:
        assert subject.apply(valid(), 6) is Outcome.APPLIED
        assert subject.statistics().outcomes[name] == {Outcome.INVALID: 1, Outcome.APPLIED: 1}


def test_an_invalid_retained_payload_leaves_the_value_before_it(subject):
    subject.apply(model(1), 1)
    assert subject.apply(model(2)._replace(payload=b"{}"), 2) is Outcome.INVALID
    assert subject.snapshot().models["forecast"].counter == 1
    assert subject.apply(model(3), 3) is Outcome.APPLIED


@pytest.mark.parametrize(
    "topic",
    [
        "home/kitchen",
        "local/x",
        "flock/v1/elsewhere/heartbeat/j-2",
        topics.call_topic(site=SITE, to="j-1", service="pull", sender="j-2", call="1"),
        "mesh/v1/j-1/j-2",
    ],
)
def test_what_is_not_of_this_world_is_ignored(subject, topic):
    assert subject.apply(Delivered("j-2", 1, clock(), 0, topic, b"x"), 1) is Outcome.IGNORED
    assert subject.statistics().outcomes == {topics.classify(topic).name: {Outcome.IGNORED: 1}}


def test_a_snapshot_knows_its_age(subject):
    assert subject.snapshot().age_ns(5) is None
    subject.apply(obstacle(), 10)
    subject.apply(obstacle(), 20)  # stale: no news
    subject.apply(obstacle(version=2)._replace(rebuild=True), 30)  # memory: no news
    assert subject.snapshot().age_ns(50) == 40


def test_a_snapshot_is_immutable(subject):
    subject.apply(obstacle(), 1)
    snapshot = subject.snapshot()
    with pytest.raises(AttributeError):
        snapshot.site = "x"
    with pytest.raises(TypeError):
        snapshot.obstacles["j-1", "o-1"] = None
    assert subject.snapshot().obstacles is snapshot.obstacles, "what did not change is shared"


def test_a_snapshot_of_a_large_world_is_cheap(subject):
    for device in range(100):
        subject.apply(heartbeat(f"d-{device}"), 1)
        subject.apply(status(f"d-{device}"), 1)
        for number in range(10):
            subject.apply(obstacle(f"d-{device}", f"o-{number}"), 1)
    best_ns = min(_snapshot_ns(subject, version) for version in range(2, 50))
    assert len(subject.snapshot().obstacles) == 1_000
    assert best_ns < 50_000


def _snapshot_ns(subject, version):
    """After a change in every part that is large; the least of several is free of other work."""
    subject.apply_batch([obstacle("d-1", "o-1", version), heartbeat("d-1", sequence=version)], 1)
    start_ns = time.perf_counter_ns()
    subject.snapshot()
    return time.perf_counter_ns() - start_ns


def test_the_digest_covers_what_must_agree_and_nothing_else():
    one, other = World(SITE, "j-1"), World(SITE, "j-2")
    must = [obstacle(), status(), model(1), count("j-1", {"1": (1, 0)})]
    must.append(tasks("j-1", OrSet().add("j-1:1", "x")))
    for message in must:
        one.apply(message, 1)
        assert one.digest(clock()) != other.digest(clock()), message.topic
        other.apply(message, 2)
        assert one.digest(clock()) == other.digest(clock())
    one.apply_batch([heartbeat(), reading(), link()], 9)
    one.apply(obstacle(name="o-2", state="gone"), 9)
    assert one.digest(clock()) == other.digest(clock())
    one.apply(obstacle(name="o-3", ttl_ms=5), 9)
    assert one.digest(clock(5)) != other.digest(clock(5))
    assert one.digest(clock(6)) == other.digest(clock(6))
    assert len(one.digest(0)) == 32


# Whatever a fleet may say: each device writes its own topics, versions and clocks in any relation.
CLOCKS = st.integers(0, 6)
DEVICES = st.sampled_from(["j-1", "j-2", "j-3"])
STATES = st.sampled_from(["present", "gone"])


@st.composite
def inputs(draw):
    device, at = draw(DEVICES), draw(CLOCKS)
    number = draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["obstacle", "status", "model", "count", "task", "bad", "fresh"]))
    if kind == "obstacle":
        made = obstacle(
            device,
            f"o-{draw(st.integers(1, 2))}",
            number,
            clock(at),
            draw(STATES),
            ttl_ms=draw(st.integers(1, 3)),
        )
    elif kind == "status":
        made = status(device, draw(st.sampled_from(["up", "down", "lost"])), number, 0, at)
    elif kind == "model":
        made = model(number, at, origin=device)
    elif kind == "count":
        made = count(device, {"1": (number, draw(st.integers(0, 3)))}, at)
    elif kind == "task":
        replica = f"{device}:1"
        context = {replica: number, "j-9:1": number}
        dots = draw(st.sets(st.sampled_from(sorted(context))))
        elements = {name: frozenset([(name, number)]) for name in dots}
        made = tasks(device, OrSet(elements, context), at)
    elif kind == "fresh":
        made = draw(st.sampled_from([reading(device, at), heartbeat(device, number, at)]))
    else:
        made = status(device, at=at)._replace(payload=b"{")
    deleted = made.retained and draw(st.booleans()) and draw(st.booleans())
    return made._replace(payload=b"") if deleted else made


def _public(subject):
    snapshot = subject.snapshot()
    parts = ("status", "obstacles", "models", "counts", "tasks")
    return [dict(getattr(snapshot, part)) for part in parts]


@given(st.lists(inputs(), max_size=25), st.randoms(use_true_random=False), CLOCKS)
def test_any_order_and_repetition_gives_the_same_world(messages, random, at):
    repeated = random.sample(messages, min(len(messages), 5))
    shuffled = random.sample([*messages, *repeated], len(messages) + len(repeated))
    one, other = World(SITE, "j-1"), World(SITE, "j-2")
    one.apply_batch(messages, 1)
    for now_ns, message in enumerate(shuffled):
        other.apply(message, now_ns)
    assert _public(one) == _public(other)
    assert one.digest(clock(at)) == other.digest(clock(at))
    for each in (one, other):
        each.expire(clock(at))
    assert _public(one) == _public(other)
    assert one.digest(clock(at)) == other.digest(clock(at))


@given(st.lists(inputs(), max_size=25), st.randoms(use_true_random=False))
def test_any_order_gives_the_same_world_when_it_is_full(messages, random):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "KEPT_TOPICS_MAX", 3)
        one, other = World(SITE, "j-1"), World(SITE, "j-2")
        one.apply_batch(messages, 1)
        other.apply_batch(random.sample(messages, len(messages)), 1)
    assert one.statistics().kept_topics <= 3
    # Obstacles are bounded too, but by expiry, and only honest versions make that order-free.
    assert _public(one) == _public(other)
    assert one.digest(clock()) == other.digest(clock())


@given(st.lists(inputs(), max_size=25))
def test_the_world_equals_a_naive_model(messages):
    subject = World(SITE, "j-1")
    subject.apply_batch(messages, 1)
    newest = {}
    for message in messages:
        order = (message.rank, message.clock, message.origin)
        if message.payload == b"{" or not message.retained:
            continue
        known = newest.get(message.topic)
        if known is None or (order, message.payload) > known:
            newest[message.topic] = (order, message.payload)
    values = {topic: payload for topic, (_, payload) in newest.items() if payload}
    snapshot = subject.snapshot()
    assert {topics.status_topic(site=SITE, device=device) for device in snapshot.status} == {
        topic for topic in values if topics.classify(topic).name == "status"
    }
    for device, message in snapshot.status.items():
        assert encode(message) == values[topics.status_topic(site=SITE, device=device)]
    counts = [msgspec.json.decode(p) for t, p in values.items() if "/count/" in t]
    total = sum(up - down for one in counts for up, down in one["replicas"].values())
    assert snapshot.counts == ({"passed": total} if counts else {})
    joined = OrSet()
    for topic, payload in values.items():
        if "/task/" in topic:
            joined = joined.join(task_set_of(decode("task", payload)))
    assert snapshot.tasks.get("patrol", frozenset()) == joined.value


@given(
    st.lists(st.tuples(st.integers(1, 3), STATES), min_size=1, max_size=8),
    st.lists(st.integers(0, 40), max_size=8),
    st.randoms(use_true_random=False),
)
def test_repair_at_any_time_raises_nothing_that_is_gone(history, times, random):
    """One observer, honest versions, one ttl; late and repeated arrivals between expiries."""
    events = [
        obstacle(name=f"o-{name}", version=step, at=clock(step), state=state, ttl_ms=20)
        for step, (name, state) in enumerate(history)
    ]
    late, prompt = World(SITE, "j-1"), World(SITE, "j-2")
    prompt.apply_batch(events, 1)
    arrivals = random.sample(events, len(events)) + random.sample(events, len(events))
    for index, event in enumerate(arrivals):
        late.apply(event, 1)
        if index < len(times):
            late.expire(clock(min(times[: index + 1])))
    end = clock(max([0, *times]))
    late.expire(end)
    prompt.expire(end)
    assert set(late.snapshot().obstacles) <= set(prompt.snapshot().obstacles)
    late.apply_batch(events, 1)
    assert late.digest(end) == prompt.digest(end)
