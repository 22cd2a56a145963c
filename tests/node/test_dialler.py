"""When a neighbour is dialled, on virtual time and a network that swallows packets."""

import asyncio
import contextlib
import ssl
from itertools import pairwise
from random import Random

import pytest

from broker import dialler
from broker.dialler import (
    ABSENT_S,
    ATTEMPT_S,
    ATTEMPT_S_MAX,
    ATTEMPTS_MAX,
    UNWELCOME_S_MAX,
    Dialler,
    Wish,
)
from broker.embedded import packets
from broker.link import Neighbour
from broker.radio import Radio
from broker.tls import explain
from tests.node.virtual import run

ROUND_TRIP_S = 0.02
SYN_AGAIN_S = (1, 3, 7)
"""When Linux sends a SYN again that got no answer."""


class Transport:
    """A neighbour's broker that answers everything a link needs."""

    def __init__(self, network, protocol):
        self.network, self.protocol = network, protocol
        self.loop = asyncio.get_running_loop()
        self.gone = False

    def set_write_buffer_limits(self, **limits):
        pass

    def get_extra_info(self, name):
        return None

    def is_closing(self):
        return self.gone

    def write(self, data):
        kind = data[0] >> 4
        answer = {
            packets.CONNECT: packets.encode_connack(self.network.code),
            packets.SUBSCRIBE: packets.encode_suback(1, b"\0"),
        }[kind]
        if kind == packets.CONNECT:
            self.network.greeted += 1
        self.loop.call_later(ROUND_TRIP_S, self._answer, answer)

    def _answer(self, answer):
        if not self.gone:
            self.protocol.data_received(answer)

    def abort(self):
        if not self.gone:
            self.gone = True
            self.network.open.remove(self)
            self.loop.call_soon(self.protocol.connection_lost, None)


class Network:
    """What connecting meets: nothing, a refusal, or a broker."""

    def __init__(self):
        self.cut = False
        self.refuses = False
        self.raises = None
        self.code = 0
        self.started = []
        self.pending = 0
        self.most_pending = 0
        self.greeted = 0
        self.open = []

    def __call__(self, host, port):
        return self

    async def connect(self, protocol, context):
        loop = asyncio.get_running_loop()
        self.started.append(loop.time())
        self.pending += 1
        self.most_pending = max(self.most_pending, self.pending)
        try:
            await self._heard(loop)
            await asyncio.sleep(ROUND_TRIP_S)
        finally:
            self.pending -= 1
        if self.refuses:
            raise ConnectionRefusedError("refused")
        if self.raises is not None:
            raise self.raises
        made = protocol()
        self.open.append(Transport(self, made))
        made.connection_made(self.open[-1])

    async def _heard(self, loop):
        since = loop.time()
        for again_s in SYN_AGAIN_S:
            if not self.cut:
                return
            await asyncio.sleep(since + again_s - loop.time())
        await asyncio.sleep(1000)


class Node:
    """Owner and wish in one: a link is wanted while there is none."""

    def __init__(self):
        self.links = []
        self.inbound = False
        self.changed = asyncio.Event()

    def link_dialled(self, peer, pipe):
        self.links.append(pipe)
        self.changed.set()

    def link_frame(self, peer, pipe, frame):
        pass

    def link_detached(self, peer, pipe):
        self.links.remove(pipe)
        self.changed.set()

    def request_flush(self):
        pass

    def has_link(self, peer):
        return bool(self.links) or self.inbound

    async def wanted(self, peer):
        while self.has_link(peer):
            self.changed.clear()
            await self.changed.wait()


@contextlib.asynccontextmanager
async def dialling(monkeypatch, *, seed=1, **setting):
    network = Network()
    vars(network).update(setting)
    monkeypatch.setattr(dialler, "Lookup", network)
    node = Node()
    wish = Wish(node.has_link, node.wanted)
    radio = Radio()
    one = Dialler("a", Neighbour("b", "b.example", 1883), node, wish, radio, Random(seed))
    one.radio = radio
    task = asyncio.create_task(one.run())
    try:
        yield one, node, network
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def linked_after_s(node):
    loop = asyncio.get_running_loop()
    since = loop.time()
    async with asyncio.timeout(100):
        while not node.links:
            await asyncio.sleep(0.001)
    return loop.time() - since


@pytest.mark.parametrize("cut_s", [0.3, 0.97, 2.2, 6.1, 29.5, 100.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_cut_that_heals_is_found_within_half_a_second(monkeypatch, cut_s, seed):
    async def story():
        async with dialling(monkeypatch, seed=seed, cut=True) as (_, node, network):
            await asyncio.sleep(cut_s)
            assert not node.links
            network.cut = False
            assert await linked_after_s(node) <= 0.5
            await asyncio.sleep(3)
            assert len(node.links) == len(network.open) == 1, "the other attempts are gone"
            assert network.greeted == 1

    run(story())


@pytest.mark.parametrize("seed", range(5))
def test_so_is_a_radio_that_is_back(monkeypatch, seed):
    async def story():
        async with dialling(monkeypatch, seed=seed) as (one, node, _):
            await linked_after_s(node)
            one.radio.silence({"b"})
            node.links[0].close()
            await asyncio.sleep(10)
            assert not node.links
            one.radio.restore()
            assert await linked_after_s(node) <= 0.5

    run(story())


def test_attempts_overlap_within_their_bound_and_are_jittered(monkeypatch):
    async def story():
        async with dialling(monkeypatch, cut=True) as (one, _, network):
            await asyncio.sleep(60)
            gaps = [later - earlier for earlier, later in pairwise(network.started)]
            assert ATTEMPT_S * 0.75 <= min(gaps) < max(gaps) <= ATTEMPT_S
            assert 4 <= network.most_pending <= ATTEMPTS_MAX
            assert one.last_failure == "no answer"
            assert 59 < one.absent_s <= 60

    run(story())


def test_who_refuses_is_not_dialled_more_often(monkeypatch):
    async def story():
        async with dialling(monkeypatch, refuses=True) as (one, _, network):
            await asyncio.sleep(20)
            assert 20 / ATTEMPT_S <= len(network.started) <= 20 / ATTEMPT_S / 0.75 + 1
            assert network.most_pending == 1
            assert one.last_failure == "refused"

    run(story())


def test_who_does_not_let_us_in_is_tried_ever_more_rarely_and_told(monkeypatch):
    async def story():
        async with dialling(monkeypatch, code=5) as (one, node, network):
            await asyncio.sleep(300)
            assert "CONNACK 5" in one.last_failure
            gaps = [later - earlier for earlier, later in pairwise(network.started)]
            assert gaps[0] < 1
            assert min(gaps[-5:]) >= UNWELCOME_S_MAX * 0.75
            assert max(gaps) <= UNWELCOME_S_MAX + 0.5
            assert network.greeted == len(network.started)
            network.code = 0
            assert await linked_after_s(node) <= UNWELCOME_S_MAX + 0.5

    run(story())


def test_who_cannot_serve_at_the_moment_is_tried_as_often_as_who_is_away(monkeypatch):
    async def story():
        async with dialling(monkeypatch, code=3) as (_, node, network):
            await asyncio.sleep(10)
            assert 8 <= network.greeted <= 40
            network.code = 0
            assert await linked_after_s(node) <= 1

    run(story())


def test_a_cut_makes_up_for_refusals(monkeypatch):
    """Who was away may have been corrected meanwhile."""

    async def story():
        async with dialling(monkeypatch, code=5) as (_, node, network):
            await asyncio.sleep(100)
            network.cut, network.code = True, 0
            await asyncio.sleep(60)
            network.cut = False
            assert await linked_after_s(node) <= 0.5

    run(story())


@pytest.mark.parametrize(
    ("error", "rare"),
    [
        (ssl.SSLCertVerificationError(1, "CERTIFICATE_VERIFY_FAILED"), True),
        (ssl.SSLEOFError(8, "EOF occurred"), False),
    ],
    ids=["not believed", "hung up"],
)
def test_a_handshake_that_fails_counts_by_what_it_says(monkeypatch, error, rare):
    error.reason = error.args[1]

    async def story():
        async with dialling(monkeypatch, raises=error) as (one, _, network):
            await asyncio.sleep(100)
            assert (len(network.started) < 15) is rare
            assert one.last_failure == explain(error)

    run(story())


def test_who_has_been_away_for_long_is_dialled_rarely_until_it_is_seen(monkeypatch):
    async def story():
        loop = asyncio.get_running_loop()
        async with dialling(monkeypatch, cut=True) as (one, node, network):
            await asyncio.sleep(3600)
            gaps = [later - earlier for earlier, later in pairwise(network.started)]
            assert min(gaps[-100:]) >= ATTEMPT_S_MAX * 0.75
            assert max(gaps) <= ATTEMPT_S_MAX
            quick = [at for at in network.started if at <= ABSENT_S]
            assert len(quick) >= ABSENT_S / ATTEMPT_S
            await asyncio.sleep(1)
            network.cut = False
            one.wake()
            seen_at = loop.time()
            assert await linked_after_s(node) <= 0.1
            assert network.started[-1] == seen_at

    run(story())


def test_being_seen_again_and_again_makes_no_more_attempts(monkeypatch):
    async def story():
        async with dialling(monkeypatch, refuses=True) as (one, _, network):
            await asyncio.sleep(1000)
            before = len(network.started)
            for _ in range(5000):
                one.wake()
                await asyncio.sleep(0.01)
            assert len(network.started) - before <= 50 / ATTEMPT_S / 0.75 + 2

    run(story())


def test_a_link_that_the_neighbour_dialled_ends_the_attempts(monkeypatch):
    async def story():
        async with dialling(monkeypatch, cut=True) as (one, node, network):
            await asyncio.sleep(200)
            node.inbound = True
            await asyncio.sleep(ATTEMPT_S_MAX)
            before = len(network.started)
            await asyncio.sleep(100)
            assert len(network.started) == before
            assert network.pending == 0
            node.inbound = network.cut = False
            node.changed.set()
            assert await linked_after_s(node) <= 0.5
            assert one.failures == 0

    run(story())


def test_a_dialler_that_is_stopped_leaves_the_link_and_nothing_else(monkeypatch):
    async def story():
        async with dialling(monkeypatch) as (_, node, network):
            await linked_after_s(node)
        assert len(node.links) == len(network.open) == 1
        async with dialling(monkeypatch, cut=True) as (_, node, network):
            await asyncio.sleep(5)
        assert network.pending == 0
        assert network.open == node.links == []

    run(story())
