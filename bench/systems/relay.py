"""The least that a broker in Python does for a message: a relay without sessions, permissions, topics or a store.

Decides nothing: a complete PUBLISH goes to every connection that has subscribed to anything, as it came, and at QoS 1
its publisher gets a PUBACK behind it. On the loop that devices run on. So what it takes is the floor of every broker
in Python on this machine, and what a device takes beyond it is the device's own. Assumes the load of `bench.load`; it
checks nothing.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

from bench.role import Part
from broker.embedded import packets

__all__ = ["Relay"]

_TOPIC_AT: Final = 2
"""Of the body of a PUBLISH: where the topic begins, behind its length."""


class _Client(asyncio.Protocol):
    """One connection; `subscribers` is all of them that have subscribed."""

    def __init__(self, subscribers: list[asyncio.Transport]) -> None:
        self._subscribers = subscribers
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where answers go."""
        # uvloop's transports are no subclasses of asyncio's, only alike.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Pass on what is whole, with one write to each subscriber, and answer it."""
        data = self._rest + data
        frames, answers = [], []
        at = 0
        while (end := _end(data, at)) <= len(data):
            kind = data[at] >> 4
            if kind == packets.PUBLISH:
                frames.append(data[at:end])
                if data[at] & 0x06:
                    answers.append(b"\x40\2" + _packet_id(data, at))
            elif kind == packets.CONNECT:
                answers.append(b"\x20\2\0\0")
            elif kind == packets.SUBSCRIBE:
                answers.append(b"\x90\3\0\1" + data[end - 1 : end])
                self._subscribers.append(self._transport)
            at = end
        self._rest = data[at:]
        if frames:
            together = b"".join(frames)
            for subscriber in self._subscribers:
                subscriber.write(together)
        if answers:
            self._transport.write(b"".join(answers))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        """Forget it."""
        if self._transport in self._subscribers:
            self._subscribers.remove(self._transport)


def _body_at(data: bytes, at: int) -> tuple[int, int]:
    """Where the body of the packet at `at` begins and ends; beyond the data: that is not known yet."""
    length, shift = 0, 0
    for index in range(at + 1, len(data)):
        length |= (data[index] & 127) << shift
        if data[index] < 128:
            return index + 1, index + 1 + length
        shift += 7
    return len(data) + 1, len(data) + 1


def _end(data: bytes, at: int) -> int:
    return _body_at(data, at)[1]


def _packet_id(data: bytes, at: int) -> bytes:
    begins = _body_at(data, at)[0]
    behind = begins + _TOPIC_AT + int.from_bytes(data[begins : begins + _TOPIC_AT], "big")
    return data[behind : behind + 2]


class Relay(Part):
    """The relay, listening."""

    async def open(self) -> int:
        """Start; returns the port."""
        subscribers: list[asyncio.Transport] = []
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Client(subscribers), "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port
