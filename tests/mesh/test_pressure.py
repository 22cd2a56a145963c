"""Pressure: credit on every link, publishers that are told, neighbours that do not read."""

import pytest

from broker.mesh.credit import Credit
from broker.mesh.events import MeshFull
from broker.mesh.limits import (
    CREDIT_BYTES,
    DIGEST_LINKS_MAX,
    DIGEST_MS_MAX,
    DIGEST_MS_MIN,
    OUTBOX_BYTES_MAX,
    PRESSED_BYTES,
    STALL_MS,
)
from broker.mesh.pace import Pace
from sim.network import Network
from sim.path import Conditions

KEPT = {"qos": 1, "priority": 2}


def fill(network, name, upto_bytes, size=20_000):
    """Publish without letting time pass; returns how many messages were taken."""
    taken = 0
    while taken * size < upto_bytes:
        network.publish(name, "t", bytes(size - 8) + b"%08d" % taken, **KEPT)
        taken += 1
    return taken


def peer_of(network, name, other):
    return network.devices[name].running._state.peers[other]


def narrow(network, source, target, capacity_bytes):
    """A path over which only so much is under way at a time."""
    conditions = Conditions(5, 5, capacity_bytes=capacity_bytes)
    network.devices[source].paths[target].conditions = conditions


def test_a_publisher_that_outruns_its_neighbour_is_refused_and_can_go_on_later():
    network = Network("ab", [("a", "b")])
    network.run(1_000)
    network.clog("a", "b", network.now_ns + 1_500_000_000)
    with pytest.raises(MeshFull, match="behind; publish when it has caught up"):
        fill(network, "a", 64 << 20)
    assert network.devices["a"].running.pressed
    assert peer_of(network, "a", "b").outbox.dropped == 0
    network.run(1_800)
    assert not network.devices["a"].running.pressed
    network.publish("a", "t", b"goes", **KEPT)
    network.run(2_000)
    heard = network.payloads("b")
    assert heard[-1] == b"goes"
    assert [p[-8:] for p in heard[:-1]] == [b"%08d" % n for n in range(len(heard) - 1)]


def test_no_more_is_under_way_than_was_granted():
    network = Network("ab", [("a", "b")])
    network.run(1_000)
    network.conditions.capacity_bytes = 64 << 20
    network.clog("a", "b", network.now_ns + 1_000_000_000)
    fill(network, "a", 2 << 20)
    credit = peer_of(network, "a", "b").credit
    assert CREDIT_BYTES <= credit.spent_bytes <= CREDIT_BYTES + 64 * 1024
    network.run(3_000)
    assert len(network.payloads("b")) == -(-(2 << 20) // 20_000)


def test_a_relay_passes_pressure_on_as_long_as_its_neighbour_still_reads():
    network = Network("abc", [("a", "b"), ("b", "c")])
    network.run(1_000)
    narrow(network, "b", "c", 30_000)
    taken = refused = 0
    for _ in range(600):
        try:
            network.publish("a", "t", bytes(50_000) + b"%08d" % taken, **KEPT)
            taken += 1
        except MeshFull:
            refused += 1
        network.run(2)
    assert refused
    assert peer_of(network, "b", "c").outbox.size_bytes <= PRESSED_BYTES + 2 * CREDIT_BYTES
    assert not peer_of(network, "b", "c").suspensions
    assert not peer_of(network, "b", "c").outbox.dropped
    network.run(60_000)
    assert [p[-8:] for p in network.payloads("c")] == [b"%08d" % n for n in range(taken)]


def test_one_that_takes_nothing_is_suspended_and_catches_up(monkeypatch):
    edges = [("a", "b"), ("a", "c"), ("b", "d"), ("a", "d")]
    network = Network("abcd", edges, latency_ms=(3, 3))
    network.run(3_000)
    state = network.devices["b"].mesh._state
    monkeypatch.setattr(state, "backlog_bytes", PRESSED_BYTES)
    monkeypatch.setattr(state, "measure_backlog", lambda: None)
    count = 0
    for _ in range(500):
        network.publish("a", "t", bytes(5_000) + b"%08d" % count, **KEPT)
        count += 1
        network.run(20)
    stalled = peer_of(network, "a", "b")
    assert stalled.suspended
    assert len(stalled.outbox) == 0
    for name in "cd":
        assert len(network.payloads(name)) == count
    assert len(network.payloads("b")) < count
    monkeypatch.undo()
    network.run(10_000)
    assert not peer_of(network, "a", "b").suspended
    assert [p[-8:] for p in network.payloads("b")] == [b"%08d" % n for n in range(count)]


def test_a_suspended_neighbour_costs_a_stated_number_of_bytes():
    network = Network("ab", [("a", "b")])
    network.run(1_000)
    network.block("a", "b", blocked=True)
    network.conditions.capacity_bytes = 1
    most = 0
    for _ in range(400):
        try:
            network.publish("a", "t", bytes(20_000), **KEPT)
        except MeshFull:
            pass
        most = max(most, peer_of(network, "a", "b").outbox.size_bytes)
        network.run(10)
        if "b" not in network.devices["a"].running._state.peers:
            break
    assert most <= OUTBOX_BYTES_MAX


def test_a_full_circle_moves_on():
    network = Network("abc", [("a", "b"), ("b", "c"), ("a", "c")])
    network.run(1_000)
    for a, b in ("ab", "bc", "ca", "ba", "cb", "ac"):
        narrow(network, a, b, 60_000)
    sent = dict.fromkeys("abc", 0)
    for _ in range(300):
        for name in "abc":
            try:
                network.publish(name, f"t/{name}", bytes(30_000) + b"%08d" % sent[name], **KEPT)
                sent[name] += 1
            except MeshFull:
                pass
        network.run(10)
    network.run(30_000)
    for name in "abc":
        assert len(network.payloads(name)) == sum(sent.values())


def test_bulk_is_not_starved_by_what_is_more_urgent():
    network = Network("ab", [("a", "b")])
    network.run(1_000)
    narrow(network, "a", "b", 20_000)
    for number in range(40):
        network.publish("a", "bulk", b"%d" % number, qos=1, priority=4)
    for number in range(600):
        network.publish("a", "o", bytes(4_000) + b"%d" % number, qos=1, priority=1)
        if number % 4 == 3:
            network.run(1)
    heard = network.payloads("b")
    last_urgent = max(i for i, p in enumerate(heard) if len(p) > 100)
    assert len(heard) < 640 or last_urgent == len(heard) - 1
    assert sum(len(p) < 100 for p in heard[:last_urgent]) > 0


def test_a_lost_record_costs_no_credit_for_ever():
    network = Network("ab", [("a", "b")], loss=0.2, seed=3)
    network.run(1_000)
    for number in range(600):
        network.publish("a", "t", bytes(20_000) + b"%08d" % number, **KEPT)
        network.run(40)
    network.loss = 0.0
    network.run(10_000)
    assert len(network.payloads("b")) == 600
    assert peer_of(network, "a", "b").credit.may_spend


def test_credit_is_granted_in_steps_and_as_far_as_there_is_room():
    credit = Credit()
    assert not credit.due(PRESSED_BYTES)
    credit.taken_bytes = CREDIT_BYTES
    assert credit.due(PRESSED_BYTES)
    assert not credit.due(100)
    credit.grant(300_000)
    assert credit.granted_bytes == CREDIT_BYTES + 300_000


def test_a_ping_that_lies_gives_no_boundless_credit():
    credit = Credit()
    credit.settle(1 << 60)
    assert credit.taken_bytes == 0


def test_comparing_keeps_pace_with_losses_and_load():
    pace = Pace()
    for round_ in range(1, 9):
        pace.adapt(round_, 0)
    assert (pace.interval_ms, pace.links) == (DIGEST_MS_MIN, DIGEST_LINKS_MAX)
    for _ in range(40):
        pace.adapt(8, 0)
    assert (pace.interval_ms, pace.links) == (DIGEST_MS_MAX, 1)
    pace = Pace()
    pace.adapt(5, PRESSED_BYTES)
    assert pace.interval_ms == DIGEST_MS_MAX


def test_the_limit_of_a_stall_is_the_stated_one():
    network = Network("ab", [("a", "b")])
    network.run(1_000)
    peer = peer_of(network, "a", "b")
    network.conditions.capacity_bytes = 0
    network.publish("a", "t", b"x", **KEPT)
    network.run(STALL_MS - 100)
    assert not peer.suspended
    network.run(200)
    assert peer.suspended
