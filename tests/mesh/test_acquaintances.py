"""A link that comes back, or loses a digest, costs what changed and not a digest of everything."""

import pytest

from broker.mesh.acquaintances import Acquaintances
from broker.mesh.control import Hello
from broker.mesh.limits import ACQUAINTANCES_MAX
from broker.mesh.outgoing import Outgoing
from broker.mesh.peer import Peer
from broker.mesh.progress import Progress
from broker.mesh.vector import Vector
from sim.network import Network
from sim.path import Conditions

STREAMS = 60


@pytest.fixture
def said(monkeypatch):
    """By neighbour: the digests that it was told."""
    told = []
    before = Vector.digests

    def digests(vector, peer, *arguments, **options):
        rows = before(vector, peer, *arguments, **options)
        told.append((peer.name, rows[0].full, sum(len(row.entries) for row in rows)))
        return rows

    monkeypatch.setattr(Vector, "digests", digests)
    return told


def acquainted():
    """Two neighbours that know many streams of others who are away."""
    others = [f"c{number}" for number in range(STREAMS // 5)]
    network = Network(["a", "b", *others], [("a", "b"), *(("a", name) for name in others)])
    network.run(4_000)
    for name in others:
        for priority in range(5):
            network.publish(name, "t", b"x", qos=1, priority=priority)
    network.run(1_000)
    for name in others:
        network.kill(name)
    network.run(15_000)
    return network


def test_a_link_that_comes_back_says_what_changed(said):
    network = acquainted()
    network.partition([("a", "b")])
    network.publish("a", "t", b"meanwhile", qos=1)
    network.publish("b", "t", b"here too", qos=1)
    said.clear()
    network.heal()
    network.run(3_000)
    assert said
    assert not any(full for _, full, _ in said)
    assert sum(entries for _, _, entries in said) < 12
    for name in "ab":
        assert {b"meanwhile", b"here too"} <= set(network.payloads(name))


def test_who_has_booted_is_told_everything(said):
    network = acquainted()
    network.kill("b")
    network.restart("b")
    said.clear()
    network.run(3_000)
    assert any(full and entries >= STREAMS for to, full, entries in said if to == "b")


def test_a_digest_that_was_lost_is_said_again_and_not_all_of_them(said):
    network = acquainted()
    network.publish("a", "t", b"1", qos=1)
    state = network.devices["a"].running._state
    state.vector.digests(state.peers["b"], state.retained, settled=True)  # and it is lost
    said.clear()
    network.run(20_000)
    counters = network.devices["b"].running.statistics().counters
    assert counters["digests_resynced"] == 1
    assert not any(full for _, full, _ in said)
    assert (
        network.devices["b"].running._state.peers["a"].progress.hash == state.vector.settle_hash()
    )


def test_when_that_was_in_vain_all_is_said():
    progress = Progress()
    for stamp in (5, 6, 7):
        progress.note_told(stamp)
    progress.tell_again()
    assert progress.told_stamp == 5
    progress.note_told(8)
    progress.tell_again()
    assert progress.told_stamp == 0
    for stamp in (9, 10):
        progress.note_told(stamp)
    progress.tell_again()
    assert progress.told_stamp == 0  # as it was before the one that said all
    for stamp in (11, 12, 13):
        progress.note_told(stamp)
    progress.tell_again()
    assert progress.told_stamp == 11


def test_those_that_left_last_are_remembered():
    acquaintances = Acquaintances()
    for number in range(3 * ACQUAINTANCES_MAX):
        peer = Peer(f"p{number}", 0)
        peer.hello = Hello(1, peer.name, 1, 0, 0, heard=True)
        acquaintances.remember(peer, [(peer.name, 1)])
    assert len(acquaintances) == ACQUAINTANCES_MAX
    assert not acquaintances.recall(peer_called("p0", 1))
    last, one_before = (f"p{3 * ACQUAINTANCES_MAX - number}" for number in (1, 2))
    assert not acquaintances.recall(peer_called(last, 2))
    assert acquaintances.recall(peer_called(one_before, 1)) == [(one_before, 1)]


def test_what_a_neighbour_had_more_is_asked_for_when_its_link_is_back(monkeypatch):
    network = Network("abc", [("a", "b"), ("b", "c")])
    network.run(4_000)
    network.partition([("b", "c")])
    network.publish("a", "t", b"1", qos=1)
    network.run(500)
    monkeypatch.setattr(Outgoing, "_next_served", lambda out, _: out._serving.clear())
    network.heal()
    network.run(500)
    network.partition([("b", "c")])
    monkeypatch.undo()
    network.run(1_500)
    assert network.payloads("c") == []
    network.heal()
    network.run(300)
    assert network.payloads("c") == [b"1"]


def peer_called(name, incarnation):
    peer = Peer(name, 0)
    peer.hello = Hello(1, name, incarnation, 0, 0, heard=True)
    return peer


def test_a_digest_that_does_not_add_up_is_asked_for_until_one_does(said):
    network = acquainted()
    a, b = (network.devices[name].running for name in "ab")
    a._timers.next_digest_ns = b._timers.next_digest_ns = 1 << 62
    b._state.peers["a"].progress.hash ^= 1  # as if a digest had been lost
    network.path("b", "a").conditions = Conditions(loss=1.0)
    a._state.peers["b"].digest_due = True
    network.turn("a")
    network.run(100)
    assert b.statistics().counters["digests_resynced"]
    network.path("b", "a").conditions = network.conditions
    said.clear()
    network.run(5_000)
    assert {full for name, full, _ in said if name == "b"} == {False, True}
    assert b._state.peers["a"].progress.hash == a._state.vector.settle_hash()
    said.clear()
    network.run(10_000)
    assert [row for row in said if row[0] == "b"] == []


def test_a_first_digest_that_is_lost_is_asked_for():
    network = Network("abc", [("a", "b"), ("a", "c")], latency_ms=(5, 5))
    network.run(4_000)
    network.partition([("a", "b")])
    network.publish("c", "t", b"meanwhile", qos=1)
    network.run(100)
    network.kill("c")
    a, b = (network.devices[name].running for name in "ab")
    network.heal()
    a._timers.next_digest_ns = b._timers.next_digest_ns = 1 << 62
    network.run(4)  # both hellos are under way
    network.path("a", "b").conditions = Conditions(5, 0, loss=1.0)
    while not a._state.peers["b"].established:
        network.run(1)
    network.path("a", "b").conditions = network.conditions
    network.run(1_000)
    assert network.payloads("b") == []
    network.run(2_000)
    assert network.payloads("b") == [b"meanwhile"]
