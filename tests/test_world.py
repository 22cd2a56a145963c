import pytest
from msgspec.structs import replace

from agent import messages, world
from agent.crdt.counters import PnCounter
from agent.crdt.orset import OrSet
from agent.messages import PayloadInvalid, encode
from agent.replicas import counter_of, replica_name, task_set_of, to_count, to_task_set
from agent.world import Outcome, World
from broker import topic_names, topics
from broker.mesh import limits
from tests.world_inputs import (
    SITE,
    WALL_MS,
    S,
    clock,
    count,
    deletion,
    delivered,
    heartbeat,
    link,
    model,
    obstacle,
    reading,
    status,
    tasks,
)


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
        name="forecast",
        version="1",
        manifest=64 * "b",
        sha256=64 * "a",
        state="active",
        reason="",
        running="1",
        refused={},
        at_ms=WALL_MS,
    )
    name = {"site": SITE, "device": "j-2", "name": "forecast"}
    device = {"site": SITE, "device": "j-2"}
    inputs = [
        delivered("j-2", clock(), topic_names.inference_topic(**name), inference),
        delivered("j-2", clock(), topic_names.resources_topic(**device), resources),
        delivered("j-2", clock(), topic_names.model_status_topic(**name), has),
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
    late = replace(heartbeat(sequence=2), rebuild=True)
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
        (
            topic_names.model_topic(site=SITE, name="other"),
            model(1).payload,
            "its topic says other",
        ),
        (
            model(1).topic,
            model(1).payload.replace(b'"site":"town"', b'"site":"city"'),
            "site is city, its topic says town",
        ),
        (count("j-1", {}).topic, b'{"replicas": {"1": [NaN, 1]}}', "count: "),
    ],
)
def test_an_invalid_payload_is_counted_and_the_next_one_applied(subject, topic, payload, reason):
    name = topics.classify(topic).name
    valid = {"obstacle": obstacle, "heartbeat": heartbeat, "status": status}.get(name)
    bad = delivered("j-9", clock(-1), topic, payload)
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
    assert subject.apply(replace(model(2), payload=b"{}"), 2) is Outcome.INVALID
    assert subject.snapshot().models["forecast"].counter == 1
    assert subject.apply(model(3), 3) is Outcome.APPLIED


@pytest.mark.parametrize(
    "topic",
    [
        "home/kitchen",
        "local/x",
        "flock/v1/elsewhere/heartbeat/j-2",
        topic_names.call_topic(site=SITE, to="j-1", service="pull", sender="j-2", call="1"),
        "mesh/v1/j-1/j-2",
    ],
)
def test_what_is_not_of_this_world_is_ignored(subject, topic):
    assert subject.apply(delivered("j-2", clock(), topic, b"x"), 1) is Outcome.IGNORED
    assert subject.statistics().outcomes == {topics.classify(topic).name: {Outcome.IGNORED: 1}}


def test_a_snapshot_knows_its_age(subject):
    assert subject.snapshot().age_ns(5) is None
    subject.apply(obstacle(), 10)
    subject.apply(obstacle(), 20)  # stale: no news
    subject.apply(replace(obstacle(version=2), rebuild=True), 30)  # memory: no news
    assert subject.snapshot().age_ns(50) == 40


def test_a_snapshot_is_immutable(subject):
    subject.apply(obstacle(), 1)
    snapshot = subject.snapshot()
    with pytest.raises(AttributeError):
        snapshot.site = "x"
    with pytest.raises(TypeError):
        snapshot.obstacles["j-1", "o-1"] = None
    subject.apply(reading(), 2)
    later = subject.snapshot()
    assert later.readings != snapshot.readings
    assert later.obstacles is snapshot.obstacles, "what did not change is shared, and costs nothing"


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
