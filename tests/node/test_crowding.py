"""When turns wait for each other: only where they come thick and bring little, and only while it pays."""

from broker.crowding import FEW, STREAK_MIN, Crowding

TURN_NS = 50_000


class Turns:
    """Turns of one length, one after the other."""

    def __init__(self) -> None:
        self.crowding = Crowding()
        self._now_ns = 1_000_000_000
        self.run(1, between_ns=1_000_000)

    def run(self, count: int, *, between_ns: int, messages: int = 1) -> int:
        """End so many turns; returns how many of the next ones were to pause."""
        pauses = 0
        for _ in range(count):
            self._now_ns += between_ns
            began_ns, self._now_ns = self._now_ns, self._now_ns + TURN_NS
            self.crowding.turn_ended(began_ns, self._now_ns, messages)
            pauses += self.crowding.pauses
        return pauses


def test_a_quiet_device_never_waits() -> None:
    assert Turns().run(10_000, between_ns=TURN_NS + 1) == 0


def test_turns_that_bring_much_never_wait() -> None:
    assert Turns().run(10_000, between_ns=0, messages=FEW) == 0


def test_thick_turns_that_bring_little_wait_after_a_streak() -> None:
    turns = Turns()
    assert turns.run(STREAK_MIN - 1, between_ns=10_000) == 0
    turns.run(1, between_ns=10_000)
    assert turns.crowding.pauses


def test_one_quiet_moment_breaks_the_streak() -> None:
    turns = Turns()
    turns.run(STREAK_MIN - 1, between_ns=10_000)
    turns.run(1, between_ns=1_000_000)
    assert turns.run(STREAK_MIN - 1, between_ns=10_000) == 0


def test_pauses_go_on_while_they_pay() -> None:
    turns = Turns()
    turns.run(STREAK_MIN, between_ns=10_000)
    assert turns.run(1_000, between_ns=1_000_000, messages=20) == 1_000
    turns.run(1, between_ns=1_000_000, messages=FEW - 1)
    assert not turns.crowding.pauses


def test_pauses_that_bring_nothing_become_rare() -> None:
    turns = Turns()
    pauses = turns.run(100_000, between_ns=10_000)
    assert 0 < pauses < 100_000 // 1_000
