"""What a hostile or careless neighbour, publisher or clock can cost: bounded work, memory, and no exception."""

from contextlib import closing
from random import Random

import pytest

from broker.mesh.bundle import Header, Message, encode_body, encode_header
from broker.mesh.clock import HybridClock
from broker.mesh.control import Digest, Hello, Want, encode_control
from broker.mesh.events import Changes, Deliver, Misbehaved, OwnBundle, Restored
from broker.mesh.frame import NEVER, encode_bundle, encode_credit, encode_frame
from broker.mesh.limits import (
    CLOCK_MAX,
    INCARNATION_KNOWN_MAX,
    LOG_BUNDLES_MAX,
    MS,
    OPEN_BYTES_MAX,
    RETAINED_BYTES_MAX,
    RETAINED_HARD_FACTOR,
    RETAINED_TOPICS_MAX,
    STREAMS_MAX,
)
from broker.mesh.log import Log, Stored
from broker.mesh.mesh import Mesh, MeshFull
from broker.mesh.retained import Entry, RetainedMap
from broker.store import Store

NOW_NS = 10**12


def alone(restored=None):
    return Mesh(
        "a", Random(1), now_ns=NOW_NS, wall_ms=1_700_000_000_000, restored=restored or Restored()
    )


def met(restored=None, *, known=0, clock=1):
    mesh = alone(restored)
    mesh.link_up("h", NOW_NS)
    say(mesh, Hello(1, "h", 1, known, clock, True))
    return mesh


def say(mesh, control, now_ns=NOW_NS):
    record = control if isinstance(control, bytes) else encode_control(control)
    mesh.receive("h", encode_frame([record]), now_ns)


def digest(*entries, first=True, more=False):
    return Digest(first, True, more, 0, 0, 0, list(entries))


def events(mesh):
    found = []
    while (event := mesh.next_event()) is not None:
        found.append(event)
    return found


def bundle(origin, incarnation, sequence, payload=b"x", **header):
    body, compressed = encode_body([Message(5 << 16, 2, 0, 0, "t", payload)])
    made = Header(
        origin, 5, incarnation, sequence, 1, 5 << 16, 0, len(body), compressed=compressed, **header
    )
    return encode_bundle(encode_header(made), body, NEVER, 0)


def store_boot_and_speak(directory, mesh_of):
    """A mesh on a real store that publishes, twice over a boot: nothing may overflow."""
    for _ in range(2):
        with closing(Store(directory)) as store:
            mesh = mesh_of(store.boot())
            mesh.publish("t", b"x", NOW_NS, qos=1)
            mesh.seal(NOW_NS)
            store.commit(mesh.take_changes())


@pytest.mark.parametrize("clock", [CLOCK_MAX, 2**63 - 1, 2**64 - 1])
def test_a_hello_from_the_end_of_time_is_refused(tmp_path, clock):
    store_boot_and_speak(tmp_path, lambda restored: met(restored, clock=clock))
    assert any(isinstance(event, Misbehaved) for event in events(met(clock=clock)))


@pytest.mark.parametrize("known", [INCARNATION_KNOWN_MAX, 2**32 - 2, 2**64 - 1])
def test_a_hello_cannot_use_up_the_incarnations(tmp_path, known):
    store_boot_and_speak(tmp_path, lambda restored: met(restored, known=known))
    assert met(known=known).incarnation <= INCARNATION_KNOWN_MAX + 1


@pytest.mark.parametrize("number", [2**32, 2**63, 2**64 - 1, -1])
def test_a_digest_of_impossible_positions_is_refused(tmp_path, number):
    def mesh_of(restored):
        mesh = met(restored)
        say(mesh, digest(("x", 5, number, number, 0, 0)))
        say(mesh, digest(("h", 5, 1, 1, number, number)))
        for step in range(200):
            mesh.handle_timer(NOW_NS + step * 100 * MS)
        return mesh

    store_boot_and_speak(tmp_path, mesh_of)


def test_an_incarnation_is_raised_once_in_a_session():
    mesh = met()
    before = mesh.incarnation
    for _ in range(50):
        say(mesh, digest(("a", 5, mesh.incarnation, 10**6, 0, 0)))
    assert before < mesh.incarnation <= before + 1


def test_streams_are_limited_though_digests_name_ever_new_ones():
    mesh = met(Restored(first_boot=False))
    now_ns = NOW_NS
    for wave in range(3):
        for page in range(19):
            rows = [(f"{wave}-{page}-{row}", 5, 1, 5, 1, 5) for row in range(1_000)]
            say(mesh, digest(*rows, first=page == 0, more=True), now_ns)
        say(mesh, digest(first=False), now_ns)
        for _ in range(20):
            now_ns += 1_000 * MS
            mesh._state.peers["h"].heard_ns = now_ns
            mesh.handle_timer(now_ns)
        events(mesh)
    assert mesh.statistics().streams <= STREAMS_MAX


def test_one_request_is_answered_once_however_often_it_names_a_stream():
    mesh = met()
    for _ in range(200):
        mesh.publish("t", b"x", NOW_NS, qos=1)
        mesh.seal(NOW_NS)
    say(mesh, Want([("a", 5, 0, 0, 9, 9)] * 500))
    assert len(mesh._state.peers["h"].serving) == 200


def test_answers_that_nobody_reads_hold_no_bundles():
    mesh = met()
    mesh.receive("h", encode_frame([encode_credit(1 << 40)]), NOW_NS)
    for _ in range(3):
        for _ in range(2_000):
            mesh.publish("t", bytes(9_000), NOW_NS, qos=1)
            mesh.seal(NOW_NS)
            mesh.take_changes()
            mesh.frames_to_send("h", 1 << 20, NOW_NS)
        events(mesh)
        say(mesh, Want([("a", 5, 0, 0, 2**31, 2**62)]))
    assert set(mesh._state.peers["h"].serving.values()) == {None}
    assert mesh.frames_to_send("h", 1 << 20, NOW_NS)


def test_what_the_log_let_go_is_not_kept_for_its_expiry():
    log = Log()
    for sequence in range(1, 3 * LOG_BUNDLES_MAX // 10):
        header = Header("o", 5, 1, sequence, 1, 5, 10**8, 5_000)
        log.add(Stored(header, b"h" * 50, bytes(5_000), NOW_NS + 10**14, 0))
    assert sum(map(len, log._expiry.values())) == len(log)


def test_an_impossible_chain_does_not_hang_the_log():
    log = Log()
    header = Header("o", 5, 1, 1, 1, 5, 0, 1, closes=(1, 3))
    log.add(Stored(header, b"h", b"b", None, 0))
    log.held_after["o", 5] = (1, 1)
    log.lower_floor(("o", 5))
    assert log.held_after["o", 5] == (1, 1)


def test_a_turn_takes_so_many_bytes_and_no_more_local_ones_included():
    mesh = alone()
    for _ in range(OPEN_BYTES_MAX // 100_100):
        mesh.publish("local/x", bytes(100_000), NOW_NS, local=True)
    with pytest.raises(MeshFull, match="in one turn"):
        mesh.publish("local/x", bytes(100_000), NOW_NS, local=True)
    mesh.seal(NOW_NS)
    mesh.publish("local/x", bytes(100_000), NOW_NS, local=True)


def test_a_forged_own_bundle_does_not_swallow_what_the_origin_says():
    mesh = met(Restored(first_boot=False))
    say(mesh, bundle("a", 99, 1, closes_lost=True))
    mesh.publish("t", b"real", NOW_NS, qos=1)
    mesh.seal(NOW_NS)
    delivered = [m.payload for e in events(mesh) if isinstance(e, Deliver) for m in e.messages]
    assert b"real" in delivered


def test_deletions_of_what_is_not_there_push_out_no_values():
    mesh = alone()
    mesh.publish("keep", b"v", NOW_NS, qos=1, retained=True)
    for number in range(RETAINED_TOPICS_MAX * RETAINED_HARD_FACTOR + 5):
        mesh.publish(f"d/{number}", b"", NOW_NS, qos=1, retained=True)
        if number % 1_000 == 0:
            mesh.seal(NOW_NS)
            mesh.take_changes()
            events(mesh)
    assert mesh.retained.get("keep").payload == b"v"
    assert len(mesh.retained) <= RETAINED_TOPICS_MAX * RETAINED_HARD_FACTOR


def test_the_byte_cap_holds_for_topics_that_grow_and_what_gives_way_is_forgotten():
    held = RetainedMap()
    for number in range(500):
        held.merge(f"{number}", Entry(0, 5, "o", b"x", 1))
    for number in range(500):
        held.merge(f"{number}", Entry(0, 6, "o", bytes(256 * 1024), 1))
    assert held._bytes <= RETAINED_BYTES_MAX * RETAINED_HARD_FACTOR
    gone = {topic for topic in held.take_evicted() if topic not in held}
    assert len(gone) == 500 - len(held)
    assert held.take_evicted() == []


def test_full_of_tombstones_a_map_takes_values():
    held = RetainedMap()
    for number in range(RETAINED_TOPICS_MAX * RETAINED_HARD_FACTOR):
        held.merge(f"d/{number}", Entry(0, 5 + number, "o", b"", 1))
    assert held.has_room("new", b"v")
    assert held.merge("new", Entry(0, 1, "o", b"v", 1))
    assert held.take_evicted() == ["d/0"]


def test_changes_that_could_not_be_stored_take_in_the_newer_ones():
    older = Changes(
        own=[OwnBundle(3, (1, 1), b"", b"")], passed={("x", 3): (1, 1), ("y", 3): (1, 1)}
    )
    older.absorb(
        Changes(clock_bound=7, own=[OwnBundle(3, (1, 2), b"", b"")], passed={("x", 3): (1, 2)})
    )
    assert [own.position for own in older.own] == [(1, 1), (1, 2)]
    assert older.passed == {("x", 3): (1, 2), ("y", 3): (1, 1)}
    assert older.clock_bound == 7
    older.absorb(Changes(incarnation=9, own_replaced=True, own=[OwnBundle(3, (9, 1), b"", b"")]))
    assert [own.position for own in older.own] == [(9, 1)]


def test_a_clock_before_1970_still_counts_up():
    clock = HybridClock()
    clock.set_wall(-5_000, NOW_NS, synchronised=False)
    assert 0 < clock.tick(NOW_NS) < clock.tick(NOW_NS)
