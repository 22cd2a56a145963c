"""The key that devices share: how it is handed out and changed, and what counts under which, on real nodes."""

import asyncio
import contextlib
import itertools
import json
import stat

import pytest
import uvloop

from broker import certificates
from broker.authority import Authority
from broker.credentials import Credentials, notice
from broker.fleet_key import KEY_DAYS, OVERLAP_MS, make_notice, new_key, read_notice
from broker.identity import DAY_MS, CertificateInvalid, Role
from broker.identity_folder import FLEET_KEY_FILE
from broker.link import Neighbour
from broker.mesh.bundle import Header
from broker.mesh.tags import covered_by, sealed
from broker.node import Node
from broker.store import Store
from broker.strength import Strength
from broker.topic_names import fleet_key_topic
from tests.identity.fleet import T_MS, Fleet
from tests.node.fleet import established
from tests.waiting import until

TOPIC = fleet_key_topic(site="home", fleet="town")


@pytest.fixture
def fleet(tmp_path):
    return Fleet(tmp_path)


def rotated(fleet, now_ms=T_MS):
    with Authority.at(fleet.authority) as authority:
        authority.rotate_key(now_ms)
        return authority.fleet_key_notice(now_ms)


def seals(fleet, name, strength=Strength.MAC):
    return fleet.trust(name).seals(strength)


def bundle(by, at_ms=T_MS, lane=5):
    header = Header("a", lane, 1, 1, 1, at_ms << 16, 0, 4)
    header, head = sealed(header, b"body", by)
    return header, covered_by(header, head), b"body"


# Notices.


def test_a_notice_is_read_by_those_it_names_and_by_nobody_else():
    authority, a, b, c = (certificates.make_key() for _ in range(4))
    keys = [new_key(1, 5), new_key(2, 9)]
    devices = {"a": a.public_key(), "b": b.public_key()}
    pem = make_notice(authority, "town", 7, keys, devices, whole=True)
    for name, key in (("a", a), ("b", b)):
        assert read_notice(pem, authority.public_key(), "town", name, key) == (7, True, tuple(keys))
    assert read_notice(pem, authority.public_key(), "town", "c", c).keys == ()
    for name, key, by, fleet, reason in (
        ("a", c, authority, "town", "does not open"),
        ("a", b, authority, "town", "does not open"),
        ("a", a, c, "town", "has not signed"),
        ("a", a, authority, "city", "of fleet town"),
    ):
        with pytest.raises(CertificateInvalid, match=reason):
            read_notice(pem, by.public_key(), fleet, name, key)
    assert not [key for key in keys if key.secret in pem]


@pytest.mark.parametrize(
    "bad", [b"", b"\xff", b"-----BEGIN FLOCKMQ FLEET KEY-----\nAAAA\n-----END FLOCKMQ FLEET KEY-----", b"x" * 300_000]
)  # fmt: skip
def test_what_is_no_notice_is_told(bad):
    key = certificates.make_key()
    with pytest.raises(CertificateInvalid):
        read_notice(bad, key.public_key(), "town", "a", key)


def test_a_thousand_devices_fit_one_message():
    authority = certificates.make_key()
    public_key = authority.public_key()
    devices = {f"{number:032}": public_key for number in range(1000)}
    pem = make_notice(authority, "town", 1, [new_key(n, 0) for n in range(3)], devices, whole=True)
    assert len(notice(pem)) < 256 * 1024
    assert len(read_notice(pem, public_key, "town", f"{7:032}", authority).keys) == 3


def test_the_authority_hands_keys_to_devices_only_and_changes_them_when_one_is_revoked(fleet):
    fleet.join("a")
    fleet.join("b")
    fleet.join("desk", Role.VIEWER)
    assert not (fleet.directory / "desk" / FLEET_KEY_FILE).exists()
    assert stat.S_IMODE((fleet.directory / "a" / FLEET_KEY_FILE).stat().st_mode) == 0o600
    a, b = seals(fleet, "a"), seals(fleet, "b")
    assert a.statistics().fleet_key == b.statistics().fleet_key == 1
    fleet.revoke("b")
    with Authority.at(fleet.authority) as authority:
        pem = authority.fleet_key_notice(T_MS)
        assert pem == authority.fleet_key_notice(T_MS + 5), "one number is never given to two"
        assert not authority.key_due(T_MS + DAY_MS)
        assert authority.key_due(T_MS + KEY_DAYS * DAY_MS)
    assert a.adopt_key(pem)
    assert a.statistics().fleet_key == 2
    with pytest.raises(CertificateInvalid, match="no key for b"):
        b.adopt_key(pem)
    assert "under a fleet key" in b.check(*bundle(a)).reason
    assert seals(fleet, "a").statistics().fleet_key == 2, "it remembers"


def test_an_older_notice_changes_nothing(fleet):
    a = seals(fleet, "a")
    old, new = rotated(fleet), rotated(fleet)
    assert a.adopt_key(new)
    assert not a.adopt_key(old)
    assert a.statistics().fleet_key == 3


def test_no_key_of_the_fleet_can_be_read_or_is_shown(fleet, capsys):
    fleet.join("a")
    book = json.loads((fleet.authority / "book.json").read_bytes())
    (key,) = book["keys"]
    assert stat.S_IMODE((fleet.authority / "book.json").stat().st_mode) == 0o600
    files = [path for path in fleet.directory.rglob("*") if path.is_file()]
    holders = [path.name for path in files if key["secret"].encode() in path.read_bytes()]
    assert holders == ["book.json"]
    assert key["secret"] not in str(capsys.readouterr())


# What counts under which key.


def test_the_key_before_counts_for_what_was_stamped_in_its_time_and_for_the_overlap(fleet):
    fleet.join("b")
    a, b = seals(fleet, "a"), seals(fleet, "b")
    changed_ms = T_MS + DAY_MS
    b.adopt_key(rotated(fleet, changed_ms))
    assert b.check(*bundle(a, T_MS)) is None
    assert b.check(*bundle(a, changed_ms + OVERLAP_MS - 1)) is None
    fault = b.check(*bundle(a, changed_ms + OVERLAP_MS))
    assert "out of use" in fault.reason
    assert not fault.blamed
    assert "does not have" in a.check(*bundle(b, changed_ms)).reason


def test_a_device_without_the_fleets_key_signs_everything_and_is_believed(fleet):
    folder = fleet.join("a")
    fleet.join("b")
    (folder / FLEET_KEY_FILE).unlink()
    a, b = seals(fleet, "a"), seals(fleet, "b")
    header, covered, body = bundle(a)
    assert header.tag_kind == 2
    asked = b.check(header, covered, body)
    assert b.learn(a.certificate(asked.signer)) == asked.signer
    assert b.check(header, covered, body) is None


def test_a_signature_counts_against_what_the_certificate_was_at_its_own_stamp(fleet):
    fleet.join("b")
    a, b = seals(fleet, "a", Strength.SIGNED), seals(fleet, "b", Strength.SIGNED)
    (number,) = a.signers
    b.learn(a.certificate(number))
    end_ms = fleet.trust("a").certificate.not_after_ms + 30 * DAY_MS
    assert b.check(*bundle(a, 1)) is None, "a device that woke in 1970"
    assert b.check(*bundle(a, end_ms - 1)) is None, "within its grace"
    late = bundle(a, end_ms)
    assert b.check(*late).signer == number, "there may be a newer one"
    assert b.learn(a.certificate(number)) == number
    assert "had expired" in b.check(*late).reason
    pem = fleet.renew("a", T_MS + 50 * DAY_MS)
    assert b.signers.hear(pem)
    assert b.check(*late) is None
    assert b.check(*bundle(a, T_MS)) is None, "what was logged before the renewal"


def test_a_revoked_device_is_not_believed_whatever_stamp_it_uses(fleet):
    fleet.join("b")
    a, trust = seals(fleet, "a", Strength.SIGNED), fleet.trust("b")
    b = trust.seals(Strength.SIGNED)
    (number,) = a.signers
    b.learn(a.certificate(number))
    assert b.check(*bundle(a)) is None
    trust.adopt_revocations(fleet.revoke("a"))
    fault = b.check(*bundle(a, T_MS - DAY_MS))
    assert "revoked" in fault.reason
    assert not fault.blamed, "the neighbour may not have heard of it yet"


# On real nodes.


class Member:
    """A node with its trust, its tags, and what keeps both up to date."""

    def __init__(self, fleet, name, directory):
        self.tls = fleet.tls(name)
        self.seals = self.tls.trust.seals(Strength.MAC)
        self.tls = self.tls._replace(seals=self.seals)
        self.name, self.directory, self.heard = name, directory, []

    async def start(self):
        store = Store(self.directory / f"{self.name}.state")
        self.node = Node(self.name, store, port=0, tls=self.tls, seed=1)
        self.node.subscribe(lambda batch: self.heard.extend(m.payload for m in batch))
        credentials = Credentials(self.node, self.tls.trust, "home", self.seals)
        await self.node.start()
        self.task = asyncio.ensure_future(credentials.run())

    async def stop(self):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.node.stop()

    def counters(self):
        return self.node.statistics().mesh.counters


@contextlib.asynccontextmanager
async def row(*members):
    """In a row, each linked to the next."""
    try:
        for member in members:
            await member.start()
        for one, other in itertools.pairwise(members):
            one.node.dial(Neighbour(other.name, "127.0.0.1", other.node.link_port))
            await until(lambda one=one, other=other: other.name in established(one.node), "a link")
        yield
    finally:
        for member in members:
            await member.stop()


def test_bundles_of_every_kind_pass_a_relay_and_a_new_key_reaches_all(fleet, tmp_path):
    a, r, b = (Member(fleet, name, tmp_path) for name in "arb")
    pem = rotated(fleet)
    said = {
        "flock/v1/home/status/a": b'{"incarnation":1,"refutation":0}',
        "flock/v1/home/heartbeat/a": b"{}",
        "any/topic": b"kept",
    }

    async def story():
        async with row(a, r, b):
            for topic, payload in said.items():
                await a.node.publish(topic, payload, qos=1)
            await until(lambda: {*said.values()} <= {*b.heard}, "all of it")
            assert b.seals.signers.names() == ["a", "b"]
            await r.node.publish(TOPIC, notice(pem))
            await until(lambda: all(m.seals.statistics().fleet_key == 2 for m in (a, r, b)), "keys")
            await a.node.publish("any/topic", b"under the new key", qos=1)
            await until(lambda: b"under the new key" in b.heard, "it")
            for member in (a, r, b):
                assert not member.counters().get("tags_refused")
                assert not member.counters().get("bad_frames")

    uvloop.run(story())


def test_nobody_makes_the_fleet_forget_its_key(fleet, tmp_path, monkeypatch):
    monkeypatch.setattr("broker.credentials.JUDGE_S", 0.01)
    a, b = Member(fleet, "a", tmp_path), Member(fleet, "b", tmp_path)
    first, second = rotated(fleet), rotated(fleet)

    async def story():
        async with row(a, b):
            await a.node.publish(TOPIC, notice(second))
            await until(lambda: b.seals.statistics().fleet_key == 3, "the key")
            for payload in (notice(first), b"nonsense", b""):
                await b.node.publish(TOPIC, payload)
                await until(lambda: a.node.retained_value(TOPIC) == notice(second), "the newest")
            assert a.seals.statistics().fleet_key == b.seals.statistics().fleet_key == 3

    uvloop.run(story())


def test_a_device_without_tags_is_told_apart_from_the_fleet_with_a_reason(fleet, tmp_path):
    a, b = Member(fleet, "a", tmp_path), Member(fleet, "b", tmp_path)
    a.tls = a.tls._replace(seals=None)

    async def story():
        async with row(a, b):
            for number in range(20):
                await a.node.publish("any/topic", b"%d" % number, qos=1)
            await until(lambda: b.node.statistics().closed_links, "the link to end")
            assert "has no tag" in b.node.statistics().closed_links["a"]
            assert not [payload for payload in b.heard if payload.isdigit()]

    uvloop.run(story())
