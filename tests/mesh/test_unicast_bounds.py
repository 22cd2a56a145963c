"""Unicast within its bounds, and among neighbours that lie."""

from random import Random

import pytest

from broker.mesh import frame
from broker.mesh.control import Ack, Unreachable, encode_control
from broker.mesh.events import Deliver, MeshFull, Misbehaved
from broker.mesh.limits import (
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
    WINDOW_NUMBERS,
)
from tests.mesh.unicast import (
    acquainted,
    call,
    damaged,
    events,
    heard,
    in_flight,
    linked,
    lone,
    ring,
    said,
    speak,
    tell,
    unit,
)

# Bounds.


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
    for number in range(2, WINDOW_NUMBERS + 1):
        mesh.publish("t", b"", 0, lifetime_ms=1_000, to="b")
        mesh.seal(0)
        tell(mesh, "b", encode_control(Ack("a", 1, "b", number, expired=False, hops=1)))
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
        encode_control(Ack("", 1, "a", 1, expired=False, hops=1)),
        encode_control(Ack("o", 1, "a" * 33, 1, expired=False, hops=1)),
        encode_control(Ack("o", 1, "a", 2**63, expired=False, hops=1)),
        encode_control(Unreachable("o", 0, "a", 1, retry=False)),
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
        tell(mesh, "b", encode_control(Unreachable("a", 1, "z", 1, retry=True)))
    assert sends == UNICAST_RETRIES_MAX + 1
    assert mesh.statistics().flights == 1


def test_answers_about_what_is_not_under_way_change_nothing():
    mesh = linked("b", "c")
    mesh.publish("t", b"x", 0, lifetime_ms=1_000, to="b")
    mesh.seal(0)
    tell(
        mesh,
        "c",
        encode_control(Ack("a", 2, "b", 1, expired=False, hops=1)),
        encode_control(Ack("a", 1, "b", 2, expired=True, hops=1)),
        encode_control(Ack("o", 1, "b", 2, expired=True, hops=1)),
        encode_control(Ack("b", 1, "a", 2, expired=False, hops=-9)),
        encode_control(Ack("b", 1, "a", 2, expired=False, hops=UNICAST_HOPS_MAX)),
        encode_control(Unreachable("a", 1, "b", 1, retry=False)),
        encode_control(Unreachable("o", 1, "b", 1, retry=False)),
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
                    rows.append(encode_control(Unreachable(*header.flight, retry=retry)))
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
