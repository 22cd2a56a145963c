"""Devices of the fleet that say what is not theirs to say: what of it counts, and what becomes of all the rest."""

import json

import pytest

from broker.mesh import frame
from broker.mesh.control import Entries, Proofs, encode_control
from broker.strength import Strength
from broker.topics import place
from tests.mesh.dishonest import CONTROL, Dishonest

BOTH = pytest.mark.parametrize("strength", list(Strength))

OWN = "flock/v1/town/obstacle/a/car"
OF_B = "flock/v1/town/obstacle/b/car"
COUNT_OF_B = "flock/v1/town/count/b/cars"
STATUS_OF_B = "flock/v1/town/status/b"


@pytest.fixture
def dishonest(tmp_path):
    return Dishonest(tmp_path)


def publish(it, name, topic, payload, **options):
    """As the contract has it, in a turn that is still open."""
    placed = place(topic, payload, 1, retained=options.pop("retained", False))
    options = {
        "qos": placed.qos,
        "retained": placed.retained,
        "priority": int(placed.priority),
        "rank": placed.rank,
    } | options
    return it.mesh(name).publish(topic, payload, it.network.now_ns, **options)


def status(state, *, by, incarnation=1):
    said = {"state": state, "by": by, "incarnation": incarnation, "refutation": 0}
    return json.dumps(said).encode()


def heard(it, name="b"):
    return [(topic, payload) for _, _, topic, payload, _ in it.network.devices[name].heard]


@BOTH
def test_of_a_bundle_what_is_its_origins_to_say_counts_in_its_order_and_once(tmp_path, strength):
    it = Dishonest(tmp_path, strength)
    said = [(OWN, b"1"), (OF_B, b"2"), ("home/lamp", b"3"), (OF_B, b"4"), (OWN, b"5")]
    for topic, payload in said:
        publish(it, "a", topic, payload, priority=1)
    it.network.turn("a")
    it.network.run(50)
    publish(it, "a", OF_B, b"6", priority=1)
    it.network.turn("a")
    it.network.run(50)
    publish(it, "a", OWN, b"7", priority=1)
    it.network.turn("a")
    it.network.run(20_000)
    for name in "rb":
        assert heard(it, name) == [(OWN, b"1"), ("home/lamp", b"3"), (OWN, b"5"), (OWN, b"7")]
        assert it.counted("messages_refused", name) == 3
        assert it.mesh(name).statistics().refused_messages == {"a": 3}
        assert it.mesh(name).statistics().last_refused_message == f"{OF_B} by a"
        assert not it.network.devices[name].gaps
    assert it.held("r", lane=3).header.position == it.held("b", lane=3).header.position
    assert not it.bad("b"), "the relay only passed it on"


@BOTH
def test_who_says_it_itself_and_signs_it_loses_its_link_and_a_relay_does_not(tmp_path, strength):
    it = Dishonest(tmp_path, strength)
    for number in range(8):
        publish(it, "a", OF_B, b"%d" % number)
        it.network.turn("a")
        it.network.run(20)
    closed = [it.counted("links_closed", name) for name in "rb"]
    assert closed == ([1, 0] if strength is Strength.SIGNED else [0, 0])
    assert not it.bad("b")
    it.network.run(3_000)
    publish(it, "a", OWN, b"own")
    it.network.turn("a")
    it.network.run(3_000)
    assert heard(it) == [(OWN, b"own")]


def test_of_another_a_device_says_only_that_it_is_lost_and_is_blamed_for_more(dishonest):
    """Control lanes are signed under `mac`, too."""
    it = dishonest
    publish(it, "b", STATUS_OF_B, status("up", by="b"))
    it.network.turn("b")
    it.network.run(200)
    for state, by, options in (
        ("up", "b", {}),
        ("up", "a", {}),
        ("lost", "r", {}),
        ("lost", "a", {"rank": 2**60}),
    ):
        publish(it, "a", STATUS_OF_B, status(state, by=by, incarnation=9), **options)
        it.network.turn("a")
        it.network.run(50)
    for name in "rb":
        held = it.network.retained(name)[STATUS_OF_B]
        assert held == status("up", by="b")
        assert it.mesh(name).statistics().refused_messages == {"a": 4}
    assert it.bad("r") == [f"it says {STATUS_OF_B!r}, which is not its to say"] * 4
    publish(it, "r", STATUS_OF_B, status("lost", by="r"))
    it.network.turn("r")
    it.network.run(200)
    assert {it.network.retained(name)[STATUS_OF_B] for name in "rb"} == {status("lost", by="r")}


def test_a_deletion_of_anothers_value_is_refused_as_a_value_is(dishonest):
    it = dishonest
    publish(it, "b", COUNT_OF_B, b"5")
    it.network.turn("b")
    it.network.run(200)
    publish(it, "a", COUNT_OF_B, b"")
    it.network.turn("a")
    it.network.run(20_000)
    assert [it.network.retained(name)[COUNT_OF_B] for name in "rb"] == [b"5", b"5"]
    assert it.mesh("r").retained.hash == it.mesh("b").retained.hash


def test_what_is_refused_does_not_stand_before_what_is_true(dishonest):
    """A false heartbeat from the future would outrun all true ones."""
    it = dishonest
    beat = "flock/v1/town/heartbeat/b"
    it.network.set_wall_clock("a", skew_ms=400, synchronised=True)
    publish(it, "a", beat, b"false")
    it.network.turn("a")
    it.network.run(100)
    publish(it, "b", beat, b"true")
    it.network.turn("b")
    it.network.run(100)
    assert heard(it, "r") == [(beat, b"true")]
    assert it.counted("messages_refused", "r") == 1


def test_unicast_in_anothers_name_is_acknowledged_and_goes_unheard(dishonest):
    it = dishonest
    forged, own = (f"flock/v1/town/call/b/door/{who}/1" for who in "ra")
    it.network.publish("a", forged, b"open", to="b", lifetime_ms=1_000)
    it.network.publish("a", own, b"open", to="b", lifetime_ms=1_000)
    it.network.run(3_000)
    assert heard(it) == [(own, b"open")]
    assert it.counted("messages_refused") == 1
    assert not it.network.devices["a"].undelivered


def test_what_had_to_wait_for_a_hole_is_refused_when_its_turn_comes(dishonest):
    it = dishonest
    publish(it, "a", OWN, b"1")
    it.network.turn("a")
    it.network.run(200)
    own = it.made["a"]
    late, early = (
        it.forge(it.held(lane=3), payload, own, topic=topic, sequence=sequence, lane=3)
        for payload, topic, sequence in ((b"3", OF_B, 3), (b"2", OWN, 2))
    )
    it.say(*late)
    it.say(*early)
    it.network.run(100)
    assert heard(it) == [(OWN, b"1"), (OWN, b"2")]
    assert it.mesh()._state.kept["a", 3].position[1] == 3
    assert it.counted("messages_refused") == 1


# Retained values that neighbours give, and those of the store.


def test_nothing_is_said_of_a_device_that_it_cannot_rise_above(dishonest):
    """It goes on as after a boot, and nothing comes twice."""
    it = dishonest
    publish(it, "b", "t", b"before")
    it.network.turn("b")
    it.network.run(50)
    mesh = it.mesh("b")
    publish(it, "b", "t", b"meanwhile")
    for incarnation in (2**31, 2**31, 5, 2**31 + 1, 2**32):
        mesh.rise_above(incarnation)
        it.network.turn("b")
        assert mesh.incarnation == 2**31 + 1
    publish(it, "b", "t", b"after")
    it.network.turn("b")
    it.network.run(5_000)
    said = [("t", payload) for payload in (b"before", b"meanwhile", b"after")]
    assert heard(it, "a") == said
    assert not it.network.devices["a"].gaps
    it.network.kill("b")
    it.network.restart("b")
    assert it.mesh("b").incarnation == 2**31 + 2


def give(it, control):
    record = encode_control(control)
    it.mesh().receive("r", frame.encode_frame([record]), it.network.now_ns)
    it.network.turn("b")


def test_a_neighbour_gives_no_value_that_was_not_its_origins_to_say(dishonest):
    it = dishonest
    clock = it.mesh("a").clock(it.network.now_ns)
    give(it, Entries([(COUNT_OF_B, b"9", 1, 0, clock, "a"), ("any", b"x", 1, 0, clock, "a")]))
    assert it.network.retained("b") == {"any": b"x"}
    assert it.mesh().statistics().refused_messages == {"a": 1}
    assert not it.bad()


@pytest.mark.parametrize(("state", "counts"), [("up", False), ("lost", True)])
def test_nor_one_with_its_proof(dishonest, state, counts):
    it = dishonest
    publish(it, "a", CONTROL, status("up", by="a"))
    it.network.turn("a")
    it.network.run(200)
    said = status(state, by="a")
    own = it.made["a"]
    rank = place(STATUS_OF_B, said, 1, retained=True).rank
    proof = it.forge(it.held(lane=1), said, own, topic=STATUS_OF_B, retained=True, rank=rank)
    give(it, Proofs([(STATUS_OF_B, *proof)]))
    assert it.network.retained("b").get(STATUS_OF_B) == (said if counts else None)
    assert it.mesh().statistics().refused_messages == ({} if counts else {"a": 1})
    assert not it.bad()


def test_values_from_before_the_fleet_had_identities_do_not_keep_maps_apart(tmp_path):
    it = Dishonest(tmp_path)
    network = it.network
    for name in "arb":
        network.kill(name)
    made, network._seals = network._seals, None
    for name in "arb":
        network.restart(name)
    network.run(2_000)
    network.partition([("a", "r")])  # so that a own bundle is left, that nobody has heard
    network.publish("a", COUNT_OF_B, b"7", qos=1, retained=True)
    network.publish("r", COUNT_OF_B, b"8", qos=1, retained=True)
    network.publish("b", "any", b"x", qos=1, retained=True)
    network.run(2_000)
    assert network.retained("b") == {COUNT_OF_B: b"8", "any": b"x"}
    for name in "arb":
        network.kill(name)
    network._seals = made
    network.cut.clear()
    for name in "arb":
        network.restart(name)
    network.run(10_000)
    for name in "arb":
        assert network.retained(name) == {"any": b"x"}
        assert len({it.mesh(other).retained.hash for other in "arb"}) == 1
        assert not network.devices[name].gaps
    for name in "arb":
        network.kill(name)
        network.restart(name)
        assert not it.counted("messages_refused", name) or name == "a"


# What is remembered of it.


def test_what_is_known_is_bounded_and_a_name_of_its_own(dishonest, monkeypatch):
    monkeypatch.setattr("broker.permissions.KNOWN_TOPICS_MAX", 10)
    monkeypatch.setattr("broker.mesh.refusals.REFUSED_ORIGINS_MAX", 1)
    it = dishonest
    for name in "arb":
        for number in range(25):
            publish(it, name, f"flock/v1/town/obstacle/{name}/{number}", b"x")
            publish(it, name, f"flock/v1/town/obstacle/other/{number}", b"x")
            it.network.turn(name)
    it.network.run(500)
    permissions = it.made["b"]._permissions
    assert sum(map(len, permissions._known.values())) <= 10
    assert len({topic for topic, _ in heard(it) if "/other/" not in topic}) == 75
    refused = it.mesh().statistics().refused_messages
    assert len(refused) == 2
    assert refused["other devices"] == 25
