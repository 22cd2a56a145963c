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


def test_a_silent_former_neighbour_is_called_lost_once():
    presence = Presence("a", lambda: 1)
    world = World({"b": status("up", 3, 2)})
    ((name, lost),) = presence.lost({"b"}, world, 0, 5)
    assert name == "b"
    assert lost == Status(state="lost", incarnation=3, refutation=2, at_ms=5, by="a")
    assert presence.lost({"b"}, world, 1, 6) == []


def test_its_next_life_can_be_lost_again():
    presence = Presence("a", lambda: 1)
    presence.lost({"b"}, World({"b": status("up", 3)}), 0, 0)
    assert presence.lost({"b"}, World({"b": status("up", 4)}), 0, 0)


def test_the_living_the_gone_and_the_unknown_are_not_called_lost():
    presence = Presence("a", lambda: 1)
    known = {"b": status("up"), "c": status("down"), "d": status("lost")}
    assert presence.lost({"b", "c", "d", "e"}, World(known, ("b",)), 0, 0) == []


def test_a_device_refutes_its_own_loss_above_what_was_said():
    presence = Presence("b", lambda: 3)
    answer = presence.refute(status("lost", 3, 4, by="a"), 9)
    assert answer == Status(state="up", incarnation=3, refutation=5, at_ms=9, by="b")
    assert presence.say("down", 10).refutation == 5


def test_what_is_believed_of_an_earlier_life_or_nothing_at_all_is_put_right():
    presence = Presence("b", lambda: 3)
    for believed in (status("down", 2), status("lost", 2), status("up", 2), None):
        assert presence.refute(believed, 0) == presence.say("up", 0)
    assert presence.refute(status("up", 3), 0) is None


def test_a_device_speaks_in_the_incarnation_that_it_has_now():
    incarnation = 6
    presence = Presence("b", lambda: incarnation)
    assert presence.refute(status("down", 1_001), 0).incarnation == 6
    incarnation = 1_002
    assert presence.refute(status("down", 1_001), 0).incarnation == 1_002
