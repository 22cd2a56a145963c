"""A client by hand: CONNECT and SUBSCRIBE on a raw socket, so that nothing of a client library is measured.

Assumes a broker on loopback. On failure: BenchFailed, or the socket's error after STALLED_S.
"""

from __future__ import annotations

import socket
from typing import Final

from bench.stage import BenchFailed
from broker.embedded import packets

__all__ = ["READ_BYTES", "STALLED_S", "RawClient"]

STALLED_S: Final = 10.0
READ_BYTES: Final = 1 << 20


class RawClient:
    """A connected client, by hand."""

    def __init__(self, port: int, name: str, *, nagle: bool = False) -> None:
        self.raw = socket.create_connection(("127.0.0.1", port), timeout=STALLED_S)
        if not nagle:
            self.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.raw.sendall(packets.encode_connect(name, 0))
        if self.exactly(4) != b"\x20\2\0\0":
            raise BenchFailed(f"the broker does not let {name} in")

    def exactly(self, count: int) -> bytes:
        """Read so many bytes."""
        data = b""
        while len(data) < count:
            more = self.raw.recv(count - len(data))
            if not more:
                raise BenchFailed("the broker has closed a connection")
            data += more
        return data

    def subscribe(self, filters: list[str], qos: int) -> None:
        """Subscribe, and return when the SUBACK is there."""
        self.raw.sendall(packets.encode_subscribe(1, [(each, qos) for each in filters]))
        parser = packets.PacketParser()
        while (answer := next(parser.packets(), None)) is None:
            parser.feed(self.exactly(1))  # nothing of what comes behind it is taken
        kind, _, body = answer
        if kind != packets.SUBACK or any(code > 2 for code in body[2:]):
            raise BenchFailed("the broker does not grant a subscription")
