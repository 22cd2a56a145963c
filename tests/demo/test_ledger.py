"""The book: what is delivered, missing, duplicated, late, healed; told in every awkward order."""

import pytest

from agent.demo.ledger import Ledger

MS = 1_000_000
S = 1_000 * MS
DEVICES = ("a", "b", "c")
TTL_NS = 60 * S


def book(linked_ns=0):
    ledger = Ledger(DEVICES, TTL_NS)
    ledger.linked(linked_ns)
    return ledger


def publish(ledger, key, at_ns, origin="a"):
    ledger.acknowledged(key, origin, at_ns, at_ns + MS)


def deliver(ledger, key, at_ns, *devices, origin="a", rebuild=False):
    for device in devices:
        ledger.applied(device, key, origin, at_ns, rebuild=rebuild)


def link(ledger, a, b, at_ns, *, up=True):
    ledger.link_changed(a, b, at_ns, up=up)
    ledger.link_changed(b, a, at_ns, up=up)


def counts(ledger):
    return ledger.published, ledger.delivered, ledger.missing(), ledger.duplicated, ledger.rebuilt


def test_everything_arrives():
    ledger = book()
    publish(ledger, "a/1", 1 * S)
    deliver(ledger, "a/1", 1 * S + 3 * MS, "b", "c")
    ledger.finish(2 * S)
    assert counts(ledger) == (1, 2, 0, 0, 0)
    assert ledger.latency.count == 2
    assert ledger.latency.percentile_ms(50) == pytest.approx(3, rel=0.01)
    assert ledger.late.count == 0


def test_a_delivery_may_be_told_before_its_publish():
    ledger = book()
    deliver(ledger, "a/1", 1 * S + 3 * MS, "b")
    assert ledger.published_ns("a/1") is None
    publish(ledger, "a/1", 1 * S)
    deliver(ledger, "a/1", 1 * S + 4 * MS, "c")
    ledger.finish(2 * S)
    assert counts(ledger) == (1, 2, 0, 0, 0)
    assert ledger.latency.count == 2


def test_what_was_never_acknowledged_is_owed_to_nobody():
    ledger = book()
    deliver(ledger, "a/1", 1 * S, "b")
    ledger.finish(2 * S)
    assert counts(ledger) == (0, 1, 0, 0, 0)
    assert ledger.latency.count == ledger.late.count == 0


def test_missing_counts_each_device_that_lacks_it():
    ledger = book()
    publish(ledger, "a/1", 1 * S)
    publish(ledger, "b/1", 1 * S, origin="b")
    deliver(ledger, "b/1", 1 * S, "a", origin="b")
    assert ledger.missing() == 3
    assert ledger.expired(2 * S) == 0
    assert ledger.expired(1 * S + TTL_NS) == 3


def test_twice_as_news_is_a_duplicate_and_memory_is_not():
    ledger = book()
    publish(ledger, "a/1", 1 * S)
    deliver(ledger, "a/1", 2 * S, "b", "c")
    deliver(ledger, "a/1", 3 * S, "b", rebuild=True)
    assert counts(ledger) == (1, 2, 0, 0, 1)
    deliver(ledger, "a/1", 4 * S, "b")
    assert counts(ledger) == (1, 2, 0, 1, 1)


def test_news_in_two_lives_is_a_duplicate():
    ledger = book()
    publish(ledger, "a/1", 1 * S)
    deliver(ledger, "a/1", 2 * S, "b", "c")
    ledger.over(ledger.killed("b", 3 * S), 4 * S)
    deliver(ledger, "a/1", 5 * S, "b")
    assert ledger.duplicated == 1


@pytest.mark.parametrize("rebuild", [False, True])
def test_a_killed_device_may_have_it_in_either_life(rebuild):
    ledger = book()
    publish(ledger, "a/1", 1 * S)
    deliver(ledger, "a/1", 1 * S, "c")
    ledger.over(ledger.killed("b", 2 * S), 3 * S)
    assert ledger.missing() == 1
    deliver(ledger, "a/1", 4 * S, "b", rebuild=rebuild)
    assert ledger.missing() == 0


def test_a_killed_device_that_had_it_before_is_owed_nothing():
    ledger = book()
    publish(ledger, "a/1", 1 * S)
    deliver(ledger, "a/1", 1 * S, "b", "c")
    fault = ledger.killed("b", 2 * S)
    ledger.over(fault, 3 * S)
    ledger.finish(9 * S)
    assert ledger.missing() == 0
    assert ledger.healed_ms(fault) is None  # its memory has not come back


class TestHealing:
    def test_of_a_cut_is_the_last_delivery_of_what_was_acknowledged_before_its_end(self):
        ledger = book()
        publish(ledger, "a/old", 1 * S)
        deliver(ledger, "a/old", 1 * S, "b", "c")
        fault = ledger.cut(frozenset("c"), 2 * S)
        publish(ledger, "a/cut", 3 * S)
        deliver(ledger, "a/cut", 3 * S, "b")
        publish(ledger, "c/cut", 4 * S, origin="c")
        ledger.over(fault, 5 * S)
        deliver(ledger, "a/cut", 5 * S + 300 * MS, "c")
        deliver(ledger, "c/cut", 5 * S + 200 * MS, "a", "b", origin="c")
        publish(ledger, "a/new", 6 * S)
        ledger.finish(9 * S)
        assert ledger.healed_ms(fault) == 300

    def test_is_none_while_somebody_lacks_something(self):
        ledger = book()
        fault = ledger.cut(frozenset("c"), 2 * S)
        publish(ledger, "a/cut", 3 * S)
        deliver(ledger, "a/cut", 3 * S, "b")
        assert ledger.healed_ms(fault) is None
        ledger.over(fault, 5 * S)
        ledger.settle(8 * S)
        assert ledger.healed_ms(fault) is None
        deliver(ledger, "a/cut", 8 * S, "c")
        ledger.settle(9 * S)
        assert ledger.healed_ms(fault) == 3000

    def test_waits_for_records_that_are_under_way(self):
        ledger = book()
        fault = ledger.cut(frozenset("c"), 2 * S)
        ledger.over(fault, 5 * S)
        ledger.settle(5 * S + 100 * MS)
        publish(ledger, "a/cut", 4 * S)
        deliver(ledger, "a/cut", 5 * S + 50 * MS, "b", "c")
        ledger.settle(8 * S)
        assert ledger.healed_ms(fault) == 50

    def test_of_nothing_to_catch_up_takes_no_time(self):
        ledger = book()
        fault = ledger.cut(frozenset("c"), 2 * S)
        ledger.over(fault, 5 * S)
        ledger.finish(9 * S)
        assert ledger.healed_ms(fault) == 0

    def test_of_a_kill_needs_the_memory_of_the_new_life(self):
        ledger = book()
        publish(ledger, "a/1", 1 * S)
        deliver(ledger, "a/1", 1 * S, "b", "c")
        publish(ledger, "b/1", 1 * S, origin="b")
        deliver(ledger, "b/1", 1 * S, "a", "c", origin="b")
        fault = ledger.killed("b", 2 * S)
        publish(ledger, "a/2", 3 * S)
        deliver(ledger, "a/2", 3 * S, "c")
        ledger.over(fault, 5 * S)
        deliver(ledger, "a/1", 5 * S + 700 * MS, "b", rebuild=True)
        deliver(ledger, "a/2", 5 * S + 900 * MS, "b")
        ledger.finish(9 * S)
        assert ledger.healed_ms(fault) == 900

    def test_of_a_kill_needs_what_the_killed_device_had_not_sent_yet(self):
        ledger = book()
        publish(ledger, "b/1", 2 * S - 2 * MS, origin="b")
        fault = ledger.killed("b", 2 * S)
        ledger.over(fault, 5 * S)
        deliver(ledger, "b/1", 5 * S + 800 * MS, "a", "c", origin="b")
        ledger.finish(9 * S)
        assert ledger.healed_ms(fault) == 800

    def test_of_a_later_cut_counts_the_life_that_is_lived_then(self):
        ledger = book()
        publish(ledger, "a/1", 1 * S)
        deliver(ledger, "a/1", 1 * S, "b", "c")
        ledger.over(ledger.killed("b", 2 * S), 3 * S)
        cut = ledger.cut(frozenset("c"), 5 * S)
        ledger.over(cut, 6 * S)
        ledger.settle(9 * S)
        assert ledger.healed_ms(cut) is None
        deliver(ledger, "a/1", 10 * S, "b", rebuild=True)
        ledger.settle(13 * S)
        assert ledger.healed_ms(cut) == 4000

    def test_does_not_ask_for_what_had_expired(self):
        ledger = book()
        publish(ledger, "a/1", 1 * S)
        deliver(ledger, "a/1", 1 * S, "b", "c")
        fault = ledger.killed("b", 60 * S)
        ledger.over(fault, 62 * S)
        ledger.finish(70 * S)
        assert ledger.healed_ms(fault) == 0


class TestLate:
    @pytest.mark.parametrize(
        ("origin", "device", "published_s", "applied_s", "late"),
        [
            ("a", "c", 1.0, 1.5, False),  # before
            ("a", "c", 1.0, 2.5, True),  # on the way when it began
            ("a", "c", 3.0, 5.6, True),  # in it, arrived afterwards
            ("a", "c", 5.1, 5.6, True),  # over, but no link yet
            ("a", "c", 5.6, 5.7, False),  # linked again
            ("a", "b", 3.0, 3.1, False),  # same side
            ("c", "b", 3.0, 5.6, True),  # the other way round
        ],
    )
    def test_is_what_was_published_or_under_way_while_apart(
        self, origin, device, published_s, applied_s, late
    ):
        ledger = book()
        fault = ledger.cut(frozenset("c"), 2 * S)
        link(ledger, "a", "b", 0)
        link(ledger, "a", "c", 0)
        link(ledger, "a", "c", 4 * S, up=False)
        ledger.over(fault, 5 * S)
        link(ledger, "a", "c", int(5.5 * S))
        publish(ledger, "k", int(published_s * S), origin)
        deliver(ledger, "k", int(applied_s * S), device, origin=origin)
        ledger.finish(9 * S)
        assert (ledger.late.count, ledger.latency.count) == ((1, 0) if late else (0, 1))
        if late:
            assert ledger.late.max_ns == int(applied_s * S) - int(published_s * S)

    def test_ends_with_the_cut_when_a_link_lived_through_it(self):
        ledger = book()
        link(ledger, "a", "c", 0)
        fault = ledger.cut(frozenset("c"), 2 * S)
        ledger.over(fault, 5 * S)
        publish(ledger, "k", 5 * S + MS)
        deliver(ledger, "k", 5 * S + 2 * MS, "c")
        ledger.finish(9 * S)
        assert ledger.latency.count == 1

    def test_after_a_kill_ends_with_the_first_new_link(self):
        ledger = book()
        link(ledger, "a", "c", 0)
        fault = ledger.killed("c", 2 * S)  # a has not noticed yet
        ledger.over(fault, 5 * S)
        publish(ledger, "k1", 5 * S + MS)
        deliver(ledger, "k1", 7 * S, "c")
        link(ledger, "a", "c", 6 * S)
        publish(ledger, "k2", 6 * S + MS)
        deliver(ledger, "k2", 7 * S, "c")
        ledger.finish(9 * S)
        assert (ledger.late.count, ledger.latency.count) == (1, 1)

    def test_lasts_until_all_are_linked_for_the_first_time(self):
        ledger = book(linked_ns=2 * S)
        publish(ledger, "k1", 1 * S)
        publish(ledger, "k2", 3 * S)
        deliver(ledger, "k1", 4 * S, "b")
        deliver(ledger, "k2", 4 * S, "b")
        ledger.finish(9 * S)
        assert (ledger.late.count, ledger.latency.count) == (1, 1)

    def test_memory_has_no_latency(self):
        ledger = book()
        publish(ledger, "k", 1 * S)
        deliver(ledger, "k", 4 * S, "b", rebuild=True)
        ledger.finish(9 * S)
        assert ledger.late.count == ledger.latency.count == 0


def test_the_past_is_forgotten_but_stays_counted():
    ledger = book()
    for second in range(300):
        key = f"a/{second}"
        publish(ledger, key, second * S)
        deliver(ledger, key, second * S + MS, "b")
        ledger.settle(second * S)
    assert ledger.published_ns("a/0") is None
    assert ledger.published_ns("a/299") == 299 * S
    assert counts(ledger) == (300, 300, 300, 0, 0)
    assert ledger.expired(299 * S) == 240
