"""Reconciling retained maps between real meshes on virtual time: what it costs, and that it always ends."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.mesh.clock import LOGICAL_BITS
from broker.mesh.retained import Entry
from sim.network import WALL_MS, Network

NOW = WALL_MS << LOGICAL_BITS


def value(number, payload=b"12.5", *, clock=0, origin="a"):
    return Entry(0, NOW + clock + number, origin, payload, 1)


def stock(network, name, entries):
    """Put values into a device's memory that no log knows of."""
    network.kill(name)
    network.devices[name].disk._content.retained.update(entries)
    network.restart(name)


def counters(network, name):
    return Counter(network.devices[name].mesh.statistics().counters)


def maps(network):
    return [dict(device.mesh.retained.items()) for device in network.devices.values()]


def apart(count, edges=(("a", "b"),), names="ab"):
    """Devices that have all been up before, with the same `count` values; their links are cut."""
    network = Network(names, edges)
    network.run(4_000)
    network.partition(network.edges)
    for name in names:
        stock(network, name, {f"site/values/{n}": value(n) for n in range(count)})
    network.run(10)
    return network


def test_ten_of_ten_thousand_cost_at_most_20_kb():
    network = apart(10_000)
    changed = {f"site/values/{n}": value(n, b"13.5", clock=1 << 20) for n in range(0, 10_000, 2000)}
    stock(network, "a", changed)
    stock(network, "b", {f"site/new/{n}": value(n, origin="b") for n in range(5)})
    network.frame_bytes = 0
    network.heal()
    network.run(1_000)
    one, other = maps(network)
    assert one == other
    assert len(one) == 10_005
    assert one["site/values/2000"].payload == b"13.5"
    assert network.frame_bytes <= 20_000
    assert counters(network, "a")["reconciliations"] == 1
    assert counters(network, "b")["reconciliations"] == 0


@pytest.mark.parametrize("different", [1, 30, 300, 3000])
def test_bytes_follow_the_difference(different):
    network = apart(3_000)
    stock(network, "b", {f"site/values/{n}": value(n, clock=1 << 20) for n in range(different)})
    network.frame_bytes = 0
    network.heal()
    network.run(1_000)
    one, other = maps(network)
    assert one == other
    assert network.frame_bytes <= 3_000 + 500 * different


def test_equal_maps_say_nothing():
    network = apart(2_000)
    network.frame_bytes = 0
    network.heal()
    network.run(1_000)
    assert counters(network, "a")["reconciliations"] == 0
    assert network.frame_bytes <= 2_000


def test_what_no_log_brings_crosses_a_row_of_devices_within_a_second():
    network = apart(50, [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("e", "f")], "abcdef")
    network.publish("a", "site/fresh", b"1", qos=0, retained=True)
    network.publish("f", "site/values/7", b"", qos=0, retained=True)
    network.heal()
    network.run(1_000)
    assert all(held == maps(network)[0] for held in maps(network))
    assert network.retained("f")["site/fresh"] == b"1"
    assert "site/values/7" not in network.retained("a")


def test_what_logs_bring_is_left_to_them():
    network = Network("ab", [("a", "b")])
    network.run(4_000)
    network.partition([("a", "b")])
    for number in range(200):
        network.publish("a", f"r/{number}", b"v", qos=1, retained=True)
        network.publish("b", f"r/{number}", b"", qos=1, retained=True)
    network.heal()
    network.run(3_000)
    assert counters(network, "a")["reconciliations"] == 0
    assert maps(network)[0] == maps(network)[1]


@pytest.mark.parametrize("cut_after_ms", [0, 3, 6, 9, 12, 1_000])
def test_both_may_lead_at_once_while_entries_change_and_the_link_dies(cut_after_ms):
    network = apart(2_000)
    stock(network, "a", {f"site/values/{n}": value(n, clock=1 << 20) for n in range(0, 100, 2)})
    stock(network, "b", {f"site/values/{n}": value(n, clock=1 << 20) for n in range(1, 100, 2)})
    network.heal()
    network.run(20)
    for name, other in ("ab", "ba"):
        network.devices[name].mesh._state.peers[other].exchange.ranges_due[0, 0] = None
        network.turn(name)
    for step in range(5):
        network.publish("a", f"site/values/{step}", b"now", qos=0, retained=True)
        network.publish("b", f"site/values/{step + 100}", b"", qos=0, retained=True)
        network.run(2)
    network.run(cut_after_ms)
    network.partition([("a", "b")])
    network.heal()
    network.run(1_000)
    one, other = maps(network)
    assert one == other
    assert [one[f"site/values/{n}"].clock - NOW - n for n in (50, 51)] == [1 << 20] * 2
    assert network.retained("b")["site/values/3"] == b"now"
    assert "site/values/103" not in network.retained("a")


def test_a_newcomer_takes_everything_at_once():
    network = Network("ab", [("a", "b")])
    network.partition([("a", "b")])
    network.run(4_000)
    stock(network, "a", {f"r/{n}": value(n) for n in range(2_000)})
    network.kill("b", disk_lost=True)
    network.restart("b")
    network.heal()
    network.run(300)
    assert maps(network)[0] == maps(network)[1]


def test_two_maps_at_the_hard_cap_end_equal_and_then_rest(monkeypatch):
    monkeypatch.setattr("broker.mesh.retained.RETAINED_TOPICS_MAX", 100)
    network = apart(0)
    stock(network, "a", {f"a/{n}": value(n * 2) for n in range(200)})
    stock(network, "b", {f"b/{n}": value(n * 2 + 1, origin="b") for n in range(200)})
    network.heal()
    network.run(20_000)
    one, other = maps(network)
    assert one == other
    newest = {f"{side}/{n}" for side in "ab" for n in range(100, 200)}
    assert set(one) == newest
    before = network.frame_bytes
    done = counters(network, "a")["reconciliations"]
    network.run(20_000)
    assert counters(network, "a")["reconciliations"] == done
    assert network.frame_bytes - before < 10_000


def test_maps_that_cannot_agree_cost_little(monkeypatch):
    network = apart(100)
    stock(network, "a", {"odd": value(1)})
    merge = type(network.devices["b"].mesh.retained).merge

    def refuses(self, topic, entry):
        return topic != "odd" and merge(self, topic, entry)

    network.heal()
    monkeypatch.setattr("broker.mesh.retained.RetainedMap.merge", refuses)
    network.run(60_000)
    done = counters(network, "a")["reconciliations"]
    before = network.frame_bytes
    network.run(64_000)
    assert counters(network, "a")["reconciliations"] - done <= 5
    assert network.frame_bytes - before < 64 * 2 * 200


def test_values_that_never_rest_are_not_taken_for_a_difference():
    network = Network("abcdef", [*zip("abcde", "bcdef", strict=True), ("a", "f"), ("b", "e")])
    network.run(4_000)
    for step in range(1_500):
        name = "abcdef"[step % 6]
        network.publish(name, f"link/{name}/{step % 5}", b"%d" % step, qos=step % 2, retained=True)
        network.run(20)
    begun = sum(counters(network, name)["reconciliations"] for name in "abcdef")
    assert begun <= 7 * 4
    network.run(1_000)
    assert all(held == maps(network)[0] for held in maps(network))


class Story:
    """Values that only reconciliation can bring, on a random graph, while links die and come back."""

    def __init__(self, seed, loss):
        self.random = Random(seed)
        names = "abcde"[: self.random.randint(2, 5)]
        edges = {(names[self.random.randrange(i)], names[i]) for i in range(1, len(names))}
        edges |= {tuple(self.random.sample(names, 2)) for _ in range(2)}
        self.network = Network(names, edges, seed, loss=loss)
        self.names = names

    def run(self, steps):
        network, random = self.network, self.random
        for step in range(steps):
            draw = random.random()
            if draw < 0.6:
                for _ in range(random.choice([1, 40])):
                    topic = f"r/{random.randint(0, 200)}"
                    payload = b"" if random.random() < 0.3 else b"%d" % step
                    name = random.choice(self.names)
                    network.publish(name, topic, payload, qos=0, retained=True)
            elif draw < 0.8:
                network.partition(random.sample(network.edges, k=len(network.edges) // 2))
            else:
                network.heal()
            network.run(random.choice([1, 10, 300]))
        network.loss = 0.0
        network.heal()
        network.run(30_000)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), loss=st.sampled_from([0.0, 0.2]))
def test_maps_agree_whatever_happened_to_links_and_frames(seed, loss):
    story = Story(seed, loss)
    story.run(40)
    held = maps(story.network)
    assert all(each == held[0] for each in held)
    assert not any(device.bad for device in story.network.devices.values())
