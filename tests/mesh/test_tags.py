"""Integrity tags: what a relay that alters, forges or says again can do, under `mac` and under `signed`."""

import pytest

from broker.identity import Role
from broker.mesh import frame
from broker.mesh.bundle import decode_header
from broker.mesh.control import Vouch, encode_control
from broker.mesh.limits import PARKED_MAX
from broker.seals import FleetSeals
from broker.strength import Strength
from sim.network import WALL_MS, Network
from tests.identity.fleet import Fleet
from tests.mesh.dishonest import CONTROL, Dishonest

BOTH = pytest.mark.parametrize("strength", list(Strength))


@pytest.fixture
def dishonest(tmp_path):
    return Dishonest(tmp_path)


def of_a_stranger(tmp_path, fleet, strength):
    """Seals of a device of the same name, in another fleet."""
    stranger = Fleet(tmp_path / "stranger", fleet, now_ms=WALL_MS)
    stranger.join("a")
    return stranger.trust("a").seals(strength)


@BOTH
def test_what_is_published_arrives_on_every_lane_and_nobody_is_blamed(tmp_path, strength):
    it = Dishonest(tmp_path, strength)
    network = it.network
    network.publish("a", "t", b"fresh")
    network.publish("a", "t", b"kept", qos=1, priority=1)
    network.publish("a", CONTROL, b"control", qos=1, priority=0)
    network.publish("a", "call", b"unicast", to="b", lifetime_ms=1_000)
    network.publish("a", "t", b"expiring", qos=1, lifetime_ms=60_000)
    network.run(500)
    said = [b"fresh", b"kept", b"control", b"unicast", b"expiring"]
    assert sorted(network.payloads("b")) == sorted(said)
    assert not it.bad("b")
    assert not it.bad("r")
    assert not it.counted("tags_refused")


def test_control_is_signed_always_and_the_rest_as_chosen(tmp_path):
    kinds = {}
    for strength in Strength:
        it = Dishonest(tmp_path / strength.value, strength)
        it.network.publish("a", "t", b"x", qos=1)
        it.network.publish("a", CONTROL, b"x", qos=1, priority=0)
        it.network.run(200)
        kinds[strength] = [it.held(lane=lane).header.tag_kind for lane in (5, 1)]
    assert kinds == {Strength.MAC: [1, 2], Strength.SIGNED: [2, 2]}


@BOTH
@pytest.mark.parametrize("lane", [1, 5])
def test_no_byte_of_a_bundle_can_be_altered(tmp_path, strength, lane):
    it = Dishonest(tmp_path, strength)
    it.network.publish("a", CONTROL if lane == 1 else "t", b"first", qos=1, priority=lane // 2)
    it.network.run(200)
    it.network.block("r", "b", blocked=True)
    it.network.publish("a", CONTROL if lane == 1 else "t", b"true", qos=1, priority=lane // 2)
    it.network.run(20)
    stored, seals = it.held(lane=lane), it.made["b"]
    tag_at = len(stored.head) - len(stored.header.tag)
    for at in range(len(stored.head)):
        head = bytearray(stored.head)
        head[at] ^= 1
        try:
            header = decode_header(bytes(head))
        except ValueError:
            continue
        covered = bytes(head[: tag_at - 3])
        assert seals.check(header, covered, stored.body) is not None, at
    body = bytearray(stored.body)
    body[-1] ^= 1
    it.say(stored.head, bytes(body))
    assert "body is not the one" in it.bad()[-1]
    assert it.network.payloads("b") == [b"first"]
    it.network.block("r", "b", blocked=False)
    it.network.run(2_000)
    assert it.network.payloads("b") == [b"first", b"true"], (
        "an altered copy costs a frame, not the message"
    )


def test_a_bare_header_of_a_bundle_that_lives_is_told_from_one_that_was_cut(dishonest):
    it = dishonest
    it.network.publish("a", "t", b"x", qos=1, lifetime_ms=600_000)
    it.network.run(200)
    stored = it.held()
    assert (
        it.made["b"].check(stored.header, stored.head[: -3 - len(stored.header.tag)], b"") is None
    )


@BOTH
@pytest.mark.parametrize("priority", [0, 2])
def test_who_has_no_key_of_the_fleet_forges_nothing(tmp_path, strength, priority):
    it = Dishonest(tmp_path, strength)
    seals = of_a_stranger(tmp_path, "other", strength)
    topic = CONTROL if priority == 0 else "t"
    it.network.publish("a", topic, b"true", qos=1, priority=priority)
    it.network.run(200)
    stored = it.held(lane=priority * 2 + 1)
    it.say(*it.forge(stored, b"untagged", topic=topic))
    it.say(*it.forge(stored, b"foreign", seals, topic=topic))
    it.network.run(5_000)
    assert it.network.payloads("b") == [b"true"]
    assert "no tag" in it.bad()[0]
    assert not [s for s in it.mesh()._state.kept if s[0] not in "arb"]


@BOTH
def test_a_forged_origin_takes_no_room(tmp_path, strength):
    it = Dishonest(tmp_path, strength)
    it.network.publish("a", "t", b"true", qos=1)
    it.network.run(200)
    streams = it.mesh().statistics().streams
    for lane in (4, 5):
        for number in range(3):
            it.say(*it.forge(it.held(), b"x", origin=f"x{number}", lane=lane), peer="r")
    assert it.mesh().statistics().streams == streams
    assert it.counted("tags_refused") == 6


def test_a_dishonest_relay_forges_under_mac_what_control_does_not_need(dishonest):
    """What `mac` does not promise, held here so that nobody believes otherwise."""
    it = dishonest
    it.network.publish("a", "t", b"true", qos=1)
    it.network.run(200)
    it.say(*it.forge(it.held(), b"forged", it.made["r"]))
    assert it.network.payloads("b") == [b"true", b"forged"]


def test_a_dishonest_relay_forges_nothing_where_origins_sign(tmp_path):
    it = Dishonest(tmp_path, Strength.SIGNED)
    it.network.publish("a", "t", b"true", qos=1)
    it.network.publish("r", "t", b"own", qos=1)
    it.network.run(200)
    it.say(*it.forge(it.held(), b"forged", it.made["r"]))
    it.say(*it.forge(it.held(), b"forged", it.seals("r", Strength.MAC)))
    it.network.run(2_000)
    assert sorted(it.network.payloads("b")) == [b"own", b"true"]
    assert "signed by somebody else" in it.bad()[0]
    assert "needs a signature" in it.bad()[1]


@pytest.mark.parametrize("lane", [1, 5])
def test_a_dishonest_relay_forges_no_authority_under_mac(dishonest, lane):
    it = dishonest
    it.network.publish("a", "t", b"true", qos=1)
    it.network.publish("a", CONTROL, b"up", qos=1, priority=0)
    it.network.run(200)
    it.say(*it.forge(it.held(lane=lane), b"down", it.made["r"], topic=CONTROL))
    it.network.run(2_000)
    assert b"down" not in it.network.payloads("b")
    expected = "signed by somebody else" if lane == 1 else "on a lane that needs no signature"
    assert expected in it.bad()[0]


@BOTH
def test_too_many_bad_tags_close_the_link_with_a_reason(tmp_path, strength):
    it = Dishonest(tmp_path, strength)
    it.network.publish("a", "t", b"true", qos=1)
    it.network.run(200)
    for number in range(8):
        it.say(*it.forge(it.held(), b"%d" % number))
    assert it.counted("links_closed") == 1
    it.network.run(3_000)
    it.network.publish("a", "t", b"after", qos=1)
    it.network.run(2_000)
    assert it.network.payloads("b") == [b"true", b"after"]


# Certificates of origins.


def test_the_certificate_of_an_origin_comes_on_demand_and_what_waited_is_delivered(dishonest):
    it = dishonest
    assert "a" not in it.made["b"].signers.names()
    it.network.publish("a", CONTROL, b"up", qos=1, priority=0)
    it.network.run(50)
    assert it.made["b"].signers.names() == ["a", "b"]
    assert it.network.payloads("b") == [b"up"]
    assert it.counted("tags_waiting") == 1
    it.network.publish("a", CONTROL, b"still", qos=1, priority=0)
    it.network.run(50)
    assert it.counted("tags_waiting") == 1


def test_a_relay_vouches_for_nobody_by_a_certificate_that_does_not_hold(dishonest, tmp_path):
    it = dishonest
    seals = of_a_stranger(tmp_path, "town", Strength.SIGNED)
    it.network.publish("a", "t", b"true", qos=1)
    it.network.run(200)
    it.say(*it.forge(it.held(), b"forged", seals, lane=1, sequence=1))
    (number,) = seals.signers
    record = encode_control(Vouch([(number, seals.certificate(number))]))
    it.mesh().receive("r", frame.encode_frame([record]), it.network.now_ns)
    it.network.turn("b")
    assert "does not hold" in it.bad()[-1]
    assert it.network.payloads("b") == [b"true"]


def test_what_nobody_asked_for_is_not_looked_at(dishonest):
    it = dishonest
    record = encode_control(Vouch([(5, b"garbage"), (6, b"")]))
    it.mesh().receive("r", frame.encode_frame([record]), it.network.now_ns)
    assert not it.bad()
    assert it.made["b"].signers.names() == ["b"]


def test_what_waits_for_certificates_is_bounded(dishonest, tmp_path):
    it = dishonest
    seals = of_a_stranger(tmp_path, "other", Strength.SIGNED)
    it.network.publish("a", "t", b"true", qos=1)
    it.network.run(200)
    for number in range(PARKED_MAX + 10):
        it.say(*it.forge(it.held(), b"x", seals, lane=1, sequence=1 + number))
    assert len(it.mesh()._state.vouching) == PARKED_MAX
    assert it.network.payloads("b") == [b"true"]


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
def test_who_is_no_device_signs_nothing(tmp_path, role):
    folder = Fleet(tmp_path).join("v", role)
    with pytest.raises(ValueError, match=role):
        FleetSeals(folder, "town", "v", frozenset, Strength.SIGNED)


# Replay.


@BOTH
def test_a_bundle_that_is_said_again_is_a_copy_also_after_a_reboot(tmp_path, strength):
    it = Dishonest(tmp_path, strength)
    it.network.publish("a", "t", b"once", qos=1)
    it.network.run(200)
    stored = it.held()
    it.say(stored.head, stored.body)
    it.network.kill("b")
    it.network.restart("b")
    it.network.run(2_000)
    it.say(stored.head, stored.body)
    it.network.run(61_000)
    it.say(stored.head, stored.body)
    assert it.network.payloads("b", rebuild=False) == [b"once"]


@BOTH
def test_an_expired_bundle_is_not_made_younger(tmp_path, strength):
    it = Dishonest(tmp_path, strength)
    it.network.partition([("b", "r")])
    it.network.publish("a", "t", b"old", qos=1, lifetime_ms=5_000)
    it.network.run(100)
    stored = it.held()
    body = stored.body
    it.network.run(70_000)
    it.heal_until_hello()
    it.say(stored.head, body, 5_000)
    it.network.run(2_000)
    assert b"old" not in it.network.payloads("b")
    assert it.counted("replayed") == 1
    it.network.publish("a", "t", b"new", qos=1, lifetime_ms=5_000)
    it.network.run(200)
    assert it.network.payloads("b") == [b"new"]


@BOTH
def test_a_dead_device_does_not_come_alive_after_a_reboot(tmp_path, strength):
    it = Dishonest(tmp_path, strength)
    it.network.publish("a", "beat", b"beat", lifetime_ms=3_000)
    it.network.run(200)
    assert it.network.payloads("b") == [b"beat"]
    seals = it.made["a"]
    it.network.publish("a", "t", b"kept", qos=1)
    it.network.run(200)
    clock = it.held().header.clock
    head, body = it.forge(
        it.held(), b"beat again", seals, topic="beat", lane=6, sequence=9, clock=clock
    )
    it.network.kill("a")
    it.network.run(120_000)
    it.network.kill("b")
    it.network.restart("b")
    it.network.run(2_000)
    it.say(head, body)
    assert b"beat again" not in it.network.payloads("b")
    assert it.counted("replayed") == 1


def test_a_fresh_bundle_of_an_earlier_incarnation_is_yesterdays_without_any_clock(dishonest):
    it = dishonest
    network = it.network
    network.publish("a", "t", b"kept", qos=1)
    network.run(200)
    first = it.held()
    head, body = it.forge(first, b"early", it.made["a"], lane=6, sequence=9)
    network.kill("a")
    network.restart("a")
    network.run(1_000)
    network.publish("a", "t", b"later", qos=1)
    network.run(1_000)
    network.set_wall_clock("b", skew_ms=-(10**9), synchronised=False)
    network.kill("b")
    network.restart("b")
    network.run(2_000)
    it.say(head, body)
    assert b"early" not in network.payloads("b")


def test_to_a_device_without_memory_yesterday_is_memory_and_no_news(dishonest):
    it = dishonest
    network = it.network
    network.publish("a", "t", b"yesterday", qos=1)
    network.run(200)
    stored = it.held()
    network.kill("b")
    network.devices["b"].disk = type(network.devices["b"].disk)()
    network.devices["b"].heard.clear()
    network.run(600_000)
    network.boot("b")
    it.heal_until_hello()
    it.say(stored.head, stored.body)
    assert network.payloads("b", rebuild=True) == [b"yesterday"]
    network.run(5_000)
    assert network.payloads("b", rebuild=False) == []
    network.publish("a", "t", b"news", qos=1)
    network.run(1_000)
    assert network.payloads("b", rebuild=False) == [b"news"]


def test_stamps_far_in_the_future_are_signed_by_nobody_for_longer_than_a_certificate(dishonest):
    it = dishonest
    it.network.publish("a", CONTROL, b"up", qos=1, priority=0)
    it.network.run(200)
    stored = it.held(lane=1)
    far = (WALL_MS + 200 * 86_400_000) << 16
    it.say(*it.forge(stored, b"2040", it.made["a"], topic=CONTROL, clock=far))
    it.network.run(3_000)
    assert it.network.payloads("b") == [b"up"]
    assert it.mesh().statistics().refused_tags == {"its certificate had expired": 1}
    assert it.mesh().clock(it.network.now_ns) < far


# Keys that change.


def test_a_fleet_that_takes_to_signing_tags_anew_what_its_devices_have_stored(tmp_path):
    it = Dishonest(tmp_path, Strength.MAC)
    it.network.partition([("a", "r")])
    it.network.publish("a", "t", b"under the key", qos=1)
    it.strength = Strength.SIGNED
    for name in "arb":
        it.network.kill(name)
        it.network.boot(name)
    it.network.connect(("r", "b"))
    it.network.heal()
    it.network.run(5_000)
    assert it.network.payloads("b") == [b"under the key"]
    assert not it.bad("r")
    assert not it.bad("b")


def test_a_device_takes_its_own_bundles_up_again_under_todays_keys(tmp_path):
    fleet = Fleet(tmp_path, now_ms=WALL_MS)
    for name in "ab":
        fleet.join(name)
    tagged = []

    def seals(name):
        return fleet.trust(name).seals(Strength.MAC) if tagged else None

    network = Network("ab", [("a", "b")], seals=seals)
    network.partition([("a", "b")])
    network.publish("a", "t", b"before it had an identity", qos=1)
    network.kill("a")
    network.kill("b")
    tagged.append(True)
    network.boot("a")
    network.boot("b")
    network.heal()
    network.run(5_000)
    assert network.payloads("b") == [b"before it had an identity"]
    assert not network.devices["b"].bad
