"""Whether turns come so thick that a pause between them pays.

Decides: when a device spends more time on ending turns than there is between them, and each brings little, the next
waits a moment, so that several messages share one. Every message that leaves alone costs a bundle, a write and a
commit of its own on each device; sharing them is a tenth of that, and without it a queue grows while the processor is
still far from what it can carry (measured: 20,000 a second, 92 us each over three devices, 60 ms late). A lone message
after a quiet moment never waits, and a pause that brought little is not tried again soon.

Assumes that `turn_ended` hears of every turn, on one monotonic clock. On failure: nothing can fail; a wrong guess costs
a millisecond.
"""

from __future__ import annotations

from typing import Final

__all__ = ["PAUSE_S", "Crowding"]

PAUSE_S: Final = 0.001
"""The shortest that the event loop's timers know."""
FEW: Final = 3
"""With so many messages a turn, or a pause, pays for itself. Guess."""
STREAK_MIN: Final = 32
"""So many turns in a row, at 50 us each, are 3 ms of it. Guess."""
STREAK_MAX: Final = 4_096
"""Who publishes, awaits the answer and publishes again gains nothing; a pause in so many turns costs it 1 %."""


class Crowding:
    """What the last turns were like."""

    def __init__(self) -> None:
        self.pauses = False
        """Whether the next turn is to wait for PAUSE_S."""
        self._ended_ns = 0
        self._streak = 0
        self._needed = STREAK_MIN

    def turn_ended(self, began_ns: int, ended_ns: int, messages: int) -> None:
        """Learn of a turn: when it was ended, from and to, and how many messages it brought."""
        between_ns, self._ended_ns = began_ns - self._ended_ns, ended_ns
        if self.pauses:
            self.pauses = messages >= FEW
            self._needed = STREAK_MIN if self.pauses else min(2 * self._needed, STREAK_MAX)
            self._streak = 0
            return
        thick = messages < FEW and between_ns < ended_ns - began_ns
        self._streak = self._streak + 1 if thick else 0
        self.pauses = self._streak >= self._needed
