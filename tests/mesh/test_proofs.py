"""Retained values that are given without their stream, and what proves that their origin said them."""

import pytest

from broker.mesh import frame
from broker.mesh.bundle import Message, encode_body
from broker.mesh.control import Entries, Proofs, encode_control
from broker.mesh.retained import Entry, Proof, RetainedMap
from broker.mesh.tags import sealed
from broker.strength import Strength
from tests.mesh.dishonest import CONTROL, Dishonest

BOTH = pytest.mark.parametrize("strength", list(Strength))


@pytest.fixture
def dishonest(tmp_path):
    return Dishonest(tmp_path)


def newcomer(it):
    """b joins without memory; the origin is off, and the relay has restarted, so that no log reaches."""
    network = it.network
    for name in "ab":
        network.kill(name)
    network.kill("r")
    network.restart("r")
    network.devices["b"].disk = type(network.devices["b"].disk)()
    network.devices["b"].heard.clear()
    network.run(1_000)
    network.boot("b")
    network.connect(("b", "r"))
    network.run(10_000)


@BOTH
def test_what_carries_authority_reaches_a_newcomer_with_its_proof(tmp_path, strength):
    it = Dishonest(tmp_path, strength)
    it.network.publish("a", CONTROL, b"up", qos=1, retained=True, priority=0, rank=7)
    it.network.publish("a", "any", b"thing", qos=1, retained=True)
    it.network.run(1_000)
    newcomer(it)
    assert it.network.retained("b") == {CONTROL: b"up", "any": b"thing"}
    assert it.counted("reconciled") == 2
    assert not it.bad()
    assert not it.counted("retained_unproven")
    newcomer(it)  # and from the disk of the one that was given it
    assert it.network.retained("b") == {CONTROL: b"up", "any": b"thing"}


def test_a_deletion_is_proven_as_a_value_is(dishonest):
    it = dishonest
    it.network.publish("a", CONTROL, b"up", qos=1, retained=True, priority=0)
    it.network.run(500)
    it.network.partition([("r", "b")])
    it.network.publish("a", CONTROL, b"", qos=1, retained=True, priority=0)
    it.network.run(500)
    it.network.kill("a")
    it.network.kill("r")
    it.network.restart("r")
    it.network.heal()
    it.network.run(5_000)
    assert it.network.retained("b") == {}


def give(it, control):
    record = encode_control(control)
    it.mesh().receive("r", frame.encode_frame([record]), it.network.now_ns)
    it.network.turn("b")


def test_a_dishonest_relay_gives_no_value_that_carries_authority(dishonest):
    it = dishonest
    model = "flock/v1/town/model/forecast"
    clock = it.mesh("a").clock(it.network.now_ns)
    give(it, Entries([(model, b"bad", 1, 2**53 - 1, clock, "a"), ("any", b"x", 1, 0, clock, "a")]))
    assert it.network.retained("b") == {"any": b"x"}
    assert it.counted("retained_unproven") == 1
    assert not it.bad(), "whoever was updated may have values from before"


@pytest.mark.parametrize("spoil", ["body", "origin", "lane", "topic", "untagged", "garbage"])
def test_a_proof_that_proves_nothing_is_a_bad_frame(dishonest, spoil):
    it = dishonest
    it.network.publish("a", CONTROL, b"up", qos=1, priority=0)
    it.network.publish("r", CONTROL.replace("/a", "/r"), b"seen", qos=1, priority=0)
    it.network.run(200)
    own, relays = it.made["a"], it.made["r"]
    retained = {"topic": CONTROL, "retained": True}
    head, body = {
        "body": lambda: it.forge(it.held(lane=1), b"down", own, **retained),
        "origin": lambda: it.forge(it.held(lane=1), b"down", relays, **retained),
        "lane": lambda: it.forge(it.held(lane=1), b"down", relays, lane=5, **retained),
        "topic": lambda: it.forge(it.held(lane=1), b"down", own, topic="x", retained=True),
        "untagged": lambda: it.forge(it.held(lane=1), b"down", **retained),
        "garbage": lambda: (b"head", b"body"),
    }[spoil]()
    if spoil == "body":
        body = body[:-1] + b"N"
    give(it, Proofs([(CONTROL, head, body)]))
    assert len(it.bad()) == 1
    assert it.network.retained("b") == {}


def test_a_proof_waits_for_the_certificate_of_its_origin(dishonest):
    it = dishonest
    it.network.publish("a", "t", b"x", qos=1)
    it.network.run(200)
    head, body = it.forge(
        it.held(), b"up", it.made["a"], lane=1, sequence=1, topic=CONTROL, retained=True
    )
    it.made["r"].learn(it.made["a"].certificate(next(iter(it.made["a"].signers))))
    give(it, Proofs([(CONTROL, head, body)]))
    assert it.network.retained("b") == {}
    it.network.run(100)
    assert it.network.retained("b") == {CONTROL: b"up"}


# Where all is signed, every value needs its proof.


@pytest.fixture
def signed(tmp_path):
    return Dishonest(tmp_path, Strength.SIGNED)


def test_where_all_is_signed_no_value_is_believed_without_its_proof(signed):
    it = signed
    clock = it.mesh("a").clock(it.network.now_ns)
    give(it, Entries([("any", b"x", 1, 0, clock, "a")]))
    assert it.network.retained("b") == {}
    assert it.counted("retained_unproven") == 1


def test_under_mac_a_dishonest_relay_makes_up_values_in_the_name_of_those_that_may_say_them(
    dishonest,
):
    """What `mac` does not promise, held here so that nobody believes otherwise."""
    it = dishonest
    clock = it.mesh("a").clock(it.network.now_ns)
    give(it, Entries([("flock/v1/town/count/a/cars", b"9", 1, 0, clock, "a")]))
    assert it.network.retained("b") == {"flock/v1/town/count/a/cars": b"9"}


@pytest.mark.parametrize("by", ["relay", "mac"])
def test_where_all_is_signed_a_relay_makes_up_no_proof(signed, by):
    it = signed
    it.network.publish("a", "t", b"x", qos=1)
    it.network.publish("r", "t", b"y", qos=1)
    it.network.run(200)
    seals = it.made["r"] if by == "relay" else it.seals("r", Strength.MAC)
    give(it, Proofs([("any", *it.forge(it.held(), b"9", seals, topic="any", retained=True))]))
    assert it.network.retained("b") == {}
    assert len(it.bad()) == 1


@BOTH
@pytest.mark.parametrize("qos", [0, 1])
def test_values_published_at_once_are_proven_each_for_itself(tmp_path, strength, qos):
    it = Dishonest(tmp_path, strength)
    values = {f"any/{number:03}": b"%d" % number for number in range(300)}
    for topic, payload in values.items():
        it.mesh("a").publish(topic, payload, it.network.now_ns, qos=qos, retained=True)
        it.mesh("a").publish("t", payload, it.network.now_ns, qos=qos)
    it.network.turn("a")
    it.network.run(10_000)
    assert it.network.retained("b") == values
    assert [row[3] for row in it.network.devices["b"].heard if row[2] == "t"][-1] == b"299"
    newcomer(it)
    assert it.network.retained("b") == values
    assert not it.bad()
    held = it.mesh().retained
    proofs = [held.proof(topic) for topic in values]
    if strength is Strength.MAC:
        assert proofs == [None] * 300
    else:
        assert max(len(proof.head) + len(proof.body) for proof in proofs) < 300


def test_what_is_no_news_costs_no_look_at_its_tag_and_takes_no_proofs_place(signed, monkeypatch):
    it = signed
    it.network.publish("a", "any", b"x", qos=1, retained=True)
    it.network.run(500)
    proof = it.mesh().retained.proof("any")
    checked = []
    monkeypatch.setattr(it.made["b"], "check", lambda *bundle: checked.append(bundle))
    forged = it.forge(it.held(), b"9", it.made["r"], topic="any", retained=True)
    give(it, Proofs([("any", *proof)] * 50 + [("any", *forged)] * 50))
    assert checked == []
    assert it.mesh().retained.proof("any") == proof
    assert it.network.retained("b") == {"any": b"x"}


def test_a_bundle_of_many_messages_is_kept_as_nobodys_proof(signed):
    """It would cost what all in it weighs; devices have bundles of their own for what needs proofs."""
    it = signed
    it.network.publish("a", "any", b"x", qos=1, retained=True)
    it.network.run(500)
    held = it.held()
    message = Message(held.header.clock, 3, 0, 0, "any", b"y")
    body, _ = encode_body([message, Message(message.clock, 3, 0, 0, "other", b"y")])
    header = held.header._replace(
        sequence=2, messages=2, body_bytes=len(body), tag_kind=0, tag=b"", clock=message.clock + 1
    )
    it.say(sealed(header, body, it.made["a"])[1], body)
    assert it.network.retained("b") == {"any": b"x", "other": b"y"}
    assert it.mesh().retained.proof("other") is None


def test_proofs_are_bounded(monkeypatch):
    monkeypatch.setattr("broker.mesh.retained.PROOFS_BYTES_MAX", 100)
    held = RetainedMap()
    for number in range(20):
        held.merge(f"t{number}", Entry(0, 1, "a", b"x", 1))
        assert held.prove(f"t{number}", (0, 1, "a"), Proof(b"0123456789", b"0123456789"))
        assert not held.prove(f"t{number}", (0, 2, "a"), Proof(b"", b""))
    assert [number for number in range(20) if held.proof(f"t{number}")] == [15, 16, 17, 18, 19]
    held.merge("t19", Entry(0, 2, "a", b"y", 1))
    held.drop("t18")
    assert [number for number in range(20) if held.proof(f"t{number}")] == [15, 16, 17]
    assert held._proofs_bytes == 60
