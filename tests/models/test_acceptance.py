"""What a device takes up: counters, keys, expiry, revocations; across restarts; and a thousand damaged manifests."""

import random
from types import SimpleNamespace

import pytest

from agent.infer.kinds import Kind
from agent.models.acceptance import Acceptance, ManifestRefused
from agent.models.content import content_of
from agent.models.manifest import Variant, encode_manifest
from agent.models.memory import OPERATORS_MAX, Floor, KeySeen, ManifestMemory
from broker.identity import DAY_MS, Moment, Role
from broker.model_envelope import ENVELOPE_BYTES_MAX, write_envelope
from broker.model_key import ModelKey
from broker.model_trust import ModelTrust
from tests.identity.fleet import T_MS, Fleet
from tests.models.manifests import manifest

TOPIC = "flock/v1/town/model/forecast"
DAMAGED = 1_000


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    made = Fleet(tmp_path_factory.mktemp("fleet"))
    for name in ("desk", "lab"):
        made.join(name, Role.OPERATOR)
    return made


@pytest.fixture
def device(fleet, tmp_path):
    """A device that can be restarted, told the time, and told of revocations."""
    it = SimpleNamespace(now_ms=T_MS, revoked=set())
    authority = (fleet.directory / "ca" / "ca.pem").read_bytes()
    trust = ModelTrust("town", authority, lambda: it.revoked)

    def boot(*, trust=trust, unsigned=False):
        memory = ManifestMemory(tmp_path / "manifests.json", trust.is_revoked if trust else bool)
        it.acceptance = Acceptance(
            TOPIC,
            trust,
            memory,
            lambda: Moment(it.now_ms, synchronised=True),
            (Kind.EDGETPU, Kind.TFLITE),
            unsigned=unsigned,
        )

    def refusal(payload):
        with pytest.raises(ManifestRefused) as refused:
            it.acceptance.judge(payload)
        return refused.value.reason

    it.boot, it.refusal, it.path = boot, refusal, tmp_path / "manifests.json"
    it.take = lambda payload: it.acceptance.judge(payload)  # noqa: PLW0108 - another one after `boot`
    boot()
    return it


@pytest.fixture
def key(fleet):
    return operator(fleet, "desk")


def operator(fleet, name):
    """With a new model key."""
    (fleet.directory / name / "model.key").unlink(missing_ok=True)
    return ModelKey(fleet.directory / name, T_MS)


def signed(key, **changes):
    return key.sign(encode_manifest(manifest(**{"made_ms": T_MS} | changes)))


def serial_of(device, payload):
    return device.acceptance._trust.seal(TOPIC, payload).serial


def test_counters_rise_and_survive_a_restart(device, key):
    assert device.take(signed(key, counter=5)).manifest.counter == 5
    assert device.take(signed(key, counter=5)).manifest.counter == 5
    assert device.refusal(signed(key, counter=4)) == "lower counter"
    device.boot()
    assert device.refusal(signed(key, counter=4)) == "lower counter"
    assert device.refusal(signed(key, counter=5, version="other")) == "counter used twice"
    assert device.take(signed(key, counter=6)).manifest.counter == 6


def test_what_has_expired_is_taken_only_by_who_has_it_already(device, key):
    payload = signed(key, counter=5)
    device.take(payload)
    device.now_ms = T_MS + 31 * DAY_MS
    device.boot()
    assert device.take(payload).manifest.counter == 5
    assert device.refusal(signed(key, counter=6)) == "expired"
    assert device.take(signed(key, counter=7, expires_ms=T_MS + 40 * DAY_MS)).manifest.counter == 7


def test_a_key_that_was_succeeded_counts_no_more(device, key, fleet):
    old = ModelKey(fleet.directory / "desk", T_MS)
    device.take(signed(old, counter=1))
    key.rotate(T_MS)
    device.take(signed(key, counter=2))
    device.boot()
    assert device.refusal(signed(old, counter=3)) == "superseded key"
    again = operator(fleet, "desk")
    assert again.number <= key.number
    assert device.refusal(signed(again, counter=3)) == "superseded key"
    again.rotate(key.number + 1)
    assert device.take(signed(again, counter=3)).manifest.counter == 3


def test_a_lost_key_is_replaced_by_a_later_one(device, key, fleet):
    device.take(signed(key, counter=1))
    (fleet.directory / "desk" / "model.key").unlink()
    later = ModelKey(fleet.directory / "desk", T_MS + 1)
    assert device.take(signed(later, counter=2)).manifest.counter == 2


def test_a_revoked_operator_counts_no_more_and_nor_do_counters_of_theirs(device, key, fleet):
    """Whoever had the key may have used the greatest counter there is: the fleet must get past it."""
    lab = operator(fleet, "lab")
    device.take(signed(lab, counter=3))
    last = signed(key, counter=2**53 - 1)
    device.take(last)
    assert device.refusal(signed(lab, counter=4)) == "lower counter"
    device.revoked.add(serial_of(device, last))
    assert device.refusal(last) == "operator revoked"
    assert device.refusal(signed(lab, counter=2)) == "lower counter"
    device.boot()
    assert device.refusal(last) == "operator revoked"
    assert device.take(signed(lab, counter=4)).manifest.counter == 4


def test_after_a_restart_the_last_good_version_comes_first(device, key):
    assert device.acceptance.last_good() is None
    good = device.take(signed(key, counter=1))
    device.acceptance.ran_well(good)
    worse = signed(key, counter=2)
    device.take(worse)
    device.revoked.add(serial_of(device, worse))
    device.now_ms = T_MS + 99 * DAY_MS
    device.boot()
    assert device.acceptance.last_good() == good


def test_what_is_not_for_this_device_is_refused_and_raises_no_floor(device, key):
    onnx = (Variant(kind=Kind.ONNX, content=content_of(b"graph")),)
    assert device.refusal(signed(key, counter=9, variants=onnx)) == "no variant"
    assert device.refusal(signed(key, counter=9, name="other")) == "another model's"
    assert device.refusal(signed(key, counter=9, site="city")) == "another model's"
    assert device.refusal(b" " * (ENVELOPE_BYTES_MAX + 1)) == "too large"
    assert device.refusal(b"{}") == "unreadable"
    assert device.refusal(write_envelope(encode_manifest(manifest()))) == "unsigned"
    assert device.refusal(signed(key, made_ms=T_MS - DAY_MS)) == "certificate expired"
    assert not device.path.exists()
    assert device.take(signed(key, counter=1)).variant.kind is Kind.TFLITE


def test_the_preferred_variant_is_taken(device, key):
    kinds = (Kind.TFLITE, Kind.EDGETPU)
    both = tuple(Variant(kind=kind, content=content_of(kind.encode())) for kind in kinds)
    assert device.take(signed(key, variants=both)).variant.kind is Kind.EDGETPU


def test_without_identities_a_device_takes_anybodys_if_it_was_told_to(device):
    payload = write_envelope(encode_manifest(manifest(counter=2, made_ms=T_MS)))
    device.boot(trust=None)
    assert device.refusal(payload) == "unsigned"
    device.boot(trust=None, unsigned=True)
    assert device.take(payload).manifest.counter == 2
    lower = write_envelope(encode_manifest(manifest(counter=1, made_ms=T_MS)))
    assert device.refusal(lower) == "lower counter"
    assert device.refusal(write_envelope(b'{"counter":3}')) == "unreadable"


def test_what_cannot_be_stored_is_not_taken(device, key, monkeypatch):
    monkeypatch.setattr(device.acceptance._memory, "_path", device.path / "nowhere" / "x")
    assert device.refusal(signed(key, counter=3)) == "not stored"
    monkeypatch.undo()
    assert device.take(signed(key, counter=1)).manifest.counter == 1


def test_a_damaged_memory_is_put_aside(device, key):
    device.take(signed(key, counter=5))
    device.path.write_bytes(b"\xff{")
    device.boot()
    assert device.take(signed(key, counter=1)).manifest.counter == 1
    assert device.path.with_name("manifests.json.damaged").read_bytes() == b"\xff{"


def test_memory_is_bounded(device, key):
    memory = device.acceptance._memory
    for number in range(OPERATORS_MAX + 9):
        memory.pass_on(
            "forecast", f"o-{number}", Floor(1, "a", number), KeySeen(1, bytes(32), number)
        )
    assert len(memory._remembered.keys) == len(memory._remembered.floors["forecast"])
    assert len(memory._remembered.keys) == OPERATORS_MAX


def test_a_thousand_damaged_manifests_are_refused_and_leave_no_trace(device, key):
    """Each byte may be changed, left out, doubled or moved; cut anywhere; two spliced into one."""
    chance = random.Random(7)
    key.rotate(T_MS)
    good = signed(key, counter=3)
    device.take(good)
    before = device.path.read_bytes()
    other = signed(key, counter=4, version="2")
    reasons = set()
    for number in range(DAMAGED):
        spoilt = damage(chance, good if number % 2 else other, good)
        if spoilt in (good, other):
            continue
        reasons.add(device.refusal(spoilt))
    assert device.path.read_bytes() == before
    assert {"unreadable", "wrong signature"} <= reasons
    assert device.take(other).manifest.version == "2"


def damage(chance, payload, second):
    at = chance.randrange(len(payload))
    length = chance.choice((1, 1, 1, 2, 8, 64))
    match chance.randrange(7):
        case 0:
            flipped = payload[at] ^ 1 << chance.randrange(8)
            return payload[:at] + bytes((flipped,)) + payload[at + 1 :]
        case 1:
            return payload[:at]
        case 2:
            return payload[:at] + payload[at + length :]
        case 3:
            return payload[:at] + payload[at : at + length] + payload[at:]
        case 4:
            return payload[:at] + chance.randbytes(length) + payload[at + length :]
        case 5:
            digits = bytes(chance.choice(b"0123456789abcdefABCDEF+/=") for _ in range(length))
            return payload[:at] + digits + payload[at + length :]
        case _:
            return payload[:at] + second[at:][:length] + payload[at + length + 1 :]
