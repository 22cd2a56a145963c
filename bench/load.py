"""One process that loads a broker through raw sockets: publisher and subscribers in one loop of their own.

Decides pacing. Flat out, at most WINDOW messages are on their way to the slowest subscriber, and as many not
acknowledged: nobody's queue grows without bound. At a rate, each message is sent at its moment, and its time is from
there until it was read. Everything that arrives is counted and checked for order and duplicates.

Assumes a broker on loopback. On failure: what is missing after STALLED_S is lost, and said.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from websockets import Subprotocol
from websockets.sync.client import connect as websocket_connect

from bench.frames import Received, publishes
from bench.raw_client import READ_BYTES, STALLED_S, RawClient
from bench.role import Part
from bench.stage import BenchFailed
from broker.embedded import packets

if TYPE_CHECKING:
    import socket

    from bench.frames import Bytes

__all__ = ["Load"]

WINDOW: Final = 4_096
"""On their way at most: 0.6 MB, within what each broker lets wait for one subscriber."""
CHUNK: Final = 512
"""Messages that are handed to the kernel at once."""
FILTERS_PER_SESSION: Final = 1_000


class Load(Part):
    """The clients of one broker."""

    async def open(self, *, port: int) -> None:
        """Learn where it listens."""
        self._port = port
        self._idle: list[RawClient] = []
        self._named = 0

    def _client(self, *, nagle: bool = False) -> RawClient:
        self._named += 1
        return RawClient(self._port, f"load-{self._named}", nagle=nagle)

    async def subscriptions(self, *, count: int) -> None:
        """Have idle clients subscribe to so many filters that the load does not match."""
        for first in range(0, count, FILTERS_PER_SESSION):
            client = self._client()
            numbers = range(first, min(count, first + FILTERS_PER_SESSION))
            client.subscribe([f"site/{number % 97}/{number}/+" for number in numbers], 0)
            self._idle.append(client)

    async def flat_out(
        self, *, qos: int, count: int, subscribers: int = 1, topics: int = 1
    ) -> dict[str, Any]:
        """Publish as fast as it goes; returns seconds to the last arrival and what went wrong."""
        names = [f"load/{number:06}" for number in range(topics)]
        table = publishes(names, qos, count)
        run = _FlatOut(self._client(), [self._client() for _ in range(subscribers)], table, qos)
        try:
            taken_s = run.run()
        finally:
            run.close()
        problems = {problem for each in run.received if (problem := each.problem(count))}
        return {"taken_s": taken_s, "problem": "; ".join(sorted(problems)) or None}

    async def paced(self, *, qos: int, count: int, rate: float) -> dict[str, Any]:
        """Publish at a rate; returns milliseconds from sent to read, and what went wrong."""
        publisher, subscriber = self._client(), self._client()
        subscriber.subscribe(["load/#"], qos)
        table = publishes(["load/000000"], qos, count)
        received = Received(table, qos)
        sent_s, read_s = np.zeros(count), np.zeros(count)
        started_s = time.perf_counter() + 0.01
        sent = 0
        while received.count < count:
            wait_s = started_s + sent / rate - time.perf_counter() if sent < count else STALLED_S
            if wait_s > 0:
                ready, _, _ = select.select([subscriber.raw, publisher.raw], [], [], wait_s)
                if not ready and sent == count:
                    break
                if subscriber.raw in ready:
                    before = received.count
                    answers = received.take(subscriber.raw.recv(READ_BYTES))
                    read_s[before : received.count] = time.perf_counter()
                    if answers:
                        subscriber.raw.sendall(answers)
                if publisher.raw in ready:
                    publisher.raw.recv(READ_BYTES)
            else:
                sent_s[sent] = time.perf_counter()
                publisher.raw.sendall(table[sent].tobytes())
                sent += 1
        for each in (publisher, subscriber):
            each.raw.close()
        latencies = ((read_s - sent_s)[: received.count] * 1e3).tolist()
        return {"latencies_ms": latencies, "problem": received.problem(count)}

    async def unhurried(self, *, count: int, window: int) -> float:
        """Publish at QoS 1 with Nagle's algorithm on, header and rest in two writes; returns seconds."""
        client = self._client(nagle=True)
        table = publishes(["load/000000"], 1, count)
        started_s = time.perf_counter()
        acknowledged = 0
        for number in range(count):
            packet = table[number].tobytes()
            client.raw.sendall(packet[:3])
            client.raw.sendall(packet[3:])
            while number + 1 - acknowledged >= window:
                client.exactly(4)
                acknowledged += 1
        client.exactly(4 * (count - acknowledged))
        client.raw.close()
        return time.perf_counter() - started_s

    async def websocket(self, *, port: int, count: int, window: int) -> float:
        """The same over WebSocket, a frame per packet; returns seconds."""
        table = publishes(["load/000000"], 1, count)
        with websocket_connect(
            f"ws://127.0.0.1:{port}", subprotocols=[Subprotocol("mqtt")], compression=None
        ) as client:
            client.send(packets.encode_connect("browser", 0))
            client.recv(STALLED_S)
            started_s = time.perf_counter()
            acknowledged_bytes = 0
            for number in range(count):
                client.send(table[number].tobytes())
                while number + 1 - acknowledged_bytes // 4 >= window:
                    acknowledged_bytes += len(client.recv(STALLED_S))
            while acknowledged_bytes < 4 * count:
                acknowledged_bytes += len(client.recv(STALLED_S))
            return time.perf_counter() - started_s

    async def close(self) -> None:
        """Let go of the idle clients."""
        for client in self._idle:
            client.raw.close()


class _FlatOut:
    """One run of a publisher and its subscribers."""

    def __init__(
        self, publisher: RawClient, subscribers: list[RawClient], table: Bytes, qos: int
    ) -> None:
        self._publisher = publisher.raw
        self._subscribers = [each.raw for each in subscribers]
        for each in subscribers:
            each.subscribe(["load/#"], qos)
        self.received = [Received(table, qos) for _ in subscribers]
        self._by_file = dict(
            zip((each.raw.fileno() for each in subscribers), range(len(subscribers)), strict=True)
        )
        self._width = table.shape[1]
        self._count = len(table)
        self._view = memoryview(table.tobytes())
        self._qos = qos
        self._offset = 0
        self._acknowledged_bytes = 0

    def run(self) -> float:
        """Publish everything and wait for it; returns seconds."""
        poll = select.epoll()
        for each in (self._publisher, *self._subscribers):
            each.setblocking(False)  # noqa: FBT003 - the socket module's own
            poll.register(each.fileno(), select.EPOLLIN)
        started_s = heard_s = time.perf_counter()
        waits_to_write = False
        while not self._done():
            blocked = self._send()
            if blocked != waits_to_write:
                waits_to_write = blocked
                mask = select.EPOLLIN | (select.EPOLLOUT if blocked else 0)
                poll.modify(self._publisher.fileno(), mask)
            events = poll.poll(1.0)
            for file, event in events:
                if event & select.EPOLLIN:
                    self._read(file)
                    heard_s = time.perf_counter()
            if time.perf_counter() - heard_s > STALLED_S:
                break
        poll.close()
        return time.perf_counter() - started_s

    def _done(self) -> bool:
        whole = all(each.count >= self._count for each in self.received)
        return whole and (not self._qos or self._acknowledged_bytes >= 4 * self._count)

    def _send(self) -> bool:
        """Send what the window allows; True: the socket takes no more."""
        arrived = min(each.count for each in self.received)
        if self._qos:
            arrived = min(arrived, self._acknowledged_bytes // 4)
        upto = min(self._count, arrived + WINDOW)
        while self._offset < upto * self._width:
            end = min(upto * self._width, self._offset + CHUNK * self._width)
            try:
                self._offset += self._publisher.send(self._view[self._offset : end])
            except BlockingIOError:
                return True
        return False

    def _read(self, file: int) -> None:
        index = self._by_file.get(file)
        if index is None:
            data = self._publisher.recv(READ_BYTES)
            self._acknowledged_bytes += len(data)
        else:
            data = self._subscribers[index].recv(READ_BYTES)
            answers = self.received[index].take(data)
            if answers:
                _send_all(self._subscribers[index], answers)
        if not data:
            raise BenchFailed("the broker has closed a connection")

    def close(self) -> None:
        """Close the sockets."""
        for each in (self._publisher, *self._subscribers):
            each.close()


def _send_all(raw: socket.socket, data: bytes) -> None:
    raw.setblocking(True)  # noqa: FBT003 - the socket module's own
    raw.sendall(data)
    raw.setblocking(False)  # noqa: FBT003 - the socket module's own
