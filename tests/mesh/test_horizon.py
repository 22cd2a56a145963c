"""Away for longer than deletions are remembered: nothing deleted comes back, and nobody erases what another stands for.

Wall clocks jump by eleven days here, so that no million timers run.
"""

from collections import Counter
from random import Random

import pytest

from broker.mesh.clock import LOGICAL_BITS
from broker.mesh.horizon import Horizon, horizon_of
from broker.mesh.limits import MS, TOMBSTONE_MS
from sim.network import Network

DAY_MS = 24 * 3600 * 1000
LINE = [("a", "b"), ("b", "c"), ("c", "d")]


def fleet(names="abcd", edges=None):
    """Devices that have been running for a long while: none is stale."""
    network = Network(names, edges or [*LINE, ("a", "d")])
    network.run(3_500)
    for name in names:
        network.publish(name, f"boot/{name}", b"1", qos=1, retained=True)
        network.run(50)
        network.kill(name)
        network.devices[name].disk.settle()
        network.restart(name)
        network.run(1_500)
    network.run(3_000)
    assert not any(stale(network, name) for name in names)
    return network


def stale(network, name):
    return network.devices[name].mesh._state.horizon.stale


def days_pass(network, days=11):
    for name, device in network.devices.items():
        network.set_wall_clock(
            name, skew_ms=device.wall_skew_ms + days * DAY_MS, synchronised=device.synchronised
        )
    network.run(3_000)


def counters(network, name):
    return Counter(network.devices[name].mesh.statistics().counters)


def values(network, prefix="x"):
    """By running device: its values whose topics begin so."""
    return {
        name: {t: p for t, p in network.retained(name).items() if t.startswith(prefix)}
        for name, device in network.devices.items()
        if device.mesh
    }


def everywhere(network, expected):
    assert values(network) == dict.fromkeys(values(network), expected)
    held = [dict(d.mesh.retained.items()) for d in network.devices.values() if d.mesh]
    assert all(each == held[0] for each in held)


@pytest.mark.parametrize(("writer", "deleter"), [("a", "b"), ("c", "c"), ("d", "b"), ("d", "a")])
def test_a_device_away_too_long_brings_nothing_back(writer, deleter):
    network = fleet()
    network.publish(writer, "x", b"old", qos=1, retained=True)
    network.publish(writer, "x/kept", b"kept", qos=1, retained=True)
    network.run(500)
    network.kill("d")
    network.publish(deleter, "x", b"", qos=1, retained=True)
    network.run(500)
    days_pass(network)
    assert network.devices["b"].mesh.retained.get("x") is None
    network.restart("d")
    network.run(3_000)
    everywhere(network, {"x/kept": b"kept"})
    assert counters(network, "d")["retained_dropped"] == 1
    assert "x" not in network.devices["d"].disk._content.retained
    assert [p for _, _, t, p, _ in network.devices["d"].heard if t == "x"][-1] == b""
    assert not stale(network, "d")
    for name in "abc":
        assert counters(network, name)["retained_asserted"] == 0
        after = network.devices[name].heard[-1][1]
        assert not [row for row in network.devices[name].heard if row[1] > after and row[2] == "x"]


def test_what_was_published_just_before_a_long_absence_does_not_undo_a_deletion():
    network = fleet()
    network.publish("a", "x", b"1", qos=1, retained=True)
    network.run(500)
    network.partition([("c", "d"), ("a", "d")])
    network.publish("d", "x", b"2", qos=1, retained=True)
    network.kill("d")
    network.publish("a", "x", b"", qos=1, retained=True)
    days_pass(network)
    network.restart("d")
    network.heal()
    network.run(3_000)
    everywhere(network, {})


def test_two_halves_keep_what_their_living_origins_stand_for():
    network = fleet()
    network.publish("b", "x/before", b"0", qos=1, retained=True)
    network.run(500)
    network.partition([("b", "c"), ("a", "d")])
    network.publish("a", "x/left", b"1", qos=1, retained=True, rank=3)
    network.publish("c", "x/right", b"2", qos=0, retained=True)
    network.publish("d", "x/gone", b"3", qos=1, retained=True)
    network.run(500)
    network.publish("d", "x/gone", b"", qos=1, retained=True)
    network.run(500)
    days_pass(network)
    network.heal()
    network.run(3_000)
    everywhere(network, {"x/before": b"0", "x/left": b"1", "x/right": b"2"})
    asserted = {name: counters(network, name)["retained_asserted"] for name in "abcd"}
    assert asserted == {"a": 1, "b": 0, "c": 1, "d": 0}
    again = network.devices["d"].mesh.retained.get("x/left")
    assert (again.rank, again.origin, again.qos) == (3, "a", 1)


@pytest.mark.parametrize("alive", [True, False])
def test_a_challenge_travels_over_relays_to_the_origin(alive):
    network = fleet("abcd", LINE)
    network.partition([("c", "d")])
    network.publish("a", "x", b"1", qos=1, retained=True)
    network.run(500)
    if not alive:
        network.kill("a")
    days_pass(network)
    network.heal()
    network.run(4_000)
    everywhere(network, {"x": b"1"} if alive else {})
    if not alive:
        network.restart("a")
        network.run(4_000)
        everywhere(network, {})
        assert counters(network, "a")["retained_dropped"] == 1


def test_a_device_away_too_long_does_not_erase_what_was_written_meanwhile():
    network = fleet()
    network.kill("d")
    network.publish("c", "x", b"1", qos=1, retained=True)
    network.run(500)
    network.kill("c")
    days_pass(network)
    network.restart("d")
    network.run(3_000)
    everywhere(network, {"x": b"1"})


def test_a_newcomer_erases_nothing_old():
    network = fleet()
    network.publish("d", "x", b"1", qos=1, retained=True)
    network.run(500)
    network.kill("d", disk_lost=True)
    days_pass(network)
    network.restart("d")
    assert stale(network, "d")
    network.run(3_000)
    everywhere(network, {"x": b"1"})
    assert not stale(network, "d")
    network.partition([("b", "c"), ("a", "b")])
    network.heal()
    network.run(3_000)
    everywhere(network, {"x": b"1"})


def test_a_newcomer_that_is_killed_while_it_learns_erases_nothing():
    network = fleet("abc", [("a", "b"), ("b", "c")])
    for number in range(3_000):
        network.devices["a"].mesh.publish(
            f"x/{number}", bytes(200), network.now_ns, qos=0, retained=True
        )
    network.turn("a")
    network.run(500)
    network.kill("c", disk_lost=True)
    network.kill("a")
    days_pass(network)
    network.conditions.capacity_bytes = 100_000
    network.restart("c")
    learnt = network.devices["c"].disk._content.retained
    while not 500 < len(learnt) < 2_500:
        network.run(1)
        assert len(learnt) < 2_500
    network.kill("c")
    network.restart("c")
    assert stale(network, "c")
    network.run(3_000)
    assert len(values(network)["b"]) == len(values(network)["c"]) == 3_000


def test_a_fleet_that_was_stored_away_resumes_as_it_was():
    network = fleet()
    network.publish("a", "x/one", b"1", qos=1, retained=True)
    network.publish("b", "x/two", b"1", qos=1, retained=True)
    network.run(500)
    network.partition([("a", "d"), ("c", "d")])
    network.publish("a", "x/two", b"", qos=1, retained=True)
    network.run(500)
    for name in "abcd":
        network.kill(name)
    days_pass(network)
    network.cut.clear()
    for name in "dabc":
        network.restart(name)
    network.run(4_000)
    everywhere(network, {"x/one": b"1"})


@pytest.mark.parametrize("synchronised", [True, False])
def test_a_clock_far_ahead_erases_nothing(synchronised):
    network = fleet()
    network.partition([("a", "d"), ("c", "d")])
    network.publish("c", "x", b"1", qos=0, retained=True)
    network.run(500)
    network.kill("c")
    network.set_wall_clock("d", skew_ms=11 * DAY_MS, synchronised=synchronised)
    network.run(3_000)
    network.heal()
    network.run(4_000)
    assert network.devices["d"].mesh.retained.floor > network.devices["a"].mesh.retained.floor
    everywhere(network, {"x": b"1"})


def test_a_stale_device_forgets_no_deletions_before_it_has_met_the_fleet():
    network = fleet()
    network.publish("a", "x", b"1", qos=1, retained=True)
    network.run(500)
    network.publish("a", "x", b"", qos=1, retained=True)
    network.run(500)
    network.kill("d")
    days_pass(network)
    network.partition([("a", "d"), ("c", "d")])
    network.restart("d")
    network.run(3_000)
    assert network.devices["d"].mesh.retained.get("x").payload == b""
    network.heal()
    network.run(3_000)
    assert network.devices["d"].mesh.retained.get("x") is None
    everywhere(network, {})


@pytest.mark.parametrize("old", [5, 1])
def test_what_was_evicted_is_not_asserted_and_fetched_for_ever(monkeypatch, old):
    monkeypatch.setattr("broker.mesh.retained.RETAINED_TOPICS_MAX", 30)
    monkeypatch.setattr("broker.mesh.retained.RETAINED_HARD_FACTOR", 1)
    network = fleet()
    for number in range(old):
        network.publish("a", f"x/old/{number}", b"1", qos=1, retained=True)
    network.run(500)
    days_pass(network)
    network.partition([("b", "c"), ("a", "d")])
    for number in range(20):
        network.publish("a", f"x/left/{number}", b"1", qos=number % 2, retained=True)
        network.publish("d", f"x/right/{number}", b"1", qos=number % 2, retained=True)
    network.run(500)
    network.heal()
    network.run(10_000)
    everywhere(network, values(network)["a"])
    assert len(network.devices["a"].mesh.retained) == 30
    assert counters(network, "a")["retained_evicted"] >= 4 + old
    before = [counters(network, name) for name in "abcd"]
    network.run(20_000)
    for name, earlier in zip("abcd", before, strict=True):
        later = counters(network, name)
        for what in ("reconciliations", "retained_evicted", "retained_asserted", "reconciled"):
            assert later[what] == earlier[what]


def test_deletions_made_during_a_partition_stay_at_qos_0_too():
    network = fleet()
    for number in range(20):
        network.publish("a", f"x/{number}", b"1", qos=number % 3, retained=True)
    network.run(500)
    network.partition([("b", "c"), ("a", "d")])
    for number in range(0, 20, 2):
        network.publish("d", f"x/{number}", b"", qos=number % 3, retained=True)
    network.run(500)
    network.heal()
    network.run(1_000)
    everywhere(network, {f"x/{number}": b"1" for number in range(1, 20, 2)})


@pytest.mark.parametrize("seed", range(12))
def test_whoever_sleeps_however_long_the_newest_word_stands(seed):
    random = Random(seed)
    network = fleet()
    newest = {}
    for step in range(25):
        down = [name for name, device in network.devices.items() if device.mesh is None]
        up = [name for name in "abcd" if name not in down]
        draw = random.random()
        if draw < 0.6:
            topic = f"x/{random.randint(0, 4)}"
            newest[topic] = b"" if random.random() < 0.4 else b"%d" % step
            qos = random.randint(0, 2)
            network.publish(random.choice(up), topic, newest[topic], qos=qos, retained=True)
        elif draw < 0.75 and len(up) > 1:
            network.kill(random.choice(up), disk_lost=random.random() < 0.2)
        elif draw < 0.9 and down:
            network.restart(random.choice(down))
            network.run(3_000)
        else:
            days_pass(network, random.choice([1, 5, 11]))
        network.run(1_500)
    for name in sorted(name for name, device in network.devices.items() if device.mesh is None):
        network.restart(name)
        network.run(5_000)
    everywhere(network, {topic: payload for topic, payload in newest.items() if payload})


HOUR = 3600 * 1000 << LOGICAL_BITS
LONG = TOMBSTONE_MS << LOGICAL_BITS


def test_the_horizon_moves_by_the_full_hour():
    assert horizon_of(LONG + HOUR - 1) == 0
    assert horizon_of(LONG + HOUR) == HOUR
    assert horizon_of(5) == 0


NOW = 2 * LONG
DAY = DAY_MS << LOGICAL_BITS


def is_stale(horizon, clock, up_days=0):
    horizon.floor(clock, up_days * DAY_MS * MS)
    return horizon.stale


def test_a_device_is_stale_by_the_time_it_was_off_not_by_the_time_it_is_up():
    assert not is_stale(Horizon(0, NOW - LONG, 0), NOW)
    away = Horizon(0, NOW - LONG - HOUR, 0)
    assert is_stale(away, NOW)
    assert is_stale(away, NOW + 9 * DAY, up_days=9)
    assert not is_stale(away, NOW + 11 * DAY, up_days=11)
    recent = Horizon(0, NOW - DAY, 0)
    assert not is_stale(recent, NOW + 12 * DAY, up_days=12)


def test_a_device_that_boots_in_1970_is_judged_when_its_clock_comes_right():
    away = Horizon(0, DAY, 0)
    assert not is_stale(away, DAY)
    assert is_stale(away, DAY + NOW)


def test_the_days_of_a_new_fleet_count_over_reboots():
    new = Horizon(None, 0, 0)
    assert is_stale(new, NOW)
    since = new.store()
    assert new.store() is None
    assert is_stale(Horizon(since, NOW + 4 * DAY, 0), NOW + 5 * DAY)
    assert not is_stale(Horizon(since, NOW + 10 * DAY, 0), NOW + 11 * DAY)
    slept = Horizon(since, NOW + 4 * DAY, 0)
    assert is_stale(slept, NOW + 15 * DAY)
    assert slept.store() > since


def test_a_stale_device_settles_only_with_one_that_is_not():
    horizon = Horizon(None, 0, 0)
    assert horizon.floor(NOW, 0) == 0
    horizon.agree(0, NOW)
    assert is_stale(horizon, NOW)
    horizon.agree(horizon_of(NOW) - HOUR, NOW)
    assert horizon.floor(NOW, 0) == horizon_of(NOW)
    assert not horizon.stale
    assert horizon.store() == 0
