"""Tells a bridge's own publishes from others', at brokers that send them back; no I/O.

MQTT 3.1.1 has no way to say "not my own". Brokers that know the bridge bit do it all the same; at the others each
publish on a topic that the bridge also subscribes comes back once, in the order of publishing. So a publish is noted
when it is sent, and the next message of the same topic and payload is its echo: counted, not remembered, so a payload
that others repeat comes through as often as they send it.

Known limit: an echo that never comes, since the broker dropped it, swallows the next equal message within ECHO_MS of
the publish; and an equal message that others publish between ours and its echo is taken for the echo, in which case
the echo comes through in its place: the count is right, and nobody can tell them apart.
"""

from __future__ import annotations

from collections import deque
from hashlib import blake2b
from typing import Final

from broker.mesh.limits import MS

__all__ = ["Echoes"]

ECHO_MS: Final = 10_000
"""From a publish to its echo, a slow broker included. Guess."""
ECHOES_MAX: Final = 10_000
"""Noted at once: what a bridge lets wait."""


class Echoes:
    """Own publishes that have not come back."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, bytes], int] = {}
        self._order: deque[tuple[int, tuple[str, bytes]]] = deque()
        self._taken: dict[tuple[str, bytes], int] = {}

    def note(self, topic: str, payload: bytes, now_ns: int) -> None:
        """This was published."""
        self._expire(now_ns)
        key = _key(topic, payload)
        self._counts[key] = self._counts.get(key, 0) + 1
        self._order.append((now_ns, key))
        if len(self._order) > ECHOES_MAX:
            self._forget(self._order.popleft()[1])

    def is_echo(self, topic: str, payload: bytes, now_ns: int) -> bool:
        """Whether this came back; it does so once."""
        self._expire(now_ns)
        key = _key(topic, payload)
        count = self._counts.get(key, 0)
        if not count:
            return False
        self._less(key, count)
        self._taken[key] = self._taken.get(key, 0) + 1
        return True

    def _expire(self, now_ns: int) -> None:
        while self._order and now_ns - self._order[0][0] >= ECHO_MS * MS:
            self._forget(self._order.popleft()[1])

    def _forget(self, key: tuple[str, bytes]) -> None:
        """The oldest note of a key leaves the order: it has come back already, or never will."""
        if taken := self._taken.get(key, 0):
            self._taken[key] = taken - 1
            if taken == 1:
                del self._taken[key]
        elif count := self._counts.get(key, 0):
            self._less(key, count)

    def _less(self, key: tuple[str, bytes], count: int) -> None:
        if count == 1:
            del self._counts[key]
        else:
            self._counts[key] = count - 1


def _key(topic: str, payload: bytes) -> tuple[str, bytes]:
    """Large payloads are not held: a digest stands for them."""
    return (topic, payload if len(payload) <= 64 else blake2b(payload).digest())
