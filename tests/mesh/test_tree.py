"""Spreading trees: one copy each when all is well, and quickly whole again when it is not."""

from random import Random

import pytest

from broker.mesh.control import Have, Shape, encode_control
from broker.mesh.frame import encode_frame
from broker.mesh.limits import MS, STREAMS_MAX, WORK_MAX, WORK_SHAPE
from sim.network import Network

KEPT = {"qos": 1, "priority": 2}
FRESH = {"qos": 0, "priority": 3}
URGENT = {"qos": 1, "priority": 1}


def names(count):
    return [f"d{number:02}" for number in range(count)]


def random_graph(count, degree, seed):
    """A ring, so that it is connected, and random links besides."""
    devices, random = names(count), Random(seed)
    edges = {tuple(sorted((devices[i], devices[i - 1]))) for i in range(count)}
    while len(edges) < count * degree // 2:
        edges.add(tuple(sorted(random.sample(devices, 2))))
    return Network(devices, sorted(edges), seed)


def bundles_out(network):
    return sum(
        peer.bundles_out
        for device in network.devices.values()
        for peer in device.running.statistics().peers
    )


def counted(network, name):
    return sum(
        device.running.statistics().counters.get(name, 0) for device in network.devices.values()
    )


def speak(network, rounds, options, prefix="m"):
    """Every device publishes once a round, 100 ms apart in all."""
    devices = list(network.devices)
    for number in range(rounds):
        for name in devices:
            network.publish(name, f"t/{name}", f"{prefix}{number}".encode(), **options)
            network.run(100 / len(devices))
    network.run(1_000)


@pytest.mark.parametrize("options", [KEPT, FRESH], ids=["kept", "fresh"])
def test_after_a_while_every_device_gets_one_copy(options):
    network = random_graph(16, 5, seed=3)
    network.run(3_000)
    speak(network, 5, options)
    before = bundles_out(network)
    speak(network, 20, options, "later")
    ideal = 20 * 16 * 15
    assert ideal <= bundles_out(network) - before <= ideal * 1.02
    for name in network.devices:
        assert len(set(network.devices[name].heard)) == 25 * 16


def test_urgent_lanes_use_every_link_once_and_leave_the_trees_alone():
    network = random_graph(12, 4, seed=5)
    network.run(3_000)
    speak(network, 5, KEPT)
    before, prunes = bundles_out(network), counted(network, "prunes")
    for number in range(10):
        network.publish("d03", "o", b"%d" % number, **URGENT)
        network.run(200)
    most = 2 * len(network.edges) - 11
    assert 11 * 10 <= bundles_out(network) - before <= most * 10
    assert counted(network, "prunes") == prunes


def test_a_relay_that_dies_silently_costs_a_few_round_trips():
    network = Network(
        "abcdef",
        [("a", "b"), ("b", "c"), ("a", "d"), ("d", "c"), ("c", "e"), ("d", "e"), ("e", "f")],
        seed=2,
    )
    network.run(3_000)
    speak(network, 5, KEPT)
    tree, _ = network.devices["c"].mesh._tree._paths["a"]
    network.block("a", tree, blocked=True)  # nobody's link goes down
    network.publish("a", "t/a", b"after", **KEPT)
    network.run(600)
    assert b"after" in network.payloads("c")
    assert counted(network, "grafts")


def test_an_origin_that_only_sends_fresh_values_is_heard_again_when_its_tree_breaks():
    network = Network("abcd", [("a", "b"), ("b", "d"), ("a", "c"), ("c", "d")], seed=4)
    network.run(3_000)
    speak(network, 5, FRESH)
    tree, _ = network.devices["d"].mesh._tree._paths["a"]
    network.block(tree, "d", blocked=True)
    for number in range(5):
        network.publish("a", "t/a", b"alive%d" % number, **FRESH)
        network.run(300)
    assert b"alive4" in network.payloads("d")


def test_a_link_that_goes_down_is_made_good_before_anything_is_missed():
    network = Network("abc", [("a", "b"), ("b", "c"), ("a", "c")], seed=9)
    network.run(3_000)
    speak(network, 5, KEPT)
    network.partition([("a", "c")])
    network.run(20)
    wants = counted(network, "wants")
    network.publish("a", "t", b"next", **KEPT)
    network.run(50)
    assert b"next" in network.payloads("c")
    assert counted(network, "wants") == wants


def test_after_a_cut_each_device_fetches_its_past_once():
    devices = names(10)
    left, right = devices[:5], devices[5:]
    inner = [(side[i], side[j]) for side in (left, right) for i in range(5) for j in (i - 1, i - 2)]
    cross = list(zip(left[:3], right[:3], strict=True))
    network = Network(devices, sorted({tuple(sorted(e)) for e in inner + cross}), seed=6)
    network.run(3_000)
    speak(network, 3, KEPT)
    network.partition(cross)
    for number in range(100):
        for name in (left[3], right[4]):
            network.publish(name, "t", bytes(2_000) + b"%d" % number, **KEPT)
        network.run(20)
    network.run(1_000)
    before = network.frame_bytes
    network.heal()
    network.run(1_000)
    missing = 2 * 5 * 100 * 2_100
    for name in devices:
        assert len(network.payloads(name)) == 3 * 10 + 200
    assert network.frame_bytes - before <= 1.3 * missing


def test_the_shorter_path_replaces_a_long_one():
    chain = names(8)
    network = Network(chain, [(chain[i], chain[i + 1]) for i in range(7)], seed=1)
    network.run(3_000)
    speak(network, 3, KEPT)
    assert network.devices["d07"].mesh._tree._paths["d00"][1] == 7
    network.edges.append(("d00", "d07"))
    network.conditions.latency_min_ms = 1
    network.connect(("d00", "d07"))
    network.run(1_000)
    speak(network, 5, KEPT, "again")
    assert network.devices["d07"].mesh._tree._paths["d00"] == ("d00", 1)


def test_a_peer_that_grafts_without_end_is_cut_off():
    network = Network("ab", [("a", "b")])
    network.run(1_000)
    mesh = network.devices["a"].mesh
    shape = encode_frame([encode_control(Shape([f"o{i}" for i in range(1_000)], []))])
    assert 2 * STREAMS_MAX * WORK_SHAPE < WORK_MAX
    for _ in range(WORK_MAX // WORK_SHAPE // 1_000 + 12):
        mesh.receive("b", shape, network.now_ns)
    network.turn("a")
    assert network.devices["a"].bad[0].reason == "grafts and prunes without end"
    assert "b" not in mesh._state.peers or mesh._state.peers["b"].closing


def test_pruning_unknown_origins_takes_no_memory():
    network = Network("ab", [("a", "b")])
    network.run(1_000)
    mesh = network.devices["a"].mesh
    for page in range(4):
        shape = Shape([], [f"x{page}-{i}" for i in range(1_000)])
        mesh.receive("b", encode_frame([encode_control(shape)]), network.now_ns)
    assert not mesh._tree._lazy


def test_announcements_that_lie_end_in_bounded_asking():
    network = Network("ab", [("a", "b")])
    network.run(1_000)
    mesh = network.devices["a"].mesh
    rows = [("ghost", 5, 3, 10**6, 1), ("spirit", 6, 3, 10**6, 1)]
    mesh.receive("b", encode_frame([encode_control(Have(rows))]), network.now_ns)
    network.run(60_000)
    counters = mesh.statistics().counters
    assert counters["wants"] < 20
    assert counters["grafts"] < 5


@pytest.mark.parametrize("row", [
    ("", 5, 1, 1, 1), ("o" * 33, 5, 1, 1, 1), ("o", 10, 1, 1, 1), ("o", -1, 1, 1, 1),
    ("o", 5, 0, 1, 1), ("o", 5, 1, 0, 1), ("o", 5, 1, 1, 256), ("o", 5, 1 << 40, 1, 1),
], ids=str)  # fmt: skip
def test_impossible_announcements_are_told(row):
    network = Network("ab", [("a", "b")])
    network.run(1_000)
    network.devices["a"].mesh.receive(
        "b", encode_frame([encode_control(Have([row]))]), network.now_ns
    )
    network.turn("a")
    assert network.devices["a"].bad[0].reason == "announcement of an impossible bundle"


def test_a_neighbour_that_says_it_first_is_not_told():
    network = Network("abc", [("a", "b"), ("b", "c"), ("a", "c")], seed=8, latency_ms=(1, 1))
    network.run(3_000)
    speak(network, 5, KEPT)
    told = counted(network, "announced")
    for number in range(10):
        network.publish("a", "t", b"%d" % number, **KEPT)
        network.run(500)
    assert counted(network, "announced") - told <= 15
    assert network.now_ns > 5_000 * MS
