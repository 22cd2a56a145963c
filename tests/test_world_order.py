"""The world depends on the set of messages, not on their order or number."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent import world
from agent.crdt.orset import OrSet
from agent.messages import decode, encode
from agent.replicas import task_set_of
from agent.world import World
from broker import topic_names, topics
from tests.world_inputs import (
    SITE,
    clock,
    count,
    heartbeat,
    model,
    obstacle,
    reading,
    status,
    tasks,
)

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
        made = replace(status(device, at=at), payload=b"{")
    deleted = made.retained and draw(st.booleans()) and draw(st.booleans())
    return replace(made, payload=b"") if deleted else made


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
    assert {topic_names.status_topic(site=SITE, device=device) for device in snapshot.status} == {
        topic for topic in values if topics.classify(topic).name == "status"
    }
    for device, message in snapshot.status.items():
        assert encode(message) == values[topic_names.status_topic(site=SITE, device=device)]
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
