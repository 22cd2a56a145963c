"""Renewals and revocations on their way through the mesh, to devices that are there and to one that was away."""

import asyncio
import contextlib
import threading

import pytest
import uvloop

from broker.credentials import Credentials, notice
from broker.identity import DAY_MS, Moment
from broker.link import Neighbour
from broker.node import Node
from broker.store import Store
from broker.topic_names import certificate_topic, revocation_topic
from tests.identity.fleet import T_MS, Fleet
from tests.node.fleet import established
from tests.waiting import until

REVOCATION = revocation_topic(site="home", fleet="town")


class Member:
    """A node with its trust and what keeps that up to date. Its clock is the fleet's, whatever the system says."""

    def __init__(self, fleet, name, directory):
        self.fleet, self.name, self.directory = fleet, name, directory
        self.tls = fleet.tls(name)
        self.trust = self.tls.trust
        self.task = None

    async def start(self):
        store = Store(self.directory / f"{self.name}.state")
        self.node = Node(self.name, store, port=0, tls=self.tls, seed=1)
        self.credentials = Credentials(self.node, self.trust, "home")
        self.trust.clock = lambda: Moment(self.fleet.now_ms, synchronised=True)
        await self.node.start()
        self.task = asyncio.ensure_future(self.credentials.run())

    async def stop(self):
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            await self.node.stop()
            self.task = None

    def dial(self, other):
        self.node.dial(Neighbour(other.node.device, "127.0.0.1", other.node.link_port))

    @property
    def said(self):
        return self.trust.statistics()


@contextlib.asynccontextmanager
async def running(*members):
    try:
        for member in members:
            await member.start()
        yield
    finally:
        for member in members:
            await member.stop()


async def linked(one, other):
    one.dial(other)
    await until(
        lambda: (
            other.node.device in established(one.node)
            and one.node.device in established(other.node)
        ),
        "a link",
    )


@pytest.fixture
def fleet(tmp_path):
    return Fleet(tmp_path)


def test_a_renewed_certificate_comes_over_the_mesh(fleet, tmp_path):
    """And the links made with the old one stay."""
    a, b = Member(fleet, "a", tmp_path), Member(fleet, "b", tmp_path)
    before = a.trust.certificate
    pem = fleet.renew("a", T_MS + DAY_MS)

    async def story():
        async with running(a, b):
            await linked(a, b)
            topic = certificate_topic(site="home", device="a")
            await b.node.publish(topic, notice(pem))
            await until(lambda: a.trust.certificate != before, "the new one")
            assert established(a.node) == {"b"}

    uvloop.run(story())
    assert a.trust.certificate.not_after_ms == before.not_after_ms + DAY_MS
    assert fleet.trust("a").certificate == a.trust.certificate  # also after a restart


def test_a_certificate_that_does_not_hold_changes_nothing(fleet, tmp_path):
    (tmp_path / "x").mkdir()
    other = Fleet(tmp_path / "x")
    fleet.join("b")
    a = Member(fleet, "a", tmp_path)
    before = a.trust.certificate
    bad = [
        other.join("a") / "own.pem",  # of another fleet, with another key
        fleet.directory / "b" / "own.pem",  # of another device
    ]
    payloads = [notice(path.read_bytes()) for path in bad]
    payloads += [b"nonsense", b'{"pem":"nonsense"}', b'{"pem":"\\ud800"}', b"[]", b"\xff"]
    payloads += [b'{"more":' + b"[" * 100_000]

    async def story():
        async with running(a):
            for payload in payloads:
                await a.node.publish(certificate_topic(site="home", device="a"), payload)

    uvloop.run(story())
    assert a.trust.certificate == before
    assert a.credentials.refused == len(payloads)
    assert fleet.trust("a").certificate == before


def test_an_older_certificate_is_no_renewal(fleet, tmp_path):
    old = (fleet.join("a") / "own.pem").read_bytes()
    trust = fleet.trust("a")
    assert trust.adopt_certificate(fleet.renew("a", T_MS + DAY_MS))
    assert not trust.adopt_certificate(old)
    assert trust.certificate.not_after_ms == T_MS + 61 * DAY_MS


def test_who_is_revoked_is_shut_out_by_all_who_hear_of_it(fleet, tmp_path):
    a, b, c = (Member(fleet, name, tmp_path) for name in "abc")

    async def story():
        async with running(a, b, c):
            await linked(a, b)
            await linked(b, c)
            await a.node.publish(REVOCATION, notice(fleet.revoke("c")))
            await until(lambda: b.said.revoked == 1, "the list")
            await until(lambda: not established(c.node), "c to be alone")
            assert established(b.node) == {"a"}

    uvloop.run(story())


def test_a_device_that_was_away_hears_of_revocations(fleet, tmp_path):
    a, b = Member(fleet, "a", tmp_path), Member(fleet, "b", tmp_path)
    fleet.join("c")

    async def story():
        async with running(a):
            await a.node.publish(REVOCATION, notice(fleet.revoke("c")))
            await b.start()
            try:
                await linked(b, a)
                await until(lambda: b.said.revoked == 1, "the list")
            finally:
                await b.stop()

    uvloop.run(story())
    assert fleet.trust("b").statistics().revocations == 1  # it remembers


def test_nobody_makes_the_fleet_forget_a_list(fleet, tmp_path, monkeypatch):
    """Whoever writes something else on the topic is counted, and the newest list comes back."""
    monkeypatch.setattr("broker.credentials.JUDGE_S", 0.01)
    a, b = Member(fleet, "a", tmp_path), Member(fleet, "b", tmp_path)
    fleet.join("c")
    fleet.join("d")
    first, second = fleet.revoke("c"), fleet.revoke("d")

    async def story():
        async with running(a, b):
            await linked(a, b)
            await a.node.publish(REVOCATION, notice(second))
            await until(lambda: b.said.revoked == 2, "the list")
            for payload in (notice(first), b"nonsense", b'{"more":' + b"[" * 100_000, b""):
                await b.node.publish(REVOCATION, payload)
                await until(
                    lambda: (
                        a.node.retained_value(REVOCATION)
                        == b.node.retained_value(REVOCATION)
                        == notice(second)
                    ),
                    "the newest list",
                )
            assert a.said.revoked == b.said.revoked == 2

    uvloop.run(story())


def test_certificates_that_no_thread_stores_end_nothing(fleet, tmp_path, monkeypatch, caplog):
    a = Member(fleet, "a", tmp_path)

    class Unsaved:
        def take_unsaved(self):
            return "certificates"

        save = None

    def refused(_):
        raise RuntimeError("can't start new thread")

    async def story():
        async with running(a):
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", refused)
                await a.credentials._save(Unsaved())

    asyncio.run(story())
    assert "a: certificates of others: can't start new thread" in caplog.text


def test_the_time_is_the_latest_that_is_known(fleet, tmp_path):
    """The system's clock, the stored bound of the hybrid clock, or when the newest certificate was signed."""
    a = Member(fleet, "a", tmp_path)
    signed_ms = a.trust.certificate.not_before_ms
    for wall_ms, expected_ms in ((0, signed_ms), (T_MS + DAY_MS, T_MS + DAY_MS)):
        a.trust.clock = lambda wall_ms=wall_ms: Moment(wall_ms, synchronised=True)
        assert a.trust.moment() == (expected_ms, wall_ms > 0)

    async def story():
        async with running(a):
            later = (T_MS + 30 * DAY_MS) << 16
            a.node.clock = lambda: later
            return a.credentials._moment().now_ms

    assert uvloop.run(story()) == T_MS + 30 * DAY_MS
