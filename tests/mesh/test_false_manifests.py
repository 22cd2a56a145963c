"""A device of the fleet that says manifests which no operator has signed: nobody's retained map takes them."""

import json

import pytest

from agent.models.manifest import encode_manifest
from broker.identity import Role
from broker.model_envelope import write_envelope
from broker.model_key import ModelKey
from broker.topics import COUNTER_MAX, place
from sim.network import WALL_MS
from tests.mesh.dishonest import Dishonest
from tests.models.manifests import manifest

TOPIC = "flock/v1/town/model/forecast"


@pytest.fixture
def dishonest(tmp_path):
    return Dishonest(tmp_path)


def made(**changes):
    fields = {"made_ms": WALL_MS + 1_000, "expires_ms": WALL_MS + 86_400_000} | changes
    return encode_manifest(manifest(**fields))


def publish(it, name, payload, **changes):
    """As a device does whose node asks nobody."""
    placed = place(TOPIC, payload, 1, retained=True)
    options = {"qos": 1, "retained": True, "priority": 0, "rank": placed.rank} | changes
    it.mesh(name).publish(TOPIC, payload, it.network.now_ns, **options)
    it.network.turn(name)
    it.network.run(5_000)


def heard(it, name="b"):
    return [(topic, payload) for _, _, topic, payload, _ in it.network.devices[name].heard]


def stands(it, name="b"):
    entry = it.mesh(name)._state.retained.get(TOPIC)
    return None if entry is None else entry.payload


@pytest.fixture
def key(dishonest):
    return ModelKey(dishonest.fleet.join("desk", Role.OPERATOR), WALL_MS + 1_000)


def test_what_an_operator_has_signed_reaches_all(dishonest, key):
    signed = key.sign(made(counter=3))
    publish(dishonest, "a", signed)
    assert stands(dishonest, "r") == stands(dishonest) == signed


def test_what_nobody_has_signed_displaces_nothing(dishonest, key):
    """However high its counter or its rank; a deletion is signed by nobody, either."""
    it = dishonest
    signed = key.sign(made(counter=3))
    publish(it, "a", signed)
    forged = json.loads(signed)
    forged["manifest"]["counter"] = COUNTER_MAX
    said = [
        (write_envelope(made(counter=COUNTER_MAX)), {}),
        (json.dumps(forged).encode(), {}),
        (signed, {"rank": COUNTER_MAX}),
        (key.sign(made(counter=4, name="other")), {"rank": 4}),
        (b"nonsense", {"rank": COUNTER_MAX}),
        (b"", {}),
    ]
    for number, (payload, changes) in enumerate(said, 1):
        publish(it, "a", payload, **changes)
        assert stands(it, "r") == stands(it) == signed
        assert it.counted("messages_refused", "r") >= number
    newer = key.sign(made(counter=4))
    publish(it, "b", newer)
    assert stands(it, "r") == newer


def test_a_newcomer_believes_the_manifest_and_not_who_gives_it(dishonest, key):
    it = dishonest
    it.network.partition([("b", "r")])
    it.network.run(5_000)
    publish(it, "a", key.sign(made(counter=3)))
    assert stands(it) is None
    it.network.heal()
    it.network.run(30_000)
    assert stands(it) is not None
    assert stands(it) == stands(it, "a")


def test_what_a_revoked_operator_signed_gives_way_to_any_other(dishonest, key):
    """Also at the greatest counter there is, and where a neighbour has not heard of it yet."""
    it = dishonest
    other = ModelKey(it.fleet.join("lab", Role.OPERATOR), WALL_MS + 1_000)
    signed = key.sign(made(counter=COUNTER_MAX))
    publish(it, "a", signed)
    revoked = frozenset({it.made["b"].models.seal(TOPIC, signed).serial})
    for name in "rb":
        it.made[name]._revoked = it.made[name].models._revoked = lambda: revoked
        it.network.run(5_000)
    assert stands(it, "a") == signed
    assert stands(it, "r") is stands(it) is None
    assert (TOPIC, b"") in heard(it)
    publish(it, "b", other.sign(made(counter=4)))
    assert stands(it, "r") == stands(it) != signed
    it.made["a"]._revoked = it.made["a"].models._revoked = lambda: revoked
    it.network.run(30_000)
    assert stands(it, "a") == stands(it)
