"""Who is up, who is lost, and who answers."""

from typing import NamedTuple

from agent.messages import Status
from agent.presence import Presence


class World(NamedTuple):
    status: dict
    living: tuple = ()

    def alive(self, now_ns):
        return self.living


def status(state, incarnation=1, refutation=0, by="b"):
    return Status(state=state, incarnation=incarnation, refutation=refutation, at_ms=0, by=by)


def never(incarnation):
    raise AssertionError(f"it would go above {incarnation}")


def test_a_silent_former_neighbour_is_called_lost_once():
    presence = Presence("a", lambda: 1, never)
    world = World({"b": status("up", 3, 2)})
    ((name, lost),) = presence.lost({"b"}, world, 0, 5)
    assert name == "b"
    assert lost == Status(state="lost", incarnation=3, refutation=2, at_ms=5, by="a")
    assert presence.lost({"b"}, world, 1, 6) == []


def test_its_next_life_can_be_lost_again():
    presence = Presence("a", lambda: 1, never)
    presence.lost({"b"}, World({"b": status("up", 3)}), 0, 0)
    assert presence.lost({"b"}, World({"b": status("up", 4)}), 0, 0)


def test_the_living_the_gone_and_the_unknown_are_not_called_lost():
    presence = Presence("a", lambda: 1, never)
    known = {"b": status("up"), "c": status("down"), "d": status("lost")}
    assert presence.lost({"b", "c", "d", "e"}, World(known, ("b",)), 0, 0) == []


def test_a_device_refutes_its_own_loss_above_what_was_said():
    presence = Presence("b", lambda: 3, never)
    answer = presence.refute(status("lost", 3, 4, by="a"), 9)
    assert answer == Status(state="up", incarnation=3, refutation=5, at_ms=9, by="b")
    assert presence.say("down", 10).refutation == 5


def test_what_is_believed_of_an_earlier_life_or_nothing_at_all_is_put_right():
    presence = Presence("b", lambda: 3, never)
    for believed in (status("down", 2), status("lost", 2), status("up", 2), None):
        assert presence.refute(believed, 0) == presence.say("up", 0)
    assert presence.refute(status("up", 3), 0) is None


class Life:
    """A mesh that goes above what it is told of, as far as there is anything above."""

    def __init__(self, incarnation):
        self.incarnation = incarnation

    def rise_above(self, incarnation):
        self.incarnation = max(self.incarnation, incarnation + 1)


def test_what_is_said_of_a_life_that_it_has_not_had_takes_one_above():
    """A lost disk, or a lie that it could not deny otherwise."""
    life = Life(6)
    presence = Presence("b", lambda: life.incarnation, life.rise_above)
    answer = presence.refute(status("lost", 1_001, 3, by="a"), 0)
    assert (answer.state, answer.incarnation) == ("up", 1_002)
    assert presence.refute(answer, 0) is None


def test_what_leaves_no_room_to_deny_it_takes_a_life_above():
    life = Life(6)
    presence = Presence("b", lambda: life.incarnation, life.rise_above)
    answer = presence.refute(status("lost", 6, 2**24 - 1, by="a"), 0)
    assert (answer.state, answer.incarnation, answer.refutation) == ("up", 7, 0)
