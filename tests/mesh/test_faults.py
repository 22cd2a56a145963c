"""Single faults that a plausible mesh would answer with a loss, a repetition or a stall: each was one once."""

import pytest

from broker.mesh.outgoing import Outgoing
from sim.disk import Disk
from sim.network import Network
from sim.path import Conditions

YEAR_MS = 365 * 24 * 3600 * 1000


def news(network, name):
    return network.payloads(name, rebuild=False)


def numbered(count, prefix=b""):
    return [prefix + b"%d" % number for number in range(count)]


def publish_all(network, name, payloads, pause_ms=5):
    for payload in payloads:
        network.publish(name, "t", payload, qos=1)
        network.run(pause_ms)


def publish_with_loss(network, count, **lost):
    """Messages 1 to `count` of a; on the way to each neighbour named those numbers are lost."""
    for number in range(1, count + 1):
        for name, numbers in lost.items():
            conditions = Conditions(loss=1.0) if number in numbers else network.conditions
            network.path("a", name).conditions = conditions
        publish_all(network, "a", [b"%d" % number])


@pytest.mark.parametrize("seed", range(6))
def test_a_relay_that_restarts_before_it_has_passed_a_message_on_gets_it_again(seed):
    network = Network("ahc", [("a", "h"), ("h", "c")], seed)
    network.run(5_000)
    publish_all(network, "a", [b"0"], 500)
    network.publish("a", "t", b"1", qos=1)
    while b"1" not in network.payloads("h"):
        network.run(0.1)
    network.kill("h")
    network.run(100)
    network.restart("h")
    network.run(10_000)
    assert news(network, "c") == [b"0", b"1"]


@pytest.mark.parametrize("leaves", [4, 16])
def test_a_hub_that_restarts_serves_all_its_leaves(leaves):
    names = ["hub", "a", *(f"l{number}" for number in range(leaves))]
    network = Network(names, [("hub", name) for name in names[1:]])
    network.run(5_000)
    network.publish("a", "t", b"1", qos=1)
    while b"1" not in network.payloads("hub"):
        network.run(0.1)
    network.kill("hub")
    network.run(100)
    network.restart("hub")
    network.run(10_000)
    assert all(news(network, name) == [b"1"] for name in names if name.startswith("l"))


def test_an_origin_that_has_just_booted_declares_nothing_lost_that_others_hold():
    network = Network("abd", [("a", "b"), ("a", "d"), ("b", "d")])
    network.run(4_000)
    network.kill("d")
    publish_all(network, "a", numbered(5), 20)
    network.run(2_000)
    network.kill("a")
    network.run(100)
    network.restart("a")
    network.restart("d")
    network.run(10_000)
    assert news(network, "d") == numbered(5)
    assert network.devices["d"].gaps == []


def test_what_waits_behind_a_hole_is_delivered_when_the_hole_is_given_up():
    network = Network("ac", [("a", "c")])
    network.run(4_000)
    publish_all(network, "a", [b"1"], 100)
    network.loss = 1.0
    network.publish("a", "t", b"2", qos=1)
    network.loss = 0.0
    network.publish("a", "t", b"3", qos=1)
    network.run(10)
    network.kill("a")
    network.devices["b"] = type(network.devices["c"])("b")
    network.edges.append(("b", "c"))
    network.boot("b")
    network.connect(("b", "c"))
    network.run(30_000)
    assert news(network, "c") == [b"1", b"3"]
    assert len(network.devices["c"].gaps) == 1


def test_a_second_hole_is_filled_by_the_neighbour_that_gives_up_the_first_at_the_same_time():
    network = Network("abc", [("a", "b"), ("a", "c"), ("b", "c")])
    network.run(4_000)
    network.partition([("b", "c")])
    publish_with_loss(network, 5, b={2}, c={2, 4})
    network.kill("a")
    network.heal()
    network.run(30_000)
    assert news(network, "b") == [b"1", b"3", b"4", b"5"]
    assert news(network, "c") == [b"1", b"3", b"4", b"5"]


def test_who_holds_what_another_has_pushed_past_is_heard_of_before_that_one_gives_up():
    network = Network("abcx", [("a", "c"), ("b", "c"), ("a", "x"), ("b", "x")])
    network.run(4_000)
    network.partition([("a", "c"), ("b", "x")])
    network.publish("a", "t", b"1", qos=1)
    network.run(500)
    state = network.devices["a"].running._state
    state.vector.touch(state.log._evict_oldest())
    network.partition([("a", "x")])
    network.cut.discard(("a", "c"))
    network.connect(("a", "c"))
    network.run(500)
    network.publish("a", "t", b"2", qos=1)  # waits at both; c has pushed it to b
    network.run(3_000)
    network.devices["b"].running._timers.next_digest_ns = 1 << 62  # announcements must do
    network.cut.discard(("b", "x"))
    network.connect(("b", "x"))
    network.run(20_000)
    for name in "bc":
        assert news(network, name) == [b"1", b"2"]
        assert network.devices[name].gaps == []


def test_what_a_neighbour_holds_behind_a_hole_of_its_own_is_not_given_up():
    network = Network("abcd", [("a", "b"), ("a", "c"), ("b", "c"), ("b", "d")])
    network.run(4_000)
    network.partition([("b", "c")])
    publish_with_loss(network, 3, b={1, 2}, c={1, 3})
    network.kill("a")
    network.run(14_000)  # alone, c has nobody to give up before; b and d are about to give up
    network.heal()
    network.run(60_000)
    for name in "bcd":
        assert news(network, name) == [b"2", b"3"]
        assert len(network.devices[name].gaps) == 1


def test_a_hole_is_filled_in_the_end_by_a_neighbour_whose_answers_were_lost(monkeypatch):
    network = Network("abc", [("a", "b"), ("b", "c")])
    network.run(4_000)
    network.partition([("b", "c")])
    publish_all(network, "a", numbered(3), 100)
    network.kill("a")
    monkeypatch.setattr(Outgoing, "_next_served", lambda out, _: out._serving.clear())
    network.heal()
    network.run(30_000)
    assert news(network, "c") == []
    monkeypatch.undo()
    network.run(20_000)
    assert news(network, "c") == numbered(3)
    assert network.devices["c"].gaps == []


def test_leftovers_of_an_ended_incarnation_do_not_stop_repair():
    network = Network("ac", [("a", "c")])
    network.run(4_000)
    publish_all(network, "a", [b"1"], 100)
    network.loss = 1.0
    network.publish("a", "t", b"2", qos=1)
    network.loss = 0.0
    publish_all(network, "a", [b"3"], 10)
    network.kill("a", disk_lost=True)
    network.run(1_000)
    network.restart("a")
    network.run(5_000)
    publish_all(network, "a", [b"4"], 5_000)
    network.loss = 1.0
    network.publish("a", "t", b"5", qos=1)
    network.loss = 0.0
    network.run(5_000)
    publish_all(network, "a", [b"6"], 5_000)
    assert news(network, "c")[-3:] == [b"4", b"5", b"6"]
    assert network.devices["c"].mesh.statistics().counters.get("bad_frames", 0) == 0


def lose_disk_and_meet(network, first, *, old, new):
    """`a` publishes before it loses its disk; reborn it meets only `first`, and publishes again."""
    publish_all(network, "a", old)
    network.run(500)
    network.partition([edge for edge in network.edges if "a" in edge])
    network.kill("a", disk_lost=True)
    network.boot("a")
    edge = tuple(sorted(("a", first)))
    network.cut.discard(edge)
    network.connect(edge)
    network.run(4_000)
    publish_all(network, "a", new)
    network.run(500)


@pytest.mark.parametrize("old", [1, 2, 5])
def test_a_device_without_its_disk_meets_a_newcomer_first_and_nothing_is_lost_or_repeated(old):
    network = Network("abc", [("a", "b"), ("a", "c")])
    network.partition([("a", "b")])
    network.run(4_000)
    lose_disk_and_meet(network, "b", old=numbered(old, b"old"), new=numbered(3, b"new"))
    assert news(network, "b") == numbered(3, b"new")
    network.heal()
    network.run(20_000)
    assert news(network, "b") == numbered(3, b"new")
    assert news(network, "c") == [*numbered(old, b"old"), *numbered(3, b"new")]


def test_a_lost_disk_that_only_a_neighbours_neighbour_knows_of_mutes_nobody():
    network = Network("anf", [("a", "f"), ("a", "n"), ("n", "f")])
    network.partition([("a", "n"), ("f", "n")])
    network.run(4_000)
    lose_disk_and_meet(network, "n", old=numbered(5, b"old"), new=[b"new0"])
    network.cut.discard(("f", "n"))
    network.connect(("f", "n"))
    network.run(3_000)
    publish_all(network, "a", [b"new1", b"new2"])
    network.run(20_000)
    for name in "nf":
        assert news(network, name)[-2:] == [b"new1", b"new2"]
        assert network.devices[name].bad == []


def test_one_clock_a_year_ahead_does_not_silence_the_fleet_when_all_are_put_right():
    network = Network("abc", [("a", "b"), ("b", "c")])
    for name, device in network.devices.items():
        network.kill(name)
        device.disk, device.synchronised = Disk(), False
    network.devices["a"].wall_skew_ms = YEAR_MS
    for name in "abc":
        network.restart(name)
    network.run(5_000)
    for device in network.devices.values():
        device.wall_skew_ms, device.synchronised = 0, True
        wall_ms = network.wall_ms(device)
        device.mesh.set_wall_clock(wall_ms, network.now_ns, synchronised=True)
    publish_all(network, "b", [b"hi"], 40_000)
    assert news(network, "a") == [b"hi"]
    assert news(network, "c") == [b"hi"]


def test_a_clock_that_nobody_mends_is_held_back_for_a_while_and_at_a_bounded_cost():
    network = Network("ab", [("a", "b")])
    network.run(4_000)
    device = network.devices["a"]
    device.synchronised, device.wall_skew_ms = False, 3_600_000
    wall_ms = network.wall_ms(device)
    device.mesh.set_wall_clock(wall_ms, network.now_ns, synchronised=False)
    publish_all(network, "a", [bytes(10_000)] * 20)
    network.run(20_000)
    assert news(network, "b") == []
    network.run(20_000)
    assert len(news(network, "b")) == 20
    assert device.mesh.statistics().peers[0].bytes_out < 20 * 20 * 10_500


def test_an_own_message_on_a_topic_is_not_followed_by_an_older_one_of_another():
    network = Network("ab", [("a", "b")])
    network.run(4_000)
    network.devices["a"].wall_skew_ms = 100
    wall_ms = network.wall_ms(network.devices["a"])
    network.devices["a"].mesh.set_wall_clock(wall_ms, network.now_ns, synchronised=True)
    network.publish("b", "t", b"old")
    network.publish("a", "t", b"new")
    network.run(500)
    assert network.payloads("a") == [b"new"]
    assert network.payloads("b") == [b"old", b"new"]


def test_two_messages_of_one_moment_end_in_the_same_order_everywhere():
    network = Network("abc", [("a", "c"), ("b", "c")])
    network.run(4_000)
    network.publish("b", "t", b"b")
    network.publish("a", "t", b"a")
    network.run(500)
    assert {network.payloads(name)[-1] for name in "abc"} == {b"b"}


def test_deletions_are_not_told_for_ever_to_a_device_whose_clock_is_far_ahead():
    network = Network("ab", [("a", "b")])
    network.run(4_000)
    network.publish("b", "r", b"v", qos=1, retained=True)
    network.publish("b", "r", b"", qos=1, retained=True)
    network.run(500)
    device = network.devices["a"]
    device.wall_skew_ms = 11 * 24 * 3600 * 1000
    wall_ms = network.wall_ms(device)
    device.mesh.set_wall_clock(wall_ms, network.now_ns, synchronised=False)
    network.run(60_000)
    assert network.payloads("a").count(b"") <= 1


def test_what_one_neighbour_held_in_memory_survives_the_restart_of_both():
    network = Network("abc", [("a", "b"), ("b", "c")])
    network.run(4_000)
    network.partition([("b", "c")])
    publish_all(network, "a", [b"%d" % n for n in range(20)], 3_000)
    assert len(news(network, "b")) == 20
    network.kill("a")
    network.restart("a")
    network.run(1_000)
    network.kill("b")
    network.restart("b")
    network.run(5_000)
    network.heal()
    network.run(5_000)
    assert news(network, "c") == [b"%d" % n for n in range(20)]
    assert not network.devices["c"].gaps


def test_what_neighbours_hold_leaves_the_disk_when_it_is_much(monkeypatch):
    monkeypatch.setattr("broker.mesh.dialogue.OWN_KEPT_BUNDLES", 8)
    network = Network("ab", [("a", "b")])
    network.run(4_000)
    publish_all(network, "a", [b"%d" % n for n in range(50)], 5_000)
    assert 8 <= len(network.devices["a"].disk._content.own) <= 12
    network.partition([("a", "b")])
    publish_all(network, "a", [b"x%d" % n for n in range(50)], 3_000)
    assert len(network.devices["a"].disk._content.own) >= 58


def test_what_there_is_no_room_for_behind_a_hole_is_not_fetched_again_and_again(monkeypatch):
    monkeypatch.setattr("broker.mesh.streams.WAITING_BUNDLES_MAX", 4)
    network = Network("abc", [("a", "b"), ("b", "c")])
    network.run(4_000)
    publish_all(network, "a", [b"past"], 500)
    network.partition([("b", "c")])
    publish_all(network, "a", numbered(20), 100)
    network.kill("a")
    state = network.devices["b"].running._state
    for _ in range(3):
        state.vector.touch(state.log._evict_oldest())
    network.heal()
    network.run(14_000)
    assert news(network, "c") == [b"past"]
    assert state.peers["c"].outgoing.bundles_sent < 10 * 20
    network.run(10_000)
    assert news(network, "c") == [b"past", *numbered(20)[2:]]


def test_holes_that_were_asked_for_together_are_not_waited_for_one_after_the_other():
    network = Network("abc", [("a", "b"), ("b", "c")])
    network.run(4_000)
    publish_all(network, "a", [b"past"], 500)
    for number in range(10):
        network.path("a", "b").conditions = network.conditions if number % 2 else Conditions(loss=1)
        network.publish("a", "t", b"%d" % number, qos=1)
        network.run(1)
    network.run(10)
    network.kill("a")
    network.run(45_000)
    for name in "bc":
        assert news(network, name) == [b"past", b"1", b"3", b"5", b"7", b"9"]
        assert len(network.devices[name].gaps) == 5


def test_nothing_is_given_up_before_all_neighbours_were_asked_however_slow_they_are():
    names = "acdefgz"
    edges = [("a", "c"), ("a", "z"), *(("c", name) for name in "defgz")]
    network = Network(names, edges, latency_ms=(200, 200))
    network.run(6_000)
    publish_all(network, "a", [b"past"], 2_000)
    network.partition([("a", "c"), ("c", "z")])
    network.path("a", "z").conditions = Conditions(loss=1.0)
    network.publish("a", "t", b"1", qos=1)
    network.path("a", "z").conditions = network.conditions
    publish_all(network, "a", [b"2", b"3"], 10)
    network.run(220)
    state = network.devices["a"].running._state
    for _ in range(3):
        state.vector.touch(state.log._evict_oldest())
    network.partition([("a", "z")])
    network.cut.clear()
    network.connect(("a", "c"))
    network.connect(("c", "z"))
    network.run(60_000)
    assert news(network, "c") == [b"past", b"2", b"3"]


def test_who_once_sent_what_had_to_wait_is_no_reason_to_wait_for_ever():
    edges = [("a", "b"), ("a", "e"), ("b", "c"), ("c", "e")]
    network = Network("abce", edges, latency_ms=(2, 2))
    network.run(4_000)
    publish_all(network, "a", [b"past"], 500)
    network.partition([("c", "e")])
    network.path("b", "c").conditions = Conditions(loss=1.0)
    publish_all(network, "a", [b"1"], 3)
    network.path("b", "c").conditions = network.conditions
    publish_all(network, "a", [b"2"], 5)
    network.partition([("a", "b")])
    publish_all(network, "a", [b"3"], 3)
    network.kill("a")
    state = network.devices["e"].running._state
    while len(state.log):
        state.vector.touch(state.log._evict_oldest())
    network.cut.discard(("c", "e"))
    network.connect(("c", "e"))
    network.run(60_000)
    assert news(network, "c") == [b"past", b"1", b"2"]
    assert len(network.devices["c"].gaps) == 1


def test_a_link_that_comes_and_goes_does_not_make_a_device_wait_for_ever():
    network = Network("abc", [("a", "b"), ("b", "c")])
    network.run(4_000)
    publish_all(network, "a", [b"past"], 500)
    network.partition([("b", "c")])
    publish_all(network, "a", numbered(3), 100)
    network.kill("a")
    state = network.devices["b"].running._state
    for _ in range(2):
        state.vector.touch(state.log._evict_oldest())
    for _ in range(6):
        network.heal()
        network.run(8_000)
        network.partition([("b", "c")])
        network.run(300)
    assert news(network, "c") == [b"past", b"1", b"2"]
