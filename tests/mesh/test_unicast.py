"""Unicast on virtual time: ways, relays that die, answers instead of silence, exactly once, and liars."""

from itertools import pairwise
from random import Random

import pytest

from broker.mesh import frame
from broker.mesh.bundle import Header, Message, encode_body, encode_header
from broker.mesh.events import Deliver, MeshFull, Misbehaved, Undelivered
from broker.mesh.frame import Ack, Hello, Unreachable
from broker.mesh.limits import (
    MESSAGE_BYTES_MAX,
    MS,
    ROUTES_MAX,
    UNICAST_ALL_BYTES_MAX,
    UNICAST_BYTES_MAX,
    UNICAST_FLIGHTS_MAX,
    UNICAST_HOPS_MAX,
    UNICAST_LIFETIME_MAX_MS,
    UNICAST_PASSING_MAX,
    UNICAST_RETRIES_MAX,
    UNICAST_SENDERS_MAX,
    UNICAST_WINDOW_NUMBERS,
)
from broker.mesh.mesh import Mesh
from broker.mesh.unicast import Window
from sim.path import Conditions
from tests.mesh.network import Network


def row(names):
    return list(pairwise(names))


def ring(names):
    return [*row(names), (names[-1], names[0])]


def acquainted(names, edges, **options):
    """A network in which everyone has said something, so that ways are known."""
    network = Network(names, edges, **options)
    network.run(2_000)
    speak(network)
    return network


def speak(network, ms=200):
    for name, device in network.devices.items():
        if device.mesh:
            network.publish(name, f"here/{name}", b"", priority=3)
    network.run(ms)


def call(network, source, to, payload, *, deadline_ms=10_000, **options):
    return network.publish(source, "t", payload, qos=1, lifetime_ms=deadline_ms, to=to, **options)


def heard(network, name):
    return [payload for _, _, topic, payload, _ in network.devices[name].heard if topic == "t"]


def counter(network, name, what):
    return network.devices[name].mesh.statistics().counters.get(what, 0)


def reasons(network, name):
    return [event.reason for event in network.devices[name].undelivered]


def in_flight(network, name):
    return network.devices[name].mesh.statistics().flights


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
    network = acquainted("abcd", [("a", "b"), ("b", "d"), ("a", "c"), ("c", "d")])
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
    assert sum(len(heard(network, name)) for name in names) >= 50
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
        number = max(1, newest + random.randrange(-UNICAST_WINDOW_NUMBERS + 1, 40))
        newest = max(newest, number)
        if window.reaches(number):
            assert window.has(number) is (number in seen)
            window.add(number)
            seen.add(number)
    window.add(1 << 62)
    assert window.has(1 << 62)
    assert not window.has((1 << 62) - 1)
    assert not window.reaches(newest)
    assert window._bits.bit_length() <= UNICAST_WINDOW_NUMBERS


# Bounds.


def lone(name="a"):
    return Mesh(name, Random(0), now_ns=0, wall_ms=1_700_000_000_000)


def linked(*peers):
    mesh = lone()
    for peer in peers:
        mesh.link_up(peer, 0)
        hello = Hello(frame.PROTOCOL, peer, 1, 0, 1, heard=True)
        mesh.receive(peer, frame.encode_frame([frame.encode_control(hello)]), 0)
        mesh.frames_to_send(peer, 1 << 20, 0)
    return mesh


def unit(origin, to, number, payload=b"x", *, retained=False, lifetime_ms=1_000, hops=0, flags=2):
    body = encode_body([Message(7, flags | retained, lifetime_ms, 0, "t", payload)])
    header = Header(origin, 5, 1, number, 1, 7, lifetime_ms, len(body), to=to)
    remaining = lifetime_ms or frame.NEVER
    return frame.encode_bundle(encode_header(header), body, remaining, hops, frame.UNICAST)


def damaged(record):
    """The body is no array any more, under a header that is whole."""
    return b"\xc1".join(record.rsplit(b"\x91", 1))


def tell(mesh, peer, *told, now_ns=0):
    mesh.receive(peer, frame.encode_frame(list(told)), now_ns)


def said(mesh, peer, now_ns=0):
    return [
        frame.decode_control(kind, body)
        for data in mesh.frames_to_send(peer, 1 << 22, now_ns)
        for kind, body in frame.decode_frame(data)
        if kind in (frame.ACK, frame.UNREACHABLE)
    ]


def events(mesh, kind):
    found = []
    while (event := mesh.next_event()) is not None:
        if isinstance(event, kind):
            found.append(event)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"lifetime_ms": 0, "to": "b"},
        {"lifetime_ms": UNICAST_LIFETIME_MAX_MS + 1, "to": "b"},
        {"lifetime_ms": 1, "to": "b", "retained": True},
        {"lifetime_ms": 1, "to": "b" * 33},
    ],
)
def test_a_publish_outside_the_limits_is_the_callers_mistake(options):
    with pytest.raises(ValueError, match=r"unicast|device"):
        lone().publish("t", b"", 0, **options)


def test_too_much_under_way_to_one_device_is_refused_and_others_are_not():
    mesh = linked("b")
    for _ in range(UNICAST_FLIGHTS_MAX):
        mesh.publish("t", b"", 0, lifetime_ms=1_000, to="c")
        mesh.seal(0)
    with pytest.raises(MeshFull, match="under way to c"):
        mesh.publish("t", b"", 0, lifetime_ms=1_000, to="c")
    mesh.publish("t", b"", 0, lifetime_ms=1_000, to="d")
    mesh.seal(0)
    assert mesh.statistics().flights == UNICAST_FLIGHTS_MAX + 1
    mesh.handle_timer(1_000 * MS)
    assert mesh.statistics().flights == 0
    assert mesh._state.flights.size_bytes == 0
    mesh.publish("t", b"", 1_000 * MS, lifetime_ms=1_000, to="c")


def test_too_many_bytes_are_refused_and_leave_nothing_behind():
    mesh = linked("b")

    def fill(destinations):
        taken = 0
        try:
            for to in destinations:
                mesh.publish("t", bytes(100_000), 0, lifetime_ms=1_000, to=to)
                taken += 100_000
        except MeshFull:
            pass
        return taken

    assert UNICAST_BYTES_MAX * 0.8 < fill(["c"] * 100) <= UNICAST_BYTES_MAX
    before = fill(f"d{number}" for number in range(1_000))
    assert before < UNICAST_ALL_BYTES_MAX
    assert len(mesh._state.flights._destinations) == before // 100_000 + 1


def test_numbers_under_way_never_lie_farther_apart_than_a_window():
    mesh = linked("b")
    mesh.publish("t", b"first", 0, lifetime_ms=100_000, to="b")
    mesh.seal(0)
    for number in range(2, UNICAST_WINDOW_NUMBERS + 1):
        mesh.publish("t", b"", 0, lifetime_ms=1_000, to="b")
        mesh.seal(0)
        tell(mesh, "b", frame.encode_control(Ack("a", 1, "b", number, expired=False, hops=1)))
    assert mesh.statistics().flights == 1
    with pytest.raises(MeshFull, match="under way to b"):
        mesh.publish("t", b"", 0, lifetime_ms=1_000, to="b")


def test_numbers_of_a_forgotten_destination_are_not_given_again(monkeypatch):
    monkeypatch.setattr("broker.mesh.flights.UNICAST_DESTINATIONS_MAX", 2)
    mesh = linked("b")
    numbers = {}
    for turn in range(30):
        to = "cdef"[turn % 4]
        mesh.publish("t", b"", turn, lifetime_ms=1_000, to=to)
        (flight,) = mesh._state.flights._opened
        assert flight.number not in numbers.setdefault(to, set())
        numbers[to].add(flight.number)
        mesh.seal(turn)
        mesh._state.flights.end(flight)
        assert len(mesh._state.flights._destinations) <= 2


def test_queued_unicast_is_not_queued_twice_however_often_it_is_resent():
    mesh = linked("b")
    mesh.publish("t", bytes(1_000), 0, lifetime_ms=60_000, to="b")
    mesh.seal(0)
    for second in range(1, 30):
        mesh.handle_timer(second * 1_000 * MS)
    assert len(mesh._state.peers["b"].outbox) == 1


# Liars.


def test_tables_of_relays_and_destinations_stay_within_their_limits(monkeypatch):
    mesh = linked("b", "c")
    for number in range(UNICAST_SENDERS_MAX + 50):
        tell(mesh, "b", unit(f"o{number}", "a", 1))
    assert len(mesh._state.windows) == UNICAST_SENDERS_MAX
    for number in range(1, UNICAST_PASSING_MAX + 50):
        tell(mesh, "b", unit("o", "c", number))
    assert len(mesh._state.passing) == UNICAST_PASSING_MAX
    monkeypatch.setattr("broker.mesh.routes.ROUTES_MAX", len(mesh._state.routes))
    tell(mesh, "b", unit("another", "a", 1))
    assert len(mesh._state.routes) <= ROUTES_MAX
    assert mesh._state.routes.ways("another") == ["b"]


def test_a_forged_jump_of_numbers_hides_no_loss():
    mesh = linked("b")
    tell(mesh, "b", unit("o", "a", 2**63 - 1), unit("o", "a", 1))
    assert [ack.number for ack in said(mesh, "b")] == [2**63 - 1]
    assert mesh.statistics().counters["unicast_stale"] == 1


@pytest.mark.parametrize(
    "record",
    [
        unit("o", "a", 1, retained=True),
        unit("o", "a", 1, lifetime_ms=0),
        unit("o", "a", 1, lifetime_ms=UNICAST_LIFETIME_MAX_MS + 1),
        unit("o", "a", 1, flags=0),
        damaged(unit("o", "a", 1)),
        frame.record(frame.BUNDLE, unit("o", "a", 1)[5:]),
        frame.encode_control(Ack("", 1, "a", 1, expired=False, hops=1)),
        frame.encode_control(Ack("o", 1, "a" * 33, 1, expired=False, hops=1)),
        frame.encode_control(Ack("o", 1, "a", 2**63, expired=False, hops=1)),
        frame.encode_control(Unreachable("o", 0, "a", 1, retry=False)),
        frame.record(frame.UNICAST, b""),
        frame.record(frame.UNREACHABLE, b"\x91\x01"),
    ],
    ids=range(12),
)
def test_what_is_not_unicast_is_told_and_dropped(record):
    mesh = linked("b")
    tell(mesh, "b", record)
    assert len(events(mesh, Misbehaved)) == 1
    assert said(mesh, "b") == []
    assert not mesh._state.windows or not any(w.has(1) for w in mesh._state.windows.values())


def test_a_damaged_body_is_not_acknowledged_and_the_next_copy_is_welcome():
    mesh = linked("b")
    tell(mesh, "b", damaged(unit("o", "a", 1)))
    assert len(events(mesh, Misbehaved)) == 1
    assert said(mesh, "b") == []
    tell(mesh, "b", unit("o", "a", 1))
    assert len(events(mesh, Deliver)) == 1
    assert [answer.expired for answer in said(mesh, "b")] == [False]


def test_a_neighbour_that_names_this_device_as_origin_gets_it_back():
    mesh = linked("b", "c")
    for number in range(100):
        tell(mesh, "b", unit("a", "c", number + 1), unit("a", "a", number + 1))
    assert mesh.statistics().counters["unicast_looped"] == 200
    assert events(mesh, Deliver) == []
    assert said(mesh, "c") == []
    assert {answer.retry for answer in said(mesh, "b")} == {False}


def test_a_neighbour_that_promises_ways_without_end_is_believed_a_few_times():
    mesh = linked("b")
    mesh.publish("t", b"x", 0, lifetime_ms=100_000, to="z")
    mesh.seal(0)
    sends = 0
    for _ in range(100):
        sends += len(mesh.frames_to_send("b", 1 << 20, 0))
        tell(mesh, "b", frame.encode_control(Unreachable("a", 1, "z", 1, retry=True)))
    assert sends == UNICAST_RETRIES_MAX + 1
    assert mesh.statistics().flights == 1


def test_answers_about_what_is_not_under_way_change_nothing():
    mesh = linked("b", "c")
    mesh.publish("t", b"x", 0, lifetime_ms=1_000, to="b")
    mesh.seal(0)
    tell(
        mesh,
        "c",
        frame.encode_control(Ack("a", 2, "b", 1, expired=False, hops=1)),
        frame.encode_control(Ack("a", 1, "b", 2, expired=True, hops=1)),
        frame.encode_control(Ack("o", 1, "b", 2, expired=True, hops=1)),
        frame.encode_control(Ack("b", 1, "a", 2, expired=False, hops=-9)),
        frame.encode_control(Ack("b", 1, "a", 2, expired=False, hops=UNICAST_HOPS_MAX)),
        frame.encode_control(Unreachable("a", 1, "b", 1, retry=False)),
        frame.encode_control(Unreachable("o", 1, "b", 1, retry=False)),
    )
    assert mesh.statistics().flights == 1
    assert said(mesh, "c") == []
    assert len(said(mesh, "b")) == 0


class Meddler:
    """A relay that loses, repeats and brings up again unicast and answers, and says UNREACHABLE for no reason."""

    def __init__(self, mesh, random):
        self._take = mesh.frames_to_send
        self._random = random
        self._seen = []
        mesh.frames_to_send = self.frames_to_send

    def frames_to_send(self, peer, budget_bytes, now_ns):
        meddled = []
        for data in self._take(peer, budget_bytes, now_ns):
            rows = []
            for kind, body in frame.decode_frame(data):
                copies = 1
                if kind in (frame.UNICAST, frame.UNREACHABLE):
                    self._seen.append((kind, body))
                    copies = self._random.choice([0, 0, 1, 1, 2, 3])
                rows += [frame.record(kind, body)] * copies
            if self._seen:
                kind, body = self._random.choice(self._seen)
                rows.append(frame.record(kind, body))
                if kind == frame.UNICAST:
                    header = frame.decode_bundle(body, frame.UNICAST)[0]
                    retry = self._random.random() < 0.5
                    rows.append(frame.encode_control(Unreachable(*header.flight, retry=retry)))
            meddled.append(frame.encode_frame(rows))
        return meddled


@pytest.mark.parametrize("seed", range(6))
def test_a_relay_that_meddles_delays_but_nothing_comes_twice_or_ends_in_silence(seed):
    random = Random(seed)
    names = "abcdefgh"
    network = acquainted(names, ring(names), seed=seed)
    Meddler(network.devices["c"].mesh, random)
    Meddler(network.devices["f"].mesh, random)
    sent = {}
    for number in range(40):
        source, to = random.sample("abdegh", 2)
        payload = b"%d" % number
        sent[call(network, source, to, payload, deadline_ms=6_000)] = source, to, payload
        if number % 10 == 0:
            speak(network, 0)
        network.run(random.randrange(200))
    for _ in range(8):
        speak(network, 1_000)
    delivered = 0
    for clock, (source, to, payload) in sent.items():
        copies = heard(network, to).count(payload)
        assert copies <= 1
        assert copies or [e for e in network.devices[source].undelivered if e.clock == clock]
        delivered += copies
    assert delivered >= 36
    assert [in_flight(network, name) for name in names] == [0] * 8
    for device in network.devices.values():
        assert len(device.mesh._state.passing) < 200
