"""How much work one neighbour may cause within a while.

Decides when questions have become a fault. Everything that a neighbour says is bounded by what its link carries; what
it asks for is not: a few bytes can name a whole log. So each question is charged what answering it costs, and a
neighbour that goes on beyond its allowance has sent a bad frame.

Assumes that honest neighbours stay far below: limits.py says by how much.
"""

from __future__ import annotations

from broker.mesh.frame import FrameInvalid
from broker.mesh.limits import MS

__all__ = ["Allowance"]


class Allowance:
    """Steps of work within a window of time.

    Args:
        steps_max: How many.
        window_ms: Within how long.
        now_ns: When the first window begins.
    """

    __slots__ = ("_since_ns", "_steps", "_steps_max", "_window_ns")

    def __init__(self, steps_max: int, window_ms: int, now_ns: int) -> None:
        self._steps_max = steps_max
        self._window_ns = window_ms * MS
        self._since_ns = now_ns
        self._steps = 0

    def charge(self, steps: int, what: str, now_ns: int) -> None:
        """Note work that was asked for.

        Raises:
            FrameInvalid: It is more than the allowance.
        """
        if now_ns - self._since_ns >= self._window_ns:
            self._since_ns, self._steps = now_ns, 0
        self._steps += steps
        if self._steps > self._steps_max:
            raise FrameInvalid(f"{what} without end")
