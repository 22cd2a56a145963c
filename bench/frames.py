"""Many MQTT packets at once as arrays of bytes: a load that costs less than the broker it is put on.

Decides: one shape for all messages of a load, the same topic length and payload, so that a stream is a table with a row
per packet. A payload begins with its number, by which what arrives is checked. Assumes a broker that changes nothing
but packet ids and flags. On failure: a stream that is no such table is a `BenchFailed`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from bench.stage import BenchFailed
from broker.embedded import packets

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Numbers = NDArray[np.uint32]

__all__ = ["PAYLOAD_BYTES", "Received", "acknowledgements", "publishes"]

PAYLOAD_BYTES: Final = 130
PACKET_IDS: Final = 60_000


def publishes(topics: list[str], qos: int, count: int) -> Bytes:
    """PUBLISH packets with the numbers from 0 on, going round the topics, which are of one length: a row each."""
    payload = bytes(PAYLOAD_BYTES)
    templates = [
        np.frombuffer(packets.encode_publish(topic, payload, qos), dtype=np.uint8)
        for topic in topics
    ]
    table = np.stack(templates)[np.arange(count) % len(topics)]
    numbers = np.arange(count, dtype=">u4").view(np.uint8).reshape(count, 4)
    table[:, -PAYLOAD_BYTES : -PAYLOAD_BYTES + 4] = numbers
    if qos:
        ids = (np.arange(count) % PACKET_IDS + 1).astype(">u2").view(np.uint8).reshape(count, 2)
        table[:, -PAYLOAD_BYTES - 2 : -PAYLOAD_BYTES] = ids
    return table


def acknowledgements(packet_ids: Bytes) -> bytes:
    """A PUBACK for each row of two bytes."""
    table = np.empty((len(packet_ids), 4), dtype=np.uint8)
    table[:, 0], table[:, 1] = 0x40, 2
    table[:, 2:] = packet_ids
    return table.tobytes()


class Received:
    """What one subscriber got."""

    def __init__(self, like: Bytes, qos: int) -> None:
        self.count = 0
        self._width = like.shape[1]
        self._qos = qos
        self._numbers: Numbers = np.zeros(len(like) + 1024, dtype=np.uint32)
        self._rest = b""

    def take(self, data: bytes) -> bytes:
        """Take what was read; returns the acknowledgements that are due.

        Raises:
            BenchFailed: Something else than PUBLISH, or of another length.
        """
        data = self._rest + data
        rows = len(data) // self._width
        self._rest = data[rows * self._width :]
        if not rows:
            return b""
        table = np.frombuffer(data, dtype=np.uint8, count=rows * self._width)
        table = table.reshape(rows, self._width)
        if (table[:, 0] != 0x30 | self._qos << 1).any():
            raise BenchFailed("a broker sent something else than the messages of this load")
        numbers = np.ascontiguousarray(table[:, -PAYLOAD_BYTES : -PAYLOAD_BYTES + 4])
        room = self._numbers[self.count : self.count + rows]
        room[:] = numbers.view(">u4").ravel()[: len(room)]
        self.count += rows
        if not self._qos:
            return b""
        return acknowledgements(table[:, -PAYLOAD_BYTES - 2 : -PAYLOAD_BYTES])

    def problem(self, count: int) -> str | None:
        """What is wrong with the numbers: lost, twice, or out of order; None if nothing is."""
        numbers = self._numbers[: self.count]
        if np.array_equal(numbers, np.arange(count, dtype=np.uint32)):
            return None
        once = len(np.unique(numbers))
        if once < count or self.count > once:
            return f"of {count:,} messages {count - once:,} were lost and {self.count - once:,} came twice"
        return "messages came out of order"
