"""From sightings to obstacle events."""

from agent.messages import Obstacle
from agent.obstacles import BOOT_BITS, OBSTACLES_MAX, ObstacleBook
from agent.sensors.sensor import Sighting

TTL_MS = 10_000


def car(name):
    return Sighting(name, "vehicle", "n", 4.0)


def said(events):
    return [(obstacle, event.state, event.version) for obstacle, event in events]


def test_what_comes_and_goes_is_said_once_each():
    book = ObstacleBook(TTL_MS, lambda: 0)
    assert said(book.see([car("a"), car("b")], 0)) == [("a", "present", 1), ("b", "present", 1)]
    assert said(book.see([car("a"), car("b")], 1_000)) == []
    assert said(book.see([car("b")], 2_000)) == [("a", "gone", 2)]
    assert said(book.see([car("b")], 3_000)) == []


def test_what_stands_is_said_again_at_half_its_lifetime():
    book = ObstacleBook(TTL_MS, lambda: 0)
    book.see([car("a")], 0)
    assert said(book.see([car("a")], 4_999)) == []
    assert said(book.see([car("a")], 5_000)) == [("a", "present", 2)]
    assert book.appeared == 1


def test_one_that_comes_back_counts_on():
    book = ObstacleBook(TTL_MS, lambda: 0)
    book.see([car("a")], 0)
    book.see([], 1_000)
    assert said(book.see([car("a")], 2_000)) == [("a", "present", 3)]


def test_versions_are_forgotten_when_no_event_can_be_alive():
    book = ObstacleBook(TTL_MS, lambda: 0)
    book.see([car("a")], 0)
    book.see([], 1_000)
    book.see([], 1_001 + TTL_MS)
    assert said(book.see([car("a")], 1_002 + TTL_MS)) == [("a", "present", 1)]


def event(state, version):
    return Obstacle(
        kind="vehicle", state=state, approach="n", distance_m=4.0, version=version, at_ms=0, ttl_ms=TTL_MS
    )  # fmt: skip


def test_after_a_restart_the_book_goes_on_where_it_was():
    book = ObstacleBook(TTL_MS, lambda: 0)
    book.remember("a", event("present", 5))
    book.remember("a", event("present", 3))
    book.remember("b", event("gone", 8))
    assert said(book.see([car("b")], 1_000)) == [("b", "present", 9), ("a", "gone", 6)]


def test_there_is_a_limit_to_what_is_in_sight():
    book = ObstacleBook(TTL_MS, lambda: 0)
    crowd = [car(f"c-{number}") for number in range(OBSTACLES_MAX + 10)]
    assert len(book.see(crowd, 0)) == OBSTACLES_MAX


def test_a_new_boot_uses_no_version_twice_though_it_has_not_remembered_yet():
    before = ObstacleBook(TTL_MS, lambda: 3)
    old = [version for _, _, version in said(before.see([car("a")], 0) + before.see([], 1))]
    after = ObstacleBook(TTL_MS, lambda: 4)
    ((_, state, version),) = said(after.see([car("a")], 2))
    assert state == "present"
    assert version == (4 << BOOT_BITS) + 1 > max(old)
    after.remember("a", event("gone", max(old)))
    assert said(after.see([car("a")], 3)) == []
