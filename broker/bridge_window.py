"""What a bridge owes the foreign broker: kept messages in order, until acknowledged; no I/O.

Decides what is sent, sent again and dropped. At most WINDOW messages are under way; behind them stands a queue of
limited length, for while the broker is away or slow. When it is full the oldest goes and is counted, as with a local
subscriber that is absent: neither stalls a link. After a reconnect what was under way is sent again, in order and
marked as a duplicate, before anything new.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from broker.embedded import packets

__all__ = ["Owed", "Window"]

WINDOW: Final = 20
"""Under way at once: Mosquitto takes no more from a client by default."""
MESSAGES_MAX: Final = 10_000
BYTES_MAX: Final = 8 * 1024 * 1024
"""What waits for the broker: as much as for a local subscriber that is absent."""
OVERHEAD_BYTES: Final = 200
"""Python's own for each message."""


class Owed(NamedTuple):
    """A message on its way out, at QoS 1."""

    topic: str
    payload: bytes
    retained: bool

    @property
    def size_bytes(self) -> int:
        """What it counts for."""
        return len(self.topic) + len(self.payload) + OVERHEAD_BYTES


class Window:
    """Kept messages to one broker."""

    def __init__(self) -> None:
        self.dropped = 0
        self.sent = 0
        """Acknowledged."""
        self._waiting: deque[Owed] = deque()
        self._bytes = 0
        self._under_way: dict[int, Owed] = {}
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._under_way)

    def add(self, owed: Owed) -> None:
        """Queue a message; the oldest that waits may go for it."""
        self._waiting.append(owed)
        self._bytes += owed.size_bytes
        while len(self._waiting) > MESSAGES_MAX or self._bytes > BYTES_MAX:
            self._bytes -= self._waiting.popleft().size_bytes
            self.dropped += 1

    def send(self) -> tuple[list[Owed], bytes]:
        """What may be sent now, and its PUBLISH packets."""
        sent: list[Owed] = []
        parts: list[bytes] = []
        while self._waiting and len(self._under_way) < WINDOW:
            owed = self._waiting.popleft()
            self._bytes -= owed.size_bytes
            self._last_id = self._last_id % 65_535 + 1
            while self._last_id in self._under_way:
                self._last_id = self._last_id % 65_535 + 1
            self._under_way[self._last_id] = owed
            sent.append(owed)
            parts.append(_publish(self._last_id, owed, duplicate=False))
        return sent, b"".join(parts)

    def again(self) -> bytes:
        """PUBLISH packets of a new connection: what was under way on the last one."""
        return b"".join(
            _publish(number, owed, duplicate=True) for number, owed in self._under_way.items()
        )

    def acknowledged(self, packet_id: int) -> None:
        """A PUBACK; one of nothing is passed over."""
        if self._under_way.pop(packet_id, None) is not None:
            self.sent += 1

    def clear(self) -> None:
        """Owe nothing any more: another device is active."""
        self._waiting.clear()
        self._under_way.clear()
        self._bytes = 0


def _publish(packet_id: int, owed: Owed, *, duplicate: bool) -> bytes:
    return packets.encode_publish(
        owed.topic,
        owed.payload,
        1,
        packet_id=packet_id,
        retained=owed.retained,
        duplicate=duplicate,
    )
