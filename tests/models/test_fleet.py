"""Devices that pull from each other on virtual time: all complete, few copies from the publisher, chains that are
pipes, restarts that cost nothing, and liars."""

from itertools import combinations, pairwise
from random import Random

import pytest

from agent.models.content import content_of
from agent.models.limits import MODEL_BYTES_MAX, PATIENCE_FIRST_NS
from tests.models.virtual_fleet import MS, Decliner, Fleet, Liar, S, Silent

MODEL = Random(1).randbytes(4_000_000)
CONTENT = content_of(MODEL)
SMALL = Random(2).randbytes(700_001)
MB = 1_000_000
NAMES = [f"d{number}" for number in range(10)]
RING = [*pairwise(NAMES), (NAMES[0], NAMES[-1])]
NEAR = [(NAMES[i], NAMES[(i + step) % 10]) for i in range(10) for step in (1, 2, 3)]
FULL = list(combinations(NAMES, 2))


def fleet(edges, names=NAMES, *, data=MODEL, bandwidth=10 * MB, **options):
    """The first device has everything, the others nothing; all begin at once."""
    content = CONTENT if data is MODEL else content_of(data)
    fleet = Fleet(content, data, [], edges, bandwidth=bandwidth, **options)
    fleet.boot(names[0], fleet.everything())
    for name in names[1:]:
        fleet.boot(name)
    return fleet


def all_whole(fleet):
    return lambda: all(device.puller.whole for device in fleet.devices.values())


def run(fleet):
    """To the end; the seconds until each had everything."""
    fleet.run(all_whole(fleet))
    return {name: device.whole_ns / S for name, device in fleet.devices.items()}


def counted(fleet, what):
    return sum(getattr(d.puller.statistics(fleet.now_ns), what) for d in fleet.devices.values())


@pytest.mark.parametrize(
    ("edges", "options"),
    [
        (RING, {}),
        (NEAR, {}),
        (FULL, {}),
        (FULL, {"latency_ms": 20}),
        (FULL, {"uplink": dict.fromkeys(NAMES, 10 * MB)}),
        (FULL, {"uplink": dict.fromkeys(NAMES, 10 * MB) | {"d0": 2 * MB}}),
        (FULL, {"bandwidth": {"*": 2 * MB} | {("d0", name): 50 * MB for name in NAMES}}),
        (NEAR, {"uplink": dict.fromkeys(NAMES, 500_000)}),
    ],
    ids=["ring", "near", "full", "far", "uplinks", "slow-first", "fast-first", "radio"],
)
def test_ten_devices_have_it_all_and_the_first_uploads_three_copies_at_most(edges, options):
    flock = fleet(edges, **options)
    run(flock)
    assert flock.devices["d0"].uploaded <= 3 * CONTENT.count
    assert counted(flock, "twice") == counted(flock, "late") == counted(flock, "wrong") == 0
    assert all(d.fetched == CONTENT.count for d in list(flock.devices.values())[1:])


@pytest.mark.parametrize("bandwidth", [100 * MB, 2 * MB, 200_000], ids=["wire", "wifi", "radio"])
def test_a_chain_is_a_pipe(bandwidth):
    hop = run(fleet([("d0", "d1")], NAMES[:2], bandwidth=bandwidth))["d1"]
    chain = run(fleet(list(pairwise(NAMES[:5])), NAMES[:5], bandwidth=bandwidth))
    assert chain["d4"] <= 1.5 * hop


def test_a_model_is_paced_on_a_fast_link_and_fills_a_slow_one():
    fast = run(fleet([("d0", "d1")], NAMES[:2], bandwidth=1_000 * MB))["d1"]
    assert 3.0 <= fast <= 3.6
    slow = run(fleet([("d0", "d1")], NAMES[:2], bandwidth=1 * MB, latency_ms=20))["d1"]
    assert slow <= 4 * 1.2


def test_the_largest_model_is_fetched_in_20_s():
    data = bytes(MODEL_BYTES_MAX)
    assert run(fleet([("d0", "d1")], NAMES[:2], data=data, bandwidth=100 * MB))["d1"] <= 21


@pytest.mark.parametrize("edges", [RING, FULL], ids=["ring", "full"])
@pytest.mark.parametrize("killed", ["d1", "d5"])
def test_killed_at_half_and_restarted_it_fetches_nothing_twice(edges, killed):
    flock = fleet(edges)
    flock.run(lambda: flock.devices[killed].fetched >= CONTENT.count // 2)
    dead = flock.kill(killed)
    begun_ns = flock.now_ns
    flock.run(lambda: flock.now_ns > begun_ns + 300 * MS)
    reborn = flock.boot(killed, have=dead.puller.have)
    run(flock)
    assert dead.fetched + reborn.fetched == CONTENT.count
    assert counted(flock, "twice") == 0


def test_the_first_may_die_once_there_is_one_copy_among_the_others():
    flock = fleet(FULL)

    def copied():
        union = 0
        for name in NAMES[1:]:
            union |= flock.devices[name].puller.have
        return union == flock.everything()

    flock.run(copied)
    assert not all(flock.devices[name].puller.whole for name in NAMES[1:])
    flock.kill("d0")
    run(flock)


@pytest.mark.parametrize("kind", [Liar, Silent, Decliner])
@pytest.mark.parametrize("names", [NAMES[:3], NAMES], ids=["three", "ten"])
def test_whoever_lies_is_left_alone_and_delays_nobody_for_long(kind, names):
    honest = run(fleet(list(combinations(names, 2)), names, data=SMALL))
    flock = fleet(list(combinations(names, 2)), names[:-1], data=SMALL)
    flock.boot(names[-1], flock.everything(), kind)
    whole = run(flock)
    # One silence, with the patience that is had for somebody unknown, and what was asked anew then.
    silence_s = PATIENCE_FIRST_NS / 1e9 if kind is Silent else 0.0
    assert max(whole.values()) <= max(honest.values()) + silence_s + 0.5
    if kind is Liar:
        assert counted(flock, "wrong") >= 1
        for name in names[1:-1]:
            statistics = flock.devices[name].puller.statistics(flock.now_ns)
            assert statistics.avoided == (names[-1],) * statistics.wrong


def test_a_liar_stays_one_with_a_new_link():
    flock = fleet([("d0", "d1"), ("d1", "d2")], ["d0", "d1"], data=SMALL, bandwidth=20_000)
    flock.boot("d2", flock.everything(), Liar)
    puller = flock.devices["d1"].puller
    flock.run(lambda: puller.statistics(flock.now_ns).wrong == 1)
    puller.link_down("d2", flock.now_ns)
    puller.link_up("d2", flock.now_ns)
    run(flock)
    assert puller.statistics(flock.now_ns).wrong == 1


def test_a_slow_neighbour_holds_nobody_up():
    speeds = {"*": 10 * MB, ("d2", "d1"): 30_000}
    flock = fleet([("d0", "d1"), ("d1", "d2")], ["d0", "d1"], bandwidth=speeds)
    flock.boot("d2", flock.everything())
    assert run(flock)["d1"] <= 4


def test_a_dead_end_waits_and_goes_on_when_a_link_comes():
    flock = fleet([("d1", "d2")], ["d1"], data=SMALL)
    flock.kill("d1")
    waiting = flock.boot("d2")
    flock.run(lambda: flock.now_ns > 30 * S)
    assert waiting.puller.have == 0
    flock.boot("d1", flock.everything())
    run(flock)
