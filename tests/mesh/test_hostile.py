"""Neighbours that lie, ask and flap without end: no exception, no growth, no turn that brings nothing, no data lost."""

import sys
from random import Random

import pytest

from broker.mesh import control, frame, limits
from broker.mesh.bundle import Header, Message, encode_body, encode_header
from broker.mesh.control import (
    Ack,
    Digest,
    Entries,
    Have,
    Hello,
    Ping,
    Shape,
    Unreachable,
    Want,
    decode_control,
)
from broker.mesh.events import Restored
from broker.mesh.limits import (
    CLOCK_FOLLOWED_MAX,
    CLOCK_MAX,
    INCARNATION_KNOWN_MAX,
    WORK_MAX,
    WORK_QUESTION,
)
from broker.mesh.reception import Reception
from broker.strength import Strength
from tests.identity.fleet import Fleet
from tests.mesh.hostile import Driver, Hostile, containers

SMALL = {
    "STREAMS_MAX": 40,
    "LOG_BUNDLES_MAX": 40,
    "WAITING_BUNDLES_MAX": 8,
    "FRESH_TOPICS_MAX": 40,
    "RETAINED_TOPICS_MAX": 20,
    "RECONCILE_DUE_MAX": 40,
    "OUTBOX_BUNDLES_MAX": 40,
    "CONTROL_RECORDS_MAX": 40,
    "ROUTES_MAX": 40,
    "UNICAST_PASSING_MAX": 40,
    "UNICAST_SENDERS_MAX": 40,
    "UNICAST_DESTINATIONS_MAX": 40,
}
"""Limits small enough to be met within a short story."""


@pytest.fixture
def small(monkeypatch):
    modules = [m for n, m in sorted(sys.modules.items()) if n.startswith("broker.mesh")]
    for name, value in SMALL.items():
        assert hasattr(limits, name)
        for module in modules:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)


def introduce(driver, *peers, budget=1 << 20):
    for peer in peers:
        driver.link_up(peer, budget)
        driver.say(peer, Hello(1, peer, 1, 0, 1, True))
    driver.settle()


@pytest.mark.parametrize("seed", range(40))
def test_no_story_of_a_hostile_neighbour_makes_a_mesh_raise_or_spin(seed):
    random = Random(seed)
    driver = Driver(random)
    names = ["a", "g", "h", "i"]
    hostile = Hostile(random, names)
    for _ in range(150):
        peer = random.choice("ghi")
        drawn = random.random()
        if peer not in driver.budgets or drawn < 0.02:
            driver.link_up(peer, random.choice((0, 0, 1, 3_000, 1 << 20)))
            if random.random() < 0.8:
                driver.say(peer, Hello(1, peer, 1, 0, 1, random.random() < 0.5))
        elif drawn < 0.04:
            driver.link_down(peer)
        elif drawn < 0.1:
            driver.budgets[peer] = random.choice((0, 1, 3_000, 1 << 20))
        elif drawn < 0.2:
            options = {"to": "x", "lifetime_ms": 900} if random.random() < 0.3 else {}
            qos = 1 if options else random.randrange(2)
            driver.mesh.publish(
                "t", bytes(random.randrange(3_000)), driver.now_ns, qos=qos, **options
            )
        elif drawn < 0.4:
            driver.wait(random.choice((1, 40, 100, 600, 3_000)))
        else:
            driver.receive(peer, hostile.frame())
        driver.settle()
    driver.wait(30_000)


@pytest.mark.parametrize("budget", [0, 1, 1 << 20])
@pytest.mark.parametrize("only", [None, Header, *control._KINDS], ids=lambda of: of and of.__name__)
def test_nothing_grows_while_a_hostile_neighbour_talks(small, budget, only):
    random = Random(budget)
    driver = Driver(random)
    hostile = Hostile(random, ["a", "g", "h"], only=only)
    introduce(driver, "g")
    introduce(driver, "h", budget=budget)
    for step in range(400):
        if "h" not in driver.budgets:
            introduce(driver, "h", budget=budget)
        driver.say("g", frame.record(frame.PONG, bytes(8)))
        for _ in range(4):
            driver.receive("h", hostile.frame())
        driver.wait(random.choice((0, 1, 20, 200)))
        if step % 100 == 99:
            driver.take_events()
            assert {path: size for path, size in containers(driver.mesh) if size > 120} == {}


@pytest.mark.parametrize("strength", list(Strength))
@pytest.mark.parametrize("only", [None, Header])
def test_nothing_grows_while_a_device_of_the_fleet_tags_whatever_it_makes_up(
    small, monkeypatch, tmp_path, strength, only
):
    monkeypatch.setattr("broker.permissions.KNOWN_TOPICS_MAX", 20)
    monkeypatch.setattr("broker.mesh.vouching.PARKED_MAX", 20)
    monkeypatch.setattr("broker.mesh.vouching.WHO_ASKED_MAX", 20)
    fleet, stranger = Fleet(tmp_path), Fleet(tmp_path / "stranger", "other")
    seals = {name: fleet.trust(name).seals(strength) for name in "ah"}
    random = Random(7)
    driver = Driver(random, seals=seals["a"])
    by = [seals["h"], stranger.trust("h").seals(strength)]
    hostile = Hostile(random, ["a", "g", "h"], only=only, seals=by)
    for _ in range(400):
        if "h" not in driver.budgets:
            introduce(driver, "h")
        for _ in range(4):
            driver.receive("h", hostile.frame())
        driver.wait(random.choice((0, 1, 20, 200)))
    driver.take_events()
    state = driver.mesh._state
    if only is Header:
        assert state.counters["tags_refused"] > 100
        if strength is Strength.SIGNED:
            assert {origin for origin, _ in (*state.fresh, *state.kept)} <= {"h"}
    assert {path: size for path, size in containers(state.vouching) if size > 20} == {}
    assert {path: size for path, size in containers(driver.mesh) if size > 120} == {}


NESTED = b"\x91" * 50_000 + b"\x01"


@pytest.mark.parametrize("kind", [1, 2, 6, 7, 8, 9, 10, 12, 13, 16, 17, 18])
def test_deep_nesting_is_a_bad_frame(kind):
    driver = Driver(Random(1))
    introduce(driver, "h")
    for body in (NESTED, hidden(kind)):
        driver.say("h", frame.record(kind, body))
    driver.settle()
    assert driver.reasons()


def hidden(kind):
    """A sound record of a kind with one more field than it has: an array within an array, and so on."""
    controls = {control._KINDS[type(c)]: c for c in Hostile(Random(1), "a", only=Header).controls()}
    if kind not in controls:
        return NESTED
    body = control._encoder.encode(controls[kind])
    return bytes((body[0] + 1,)) + body[1:] + NESTED


def bundle(origin, sequence, topic="t", incarnation=1, nested=b"", **options):
    body, _ = encode_body([Message(5 << 16, 2, 0, 0, topic, b"%d" % sequence)])
    if nested:
        body = bytes((body[0], body[1] + 1)) + body[2:] + nested
    header = Header(origin, 5, incarnation, sequence, 1, 5 << 16, 0, len(body), **options)
    return frame.encode_bundle(encode_header(header), body, frame.NEVER, 0)


def test_deep_nesting_in_a_body_is_a_bad_frame():
    driver = Driver(Random(1))
    introduce(driver, "h")
    driver.say("h", bundle("o", 1, nested=NESTED))
    driver.settle()
    assert "recursion" in driver.reasons()[0]
    assert not driver.heard()


@pytest.mark.parametrize("topic", ["local/x", "local", "mesh/v1/a/b", "$SYS/x"])
def test_what_never_leaves_a_device_is_not_taken_from_another(topic):
    driver = Driver(Random(1))
    introduce(driver, "h")
    driver.say("h", bundle("o", 1, topic=topic))
    driver.say("h", Entries([(topic, b"x", 1, 0, 5 << 16, "o")]))
    driver.settle()
    assert len(driver.reasons()) == 2
    assert not driver.heard()
    with pytest.raises(ValueError, match="never leaves its device"):
        driver.mesh.publish(topic, b"x", driver.now_ns)


@pytest.mark.parametrize("name", ["", "Ab", "o\n", "o\0", "é", "\x1b[2J", "o" * 33])
def test_no_device_is_called_so(name):
    driver = Driver(Random(1))
    introduce(driver, "h")
    rows = [
        Digest(True, True, False, 0, 0, 0, [(name, 5, 1, 1, 0, 0)]),
        Have([(name, 5, 1, 1, 1)]),
        Entries([("t", b"x", 1, 0, 5, name)]),
        Ack(name, 1, "a", 1, False, 1),
        Unreachable("a", 1, name, 1, False),
        bundle(name, 1),
    ]
    for row in rows:
        driver.say("h", row)
    driver.link_up("i")
    driver.say("i", Hello(1, name, 1, 0, 1, True))
    driver.settle()
    assert len(driver.reasons()) == len(rows) + 1
    assert all(reason.isprintable() and len(reason) < 200 for reason in driver.reasons())


def test_whoever_calls_itself_otherwise_is_dropped_once_and_heard_no_more():
    driver = Driver(Random(1))
    driver.link_up("h")
    driver.say("h", *[Hello(1, "x" * 4_000, 1, 0, 1, True)] * 10, bundle("o", 1))
    driver.say("h", Hello(1, "h", 1, 0, 1, True))
    driver.settle()
    (reason,) = driver.reasons()
    assert len(reason) < 200
    assert driver.mesh.statistics().counters["links_closed"] == 1
    assert not driver.heard()


def test_the_rest_of_a_frame_is_not_looked_at_once_its_link_is_closed(monkeypatch):
    """It may hold hundreds of bundles with a signature each."""
    driver, looked_at, record = Driver(Random(1)), [], Reception._record
    monkeypatch.setattr(
        Reception, "_record", lambda *given: (looked_at.append(given), record(*given))
    )
    driver.link_up("h")
    driver.say("h", Hello(1, "x", 1, 0, 1, True), *[Ping(1, 0, 0)] * 50)
    assert len(looked_at) == 1
    assert driver.mesh.statistics().counters["links_closed"] == 1


QUESTIONS = {
    "pings": Ping(1, 0, 0),
    "hellos": Hello(1, "h", 1, 0, 1, False),
    "requests": Want([("a", 5, 0, 0, 9, 9)] * 300),
    "requests for whole digests": frame.record(frame.RESYNC, b""),
    "digests": Digest(True, True, False, 0, 0, 0, []),
    "grafts and prunes": Shape(["g"] * 500, []),
}


@pytest.mark.parametrize("what", QUESTIONS)
def test_whoever_asks_without_end_is_told_and_dropped(what):
    driver = Driver(Random(1))
    introduce(driver, "h", "g")
    for number in range(1_000):
        driver.mesh.publish("t", b"%d" % number, driver.now_ns, qos=1)
        driver.settle()
        driver.say("g", bundle(f"o{number}", 1))
    said = 0
    while "h" in driver.budgets and said < WORK_MAX // WORK_QUESTION + 20:
        said += 1
        driver.say("h", *[QUESTIONS[what]] * (1 if what == "requests" else 30))
        driver.turn()
    assert "h" not in driver.budgets
    assert f"too many bad frames, the last: {what} without end" in driver.reasons()
    assert len(driver.heard()) == 2_000


def test_every_hole_of_a_request_is_served():
    driver = Driver(Random(1))
    introduce(driver, "h")
    for number in range(9):
        driver.mesh.publish("t", b"%d" % number, driver.now_ns, qos=1)
        driver.settle()
    driver.say("h", Want([("a", 5, 1, 1, 1, 2), ("a", 5, 1, 4, 1, 6), ("b", 5, 0, 0, 9, 9)]))
    assert [position[1] for _, position in driver.mesh._state.peers["h"].serving] == [2, 5, 6]


def test_a_lying_digest_does_not_part_two_honest_devices():
    driver = Driver(Random(1))
    introduce(driver, "h")
    high = 2 * INCARNATION_KNOWN_MAX
    driver.say("h", Digest(True, True, False, 0, 0, 0, [("g", 5, high, 1, 0, 0)]))
    driver.say("h", bundle("g", 1, incarnation=high - 1))
    driver.link_up("g")
    (data,) = driver.mesh.frames_to_send("g", 1 << 20, driver.now_ns)
    hello = decode_control(*frame.decode_frame(data)[0])
    assert hello.known == INCARNATION_KNOWN_MAX


def test_what_a_neighbours_digest_says_of_a_device_is_remembered_within_bounds(small):
    driver = Driver(Random(1))
    introduce(driver, "h")
    for number in range(200):
        rows = [(f"y{number}", 5, 7, 1, 0, 0)]
        driver.say("h", Digest(True, True, False, 0, 0, 0, rows))
    assert driver.mesh._state.known_incarnation("y199") == 7
    assert len(driver.mesh._state.incarnations) == 40


def test_a_clock_at_the_end_of_time_mutes_nobody():
    driver = Driver(Random(1))
    driver.link_up("h")
    driver.say("h", Hello(1, "h", 1, 0, CLOCK_FOLLOWED_MAX - 1, True))
    driver.settle()
    for _ in range(9):
        clock = driver.mesh.publish("t", b"x", driver.now_ns, qos=1)
        driver.settle()
    assert CLOCK_FOLLOWED_MAX < clock < CLOCK_MAX
    honest = Driver(Random(2))
    introduce(honest, "h")
    honest.say("h", Hello(1, "h", 1, 0, clock, True))
    assert honest.mesh.clock(honest.now_ns) < CLOCK_FOLLOWED_MAX
    driver.mesh.set_wall_clock(1 << 70, driver.now_ns, synchronised=True)
    assert driver.mesh.publish("t", b"x", driver.now_ns) < CLOCK_MAX


def test_a_neighbour_that_cannot_be_written_to_makes_nobody_spin():
    driver = Driver(Random(1))
    introduce(driver, "g", "h")
    del driver.budgets["h"]  # a silenced radio: the driver does not even ask for frames
    driver.say("h", Shape([], ["g"]))
    for number in range(1, 30):
        driver.say("g", bundle("g", number))
        driver.wait(50)
    driver.wait(10_000)
    assert driver.mesh._state.peers["h"].closing


def test_a_loss_of_a_stream_for_which_there_is_no_room_makes_nobody_spin(small):
    driver = Driver(Random(1))
    introduce(driver, "h")
    for number in range(SMALL["STREAMS_MAX"]):
        driver.say("h", bundle(f"o{number}", 1))
    driver.say("h", Digest(True, True, False, 0, 0, 0, [("ghost", 5, 1, 9, 1, 5)]))
    for _ in range(60):
        driver.say("h", frame.record(frame.PONG, b""))
        driver.wait(500)
    assert not driver.mesh._state.repair._holes


def test_a_thousand_flaps_leave_nothing_behind_and_lose_nothing():
    driver = Driver(Random(1))
    introduce(driver, "g")
    driver.mesh.publish("t", b"call", driver.now_ns, qos=1, to="h", lifetime_ms=600_000)
    for number in range(1, 1_001):
        driver.link_up("h", number % 3 * 1_000)
        if number % 5:
            driver.say("h", Hello(1, "h", 1, 0, 1, bool(number % 2)))
            driver.say("h", Have([(f"z{number}", lane, 1, 1, 1) for lane in (2, 5)]))
        driver.say("g", bundle("g", number))
        driver.settle()
        driver.link_down("h")
    assert max(size for _, size in containers(driver.mesh)) < 5_000
    assert driver.heard() == [b"%d" % number for number in range(1, 1_001)]


def test_memory_that_never_was_is_taken_up_to_the_size_of_a_log(small):
    restored = Restored(2, passed={("o", 5): (1, 10_000)}, first_boot=False)
    driver = Driver(Random(1), restored)
    introduce(driver, "h")
    for number in range(1, 200):
        driver.say("h", bundle("o", number))
    assert len(driver.mesh._state.kept["o", 5]._rebuilt) == SMALL["LOG_BUNDLES_MAX"]
    driver.say("h", bundle("o", 10_001))
    driver.settle()
    assert driver.heard()[-1] == b"10001"


def test_what_waits_to_be_said_to_one_that_does_not_read_is_bounded_in_bytes(monkeypatch):
    monkeypatch.setattr("broker.mesh.outgoing.CONTROL_BYTES_MAX", 10_000)
    driver = Driver(Random(1))
    introduce(driver, "h", budget=0)
    peer = driver.mesh._state.peers["h"]
    for _ in range(100):
        peer.say_record(frame.record(frame.PONG, bytes(995)))
    assert sum(map(len, peer.outgoing.control)) <= 10_000
    driver.budgets["h"] = 1 << 20
    driver.settle()
    assert driver.sent["h"] and not peer.outgoing.control
    peer.say_record(frame.record(frame.PONG, bytes(9_000)))
    assert peer.outgoing.control
