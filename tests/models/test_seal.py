"""Whose manifests count: the chain from a signature to the fleet's authority, and what breaks it."""

import json
import stat

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from agent.models.manifest import encode_manifest
from broker.certificates import read_key
from broker.errors import IdentityUnusable, SecretUnusable
from broker.identity import DAY_MS, Role
from broker.model_envelope import (
    ENVELOPE_BYTES_MAX,
    KEYS_MAX,
    Key,
    SealBroken,
    Statement,
    manifest_in,
    read_envelope,
    write_envelope,
)
from broker.model_key import ModelKey
from broker.model_seal import check_seal, signed_key, signed_manifest
from tests.identity.fleet import T_MS, Fleet
from tests.models.manifests import manifest

TOPIC = "flock/v1/town/model/forecast"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """A fleet with an operator `desk`."""
    made = Fleet(tmp_path_factory.mktemp("fleet"))
    made.join("desk", Role.OPERATOR)
    return made


@pytest.fixture
def key(fleet, tmp_path):
    """The operator's model key, its first, in a folder of its own."""
    folder = tmp_path / "desk"
    folder.mkdir()
    for name in ("ca.pem", "own.pem", "own.key"):
        content = (fleet.directory / "desk" / name).read_bytes()
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)
    return ModelKey(folder, T_MS)


def authority(fleet):
    return (fleet.directory / "ca" / "ca.pem").read_bytes()


def check(payload, fleet, topic=TOPIC):
    return check_seal(payload, topic, "town", authority(fleet))


def made_now(**changes):
    return encode_manifest(manifest(made_ms=T_MS, **changes))


def folder_of(key):
    return key._path.parent


def test_what_an_operator_signs_counts(fleet, key):
    data = made_now(counter=7)
    payload = key.sign(data)
    seal = check(payload, fleet)
    assert (seal.operator, seal.head.counter) == ("desk", 7)
    assert seal.keys[-1][0] == key.number == T_MS
    assert manifest_in(read_envelope(payload)) == data


def test_the_bytes_that_travel_are_signed_and_not_what_they_say(fleet, key):
    """White space and the order of fields are the signer's; who writes the same thing anew breaks it."""
    spaced = json.dumps(json.loads(made_now()), indent=1).encode()
    payload = key.sign(spaced)
    assert check(payload, fleet).head.name == "forecast"
    assert manifest_in(read_envelope(payload)) == spaced
    with pytest.raises(SealBroken, match="wrong signature: of the manifest"):
        check(altered(payload, manifest=msgspec.Raw(made_now())), fleet)
    with pytest.raises(SealBroken, match="unreadable: it is not as its operator wrote it"):
        check(json.dumps(json.loads(payload)).encode(), fleet)


def test_a_key_is_succeeded_by_one_that_it_signed(fleet, key):
    first = key.number
    for _ in range(KEYS_MAX - 1):
        key.rotate(T_MS)
    numbers = [number for number, _ in check(key.sign(made_now()), fleet).keys]
    assert numbers == list(range(first, first + KEYS_MAX))
    key.rotate(T_MS)
    assert [n for n, _ in check(key.sign(made_now()), fleet).keys] == [first + KEYS_MAX]
    again = ModelKey(folder_of(key), T_MS)
    assert check(again.sign(made_now()), fleet).keys == check(key.sign(made_now()), fleet).keys


def test_a_certificate_that_was_issued_anew_vouches_anew(fleet, key):
    folder = folder_of(key)
    number = key.number
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fleet, "directory", fleet.directory / "again")
        (fleet.directory).mkdir(exist_ok=True)
        other = fleet.join("lab", Role.OPERATOR)
    for name in ("own.pem", "own.key"):
        (folder / name).write_bytes((other / name).read_bytes())
    seal = check(ModelKey(folder, T_MS).sign(made_now()), fleet)
    assert seal.operator == "lab"
    assert [n for n, _ in seal.keys] == [number + 1]


def test_no_key_can_be_read_by_others_and_none_is_made_of_a_damaged_one(key):
    path = folder_of(key) / "model.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(SecretUnusable, match="chmod 600"):
        ModelKey(folder_of(key), T_MS)
    path.chmod(0o600)
    for content in (b"{}", path.read_bytes()[:-20], b'{"private":"","keys":[]}'):
        path.write_bytes(content)
        with pytest.raises(IdentityUnusable, match="is no model key"):
            ModelKey(folder_of(key), T_MS)


def test_only_an_operator_whose_certificate_holds_has_a_model_key(fleet, key, tmp_path):
    with pytest.raises(IdentityUnusable, match="that of device b, and models are an operator's"):
        ModelKey(fleet.join("b"), T_MS)
    with pytest.raises(IdentityUnusable, match="flockmq ca renew desk --out"):
        ModelKey(folder_of(key), T_MS + 61 * DAY_MS)
    with pytest.raises(IdentityUnusable, match="no identity of an operator: No such file"):
        ModelKey(tmp_path / "nowhere", T_MS)


def altered(payload, **fields):
    """The envelope with other fields, its manifest's bytes as they are."""
    envelope = read_envelope(payload)
    return msgspec.json.encode(msgspec.structs.replace(envelope, **fields))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda _: b"nonsense", "unreadable"),
        (lambda _: b'{"manifest": "\xff"}', "unreadable"),
        (lambda p: p + b" " * ENVELOPE_BYTES_MAX, "too large"),
        (lambda p: write_envelope(manifest_in(read_envelope(p))), "unsigned"),
        (lambda p: altered(p, signature=b""), "unsigned"),
        (lambda p: altered(p, keys=()), "unsigned"),
        (lambda p: altered(p, certificate=b""), "unsigned"),
        (lambda p: altered(p, certificate=b"x" * 600), "wrong signature"),
        (lambda p: altered(p, signature=bytes(64)), "wrong signature"),
        (lambda p: altered(p, keys=read_envelope(p).keys[1:]), "wrong signature"),
        (lambda p: altered(p, keys=read_envelope(p).keys[::-1]), "wrong signature"),
        (lambda p: altered(p, keys=read_envelope(p).keys[:1]), "wrong signature"),
        (lambda p: p.replace(b'"counter":1,', b'"counter":2,'), "wrong signature"),
        (lambda p: p.replace(b'"operator":"desk"', b'"operator":"deck"'), "wrong signature"),
        (lambda p: altered(p, manifest=msgspec.Raw(b"{}")), "wrong signature"),
    ],
)
def test_what_breaks_a_seal(fleet, key, spoil, reason):
    key.rotate(T_MS)
    with pytest.raises(SealBroken) as broken:
        check(spoil(key.sign(made_now())), fleet)
    assert broken.value.reason == reason


def test_what_is_sealed_and_does_not_count_here(fleet, key, tmp_path):
    good = key.sign(made_now())
    for topic in ("flock/v1/town/model/other", "flock/v1/city/model/forecast"):
        with pytest.raises(SealBroken, match="another model's: it is for forecast of site town"):
            check(good, fleet, topic)
    late = key.sign(
        encode_manifest(manifest(made_ms=T_MS + 61 * DAY_MS, expires_ms=T_MS + 99 * DAY_MS))
    )
    with pytest.raises(SealBroken, match="certificate expired"):
        check(late, fleet)
    with pytest.raises(SealBroken, match="unreadable"):
        check(key.sign(b"{}"), fleet)
    stranger = Fleet(tmp_path / "elsewhere")
    stranger.join("desk", Role.OPERATOR)
    foreign = ModelKey(stranger.directory / "desk", T_MS)
    with pytest.raises(SealBroken, match="wrong signature: the certificate"):
        check(foreign.sign(made_now()), fleet)
    assert check(foreign.sign(made_now()), stranger).operator == "desk"


def test_a_device_cannot_seal_with_its_own_certificate(fleet, key):
    """What a dishonest device has: its certificate, its key, and everything that was ever published."""
    folder = fleet.join("c")
    own, data = Ed25519PrivateKey.generate(), made_now(counter=2**53 - 1)
    public = own.public_key().public_bytes_raw()
    device_key = read_key((folder / "own.key").read_bytes())
    signature = own.sign(signed_manifest("town", data))
    own_pem = x509.load_pem_x509_certificate((folder / "own.pem").read_bytes())
    published = read_envelope(key.sign(made_now()))
    for operator, certificate in (
        ("c", own_pem.public_bytes(Encoding.DER)),
        ("desk", published.certificate),
    ):
        statement = msgspec.json.encode(Statement("town", operator, 2**40, public))
        said = Key(
            msgspec.Raw(statement),
            device_key.sign(signed_key(statement), ec.ECDSA(hashes.SHA256())),
        )
        for keys in ((said,), (*published.keys, said)):
            with pytest.raises(SealBroken, match=r"not an operator|wrong signature"):
                check(write_envelope(data, signature, keys, certificate), fleet)
