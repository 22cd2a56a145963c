"""Unicast on virtual time: ways, relays that die, answers instead of silence, exactly once."""

from random import Random

import pytest

from broker.mesh import frame
from broker.mesh.control import Unreachable
from broker.mesh.events import Undelivered
from broker.mesh.limits import (
    MESSAGE_BYTES_MAX,
    MS,
    UNICAST_HOPS_MAX,
    WINDOW_NUMBERS,
)
from broker.mesh.window import Window
from sim.network import Network
from sim.path import Conditions
from tests.mesh.unicast import (
    acquainted,
    call,
    counter,
    heard,
    in_flight,
    linked,
    reasons,
    ring,
    row,
    said,
    speak,
    tell,
    unit,
)

# Ways.


def test_a_message_reaches_the_one_device_and_nobody_else():
    network = acquainted("abcde", row("abcde"))
    call(network, "a", "e", b"x")
    network.run(200)
    assert [heard(network, name) for name in "abcde"] == [[], [], [], [], [b"x"]]
    assert [counter(network, name, "unicast_relayed") for name in "abcde"] == [0, 1, 1, 1, 0]
    assert counter(network, "a", "unicast_sent") == counter(network, "a", "unicast_acked") == 1
    assert in_flight(network, "a") == 0
    assert all(not device.mesh._state.passing for device in network.devices.values())


def test_it_takes_the_way_on_which_the_destination_was_heard_first():
    edges = [("a", "b"), ("b", "d"), ("a", "c"), ("c", "d")]
    network = acquainted("abcd", edges, latency_ms=(3, 3))
    routes = network.devices["a"].mesh._state.routes
    first = routes.ways("d")[0]
    call(network, "a", "d", b"x")
    network.run(200)
    assert set(routes.ways("d")) == {"b", "c"}
    assert counter(network, first, "unicast_relayed") == 1
    assert counter(network, ({"b", "c"} - {first}).pop(), "unicast_relayed") == 0


def test_a_neighbour_is_its_own_way_whatever_was_heard_through_others():
    network = acquainted("abc", ring("abc"))
    network.devices["a"].mesh._state.routes._ways["c"] = ("b",)
    call(network, "a", "c", b"x")
    network.run(100)
    assert heard(network, "c") == [b"x"]
    assert counter(network, "b", "unicast_relayed") == 0


def test_a_message_to_this_device_is_delivered_here():
    network = acquainted("ab", row("ab"))
    call(network, "a", "a", b"x")
    assert heard(network, "a") == [b"x"]
    assert counter(network, "a", "unicast_sent") == 0


def test_an_answer_finds_a_device_that_has_never_published():
    network = Network("abc", row("abc"))
    network.run(2_000)
    network.publish("c", "here/c", b"")
    network.run(100)
    call(network, "a", "c", b"question")
    network.run(100)
    call(network, "c", "a", b"answer")
    network.run(100)
    assert heard(network, "a") == [b"answer"]
    assert counter(network, "c", "unicast_turned_back") == 0


def test_messages_of_one_turn_share_a_bundle_by_destination_priority_and_deadline():
    network = acquainted("abc", [("a", "b"), ("a", "c")])
    mesh = network.devices["a"].mesh
    for number in range(10):
        for to in "bc":
            mesh.publish("t", b"%d" % number, network.now_ns, lifetime_ms=1_000, to=to)
    mesh.publish("t", b"bulk", network.now_ns, lifetime_ms=1_000, to="b", priority=4)
    mesh.publish("t", b"long", network.now_ns, lifetime_ms=2_000, to="b")
    network.turn("a")
    network.run(100)
    assert counter(network, "a", "unicast_sent") == 4
    assert sorted(heard(network, "b")) == sorted(
        [b"%d" % n for n in range(10)] + [b"bulk", b"long"]
    )
    assert heard(network, "c") == [b"%d" % number for number in range(10)]


def test_a_message_larger_than_a_frame_travels_over_relays():
    network = acquainted("abcd", row("abcd"))
    payload = Random(1).randbytes(MESSAGE_BYTES_MAX)
    call(network, "a", "d", payload)
    network.run(300)
    assert heard(network, "d") == [payload]


def test_unicast_of_bulk_goes_behind_urgent_bundles():
    network = Network("ab", row("ab"))
    network.run(2_000)
    mesh = network.devices["a"].mesh
    for number in range(8):
        mesh.publish(
            "t", bytes(60_000), network.now_ns + number, lifetime_ms=9_000, to="b", priority=4
        )
    mesh.seal(network.now_ns)
    mesh.publish("urgent", b"!", network.now_ns, qos=1, priority=1)
    mesh.seal(network.now_ns)
    first = mesh.frames_to_send("b", 1, network.now_ns)[0]
    kinds = [kind for kind, _ in frame.decode_frame(first)]
    assert kinds[0] == frame.BUNDLE


# Relays that die, ways that fail.


@pytest.mark.parametrize("seed", range(10))
def test_a_call_across_four_hops_while_a_relay_dies(seed):
    names = "abcdefgh"
    network = acquainted(names, ring(names), seed=seed)
    forth, back = (
        ("bcd", "hgf")
        if network.devices["a"].mesh._state.routes.ways("e")[0] == "b"
        else ("hgf", "bcd")
    )
    victim = forth[seed % 3]
    call(network, "a", "e", b"question", deadline_ms=5_000)
    network.run(4)  # it is among the relays
    network.kill(victim)
    for _ in range(4):
        speak(network, 1_000)  # as devices do, once a second
    assert heard(network, "e") == [b"question"]
    call(network, "e", "a", b"answer", deadline_ms=5_000)
    for _ in range(4):
        speak(network, 1_000)
    assert heard(network, "a") == [b"answer"]
    assert reasons(network, "a") == reasons(network, "e") == []
    relayed = [counter(network, name, "unicast_relayed") for name in back]
    assert all(relayed), "it came by the other path"


@pytest.mark.parametrize("victim", "bcd")
def test_a_relay_that_falls_silent_without_a_word_is_gone_round(victim):
    names = "abcdefgh"
    network = acquainted(names, ring(names))
    routes = network.devices["a"].mesh._state.routes
    routes._ways["e"] = ("b", "h")
    deaf = network.devices[victim].mesh
    deaf.receive = lambda *_: None  # its links stay up until they have been silent for 2 s
    call(network, "a", "e", b"x", deadline_ms=3_000)
    network.run(1_500)
    assert heard(network, "e") == [b"x"]
    assert counter(network, "a", "unicast_resent") >= 1


def test_a_relay_that_knows_another_way_says_so_and_it_is_taken():
    network = acquainted("abcde", [("a", "b"), ("b", "c"), ("b", "d"), ("c", "e"), ("d", "e")])
    routes = network.devices["b"].mesh._state.routes
    routes._ways["e"] = ("c", "d")
    network.devices["c"].mesh._state.routes._ways.clear()
    network.disconnect(("c", "e"))
    network.cut.add(("c", "e"))
    call(network, "a", "e", b"x")
    network.run(90)  # sooner than any timer
    assert heard(network, "e") == [b"x"]
    assert routes.ways("e") == ["d"]
    assert network.devices["a"].mesh._state.routes.ways("e") == ["b"]


def test_an_unknown_destination_is_told_at_the_deadline():
    network = acquainted("abc", row("abc"))
    clock = call(network, "a", "nobody", b"x", deadline_ms=1_500)
    network.run(1_400)
    assert network.devices["a"].undelivered == []
    network.run(200)
    assert network.devices["a"].undelivered == [Undelivered("nobody", "t", clock, "unreachable")]
    assert counter(network, "a", "unicast_unreachable") == 1
    assert in_flight(network, "a") == 0


def test_without_any_link_a_device_is_unreachable_until_there_is_one():
    network = acquainted("ab", row("ab"))
    network.partition([("a", "b")])
    call(network, "a", "b", b"lost", deadline_ms=1_000)
    call(network, "a", "b", b"found", deadline_ms=10_000)
    network.run(3_000)
    assert reasons(network, "a") == ["unreachable"]
    network.heal()
    network.run(50)  # sooner than any timer
    assert heard(network, "b") == [b"found"]
    assert counter(network, "a", "unicast_sent") == 1


def test_what_has_no_way_leaves_when_the_destination_is_heard():
    network = acquainted("abc", row("abc"))
    network.partition([("b", "c")])
    call(network, "a", "c", b"x")
    network.run(5_000)
    network.heal()
    network.run(50)
    sends = counter(network, "a", "unicast_resent")
    network.publish("c", "here/c", b"")
    network.run(50)
    assert heard(network, "c") == [b"x"]
    assert counter(network, "a", "unicast_resent") <= sends + 1


def test_a_destination_that_does_not_answer_is_told_as_that():
    network = acquainted("ab", row("ab"))
    network.devices["b"].mesh.receive = lambda *_: None
    call(network, "a", "b", b"x", deadline_ms=1_000)
    network.run(1_100)
    assert reasons(network, "a") == ["unanswered"]


def test_what_arrives_too_late_is_not_delivered_and_told_as_expired():
    network = acquainted("ab", row("ab"), latency_ms=(20, 20))
    network.path("a", "b").conditions = Conditions(1, 0, loss=1.0)
    call(network, "a", "b", b"x", deadline_ms=50)
    mesh = network.devices["a"].mesh
    (flight,) = mesh._state.flights._destinations["b"].flights.values()
    late = frame.encode_bundle(flight.stored.head, b"", 0, 0, frame.UNICAST)
    network.devices["b"].mesh.receive("a", frame.encode_frame([late]), network.now_ns)
    network.turn("b")
    network.run(30)
    assert heard(network, "b") == []
    assert reasons(network, "a") == ["expired"]
    assert counter(network, "b", "expired") == 1


def test_a_planted_loop_ends_at_the_hop_limit_and_is_broken():
    network = acquainted("abcdx", [("a", "b"), ("b", "c"), ("c", "d"), ("d", "b"), ("d", "x")])
    for name, way in (("a", "b"), ("b", "c"), ("c", "d"), ("d", "b")):
        network.devices[name].mesh._state.routes._ways["nobody"] = (way,)
    call(network, "a", "nobody", b"x", deadline_ms=900)
    network.run(1_000)
    relayed = sum(counter(network, name, "unicast_relayed") for name in "bcd")
    assert UNICAST_HOPS_MAX <= relayed <= 3 * UNICAST_HOPS_MAX
    assert reasons(network, "a") == ["unreachable"]
    assert [network.devices[name].mesh._state.routes.ways("nobody") for name in "a"] == [[]]


def test_a_loop_through_the_origin_itself_is_turned_back_at_once():
    network = acquainted("abcx", [*ring("abc"), ("c", "x")])
    for name, way in (("a", "b"), ("b", "c"), ("c", "a")):
        network.devices[name].mesh._state.routes._ways["nobody"] = (way,)
    call(network, "a", "nobody", b"x", deadline_ms=90)
    network.run(200)
    assert counter(network, "a", "unicast_looped") == 1
    assert reasons(network, "a") == ["unreachable"]


def test_resends_are_few_and_spread_over_the_deadline():
    network = acquainted("ab", row("ab"))
    mesh = network.devices["b"].mesh
    received, taken = [], mesh.receive
    mesh.receive = lambda peer, data, now_ns: (
        taken(peer, frame.encode_frame([r for r in records(data) if r[0] != frame.UNICAST]), now_ns)
        or received.extend(r for r in records(data) if r[0] == frame.UNICAST)
    )
    call(network, "a", "b", b"x", deadline_ms=10_000)
    network.run(11_000)
    assert 5 <= len(received) <= 9
    assert reasons(network, "a") == ["unanswered"]
    assert in_flight(network, "a") == 0


def test_a_way_slower_than_the_first_timer_is_learned_and_nothing_is_sent_twice():
    network = acquainted("abc", row("abc"), latency_ms=(180, 180))
    for _ in range(4):
        call(network, "a", "c", b"x")
        network.run(3_000)
    resent = counter(network, "a", "unicast_resent")
    assert resent <= 3
    for _ in range(10):
        call(network, "a", "c", b"x")
        network.run(3_000)
    assert counter(network, "a", "unicast_resent") == resent
    assert heard(network, "c") == [b"x"] * 14


def records(data):
    return [frame.record(kind, body) for kind, body in frame.decode_frame(data)]


def test_a_neighbour_that_does_not_read_is_gone_round():
    mesh = linked("b", "c")
    mesh.publish("t", b"x", 0, lifetime_ms=60_000, to="z")
    mesh.seal(0)
    assert len(mesh._state.peers["b"].outbox) == 1
    tell(mesh, "b", unit("o", "c", 1))
    mesh._state.peers["c"].suspend()
    mesh._unicast.lost_by("c", 0)
    assert said(mesh, "b") == [Unreachable("o", 1, "c", 1, retry=False)]
    for now_ms in range(0, 3_000, 100):
        mesh.frames_to_send("b", 0, now_ms * MS)  # its socket takes nothing
        mesh.handle_timer(now_ms * MS)
    assert mesh.statistics().counters["suspended"] == 1
    assert mesh.statistics().flights == 1
    assert len(mesh._state.peers["b"].outbox) == 0


# Exactly once.


@pytest.mark.parametrize("seed", range(8))
def test_random_stories_end_with_every_message_once_or_an_answer(seed):
    random = Random(seed)
    names = [f"n{number}" for number in range(8)]
    edges = ring(names) + [tuple(random.sample(names, 2)) for _ in range(4)]
    edges = sorted({tuple(sorted(edge)) for edge in edges})
    network = acquainted(
        names, edges, seed=seed, loss=0.05, reorder=bool(seed % 2), latency_ms=(1, 30)
    )
    sent = []
    for number in range(60):
        source, to = random.sample(names, 2)
        payload = b"%d %s" % (number, bytes(random.randrange(3_000)))
        deadline_ms = random.choice([300, 3_000, 8_000])
        clock = call(network, source, to, payload, deadline_ms=deadline_ms)
        sent.append((source, to, payload, clock))
        if random.random() < 0.2:
            network.partition([random.choice(edges)])
        if random.random() < 0.3:
            network.heal()
        if number % 10 == 0:
            speak(network, 0)
        network.run(random.randrange(200))
    network.heal()
    network.run(12_000)
    assert [in_flight(network, name) for name in names] == [0] * 8
    for source, to, payload, clock in sent:
        copies = heard(network, to).count(payload)
        failed = [e for e in network.devices[source].undelivered if e.clock == clock]
        assert copies <= 1
        assert copies == 1 or failed, "silence"
        assert not (copies and failed) or failed[0].reason != "expired"
    assert sum(len(heard(network, name)) for name in names) >= 45
    assert sum(counter(network, name, "unicast_resent") for name in names) > 0
    assert not any(device.bad for device in network.devices.values())


def test_a_lost_acknowledgement_makes_a_copy_that_is_acknowledged_and_not_delivered():
    network = acquainted("ab", row("ab"), latency_ms=(3, 3))
    call(network, "a", "b", b"x")
    network.run(5)
    assert heard(network, "b") == [b"x"]
    network.disconnect(("a", "b"))  # the acknowledgement is lost with the session
    network.connect(("a", "b"))
    network.run(2_000)
    assert heard(network, "b") == [b"x"]
    assert counter(network, "b", "unicast_duplicates") == 1
    assert counter(network, "a", "unicast_acked") == 1


def test_a_destination_that_restarts_within_the_deadline_still_gets_it():
    network = acquainted("abc", row("abc"))
    network.kill("c")
    call(network, "a", "c", b"x", deadline_ms=8_000)
    network.run(1_000)
    network.restart("c")
    network.run(500)
    speak(network)
    network.run(3_000)
    assert heard(network, "c") == [b"x"]
    assert reasons(network, "a") == []


@pytest.mark.parametrize("disk_lost", [False, True])
def test_an_origin_that_restarts_counts_anew_and_nothing_is_mistaken_for_a_copy(disk_lost):
    network = acquainted("abc", row("abc"))
    for payload in (b"1", b"2"):
        call(network, "a", "c", payload)
    network.run(200)
    network.kill("a", disk_lost=disk_lost)
    network.run(100)
    network.restart("a")
    call(network, "a", "c", b"3")  # before it has met anyone
    network.run(3_000)
    call(network, "a", "c", b"4")
    network.run(1_000)
    assert heard(network, "c") == [b"1", b"2", b"3", b"4"]


def test_a_window_tells_copies_and_survives_huge_numbers():
    window, seen, random = Window(), set(), Random(3)
    newest = 0
    for _ in range(20_000):
        number = max(1, newest + random.randrange(-WINDOW_NUMBERS + 1, 40))
        newest = max(newest, number)
        if window.reaches(number):
            assert window.has(number) is (number in seen)
            window.add(number)
            seen.add(number)
    window.add(1 << 62)
    assert window.has(1 << 62)
    assert not window.has((1 << 62) - 1)
    assert not window.reaches(newest)
    assert window._bits.bit_length() <= WINDOW_NUMBERS
