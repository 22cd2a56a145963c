"""`make fuzz`: malformed MQTT packets on real sockets to a whole device, whose other clients are served throughout.

Packets are valid ones with bytes flipped, cut off, added or moved, and noise; some before CONNECT, most after it. A
finding is an exception in a handler, a good client that is not served in time, or memory that grows; each names the
seed, and the same seed sends the same bytes. `python -m tools.fuzz_mqtt [PACKETS] [SEED]`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any, Final

from broker.embedded import packets
from broker.node import Node
from broker.store import Store

PACKETS: Final = 100_000
ROUND: Final = 1_000
"""Packets between two looks at the good client."""
SERVED_S: Final = 10.0
GROWTH_BYTES_MAX: Final = 64 * 1024 * 1024

VALID: Final = [
    packets.encode_connect("c", 60, username="u", password=b"p"),
    b"\x10\x1b\0\4MQTT\4\x2e\0\x3c\0\1w\0\4gone\0\4will",
    packets.encode_publish("a/b", b"payload"),
    packets.encode_publish("a/b", b"payload", 1, packet_id=7, retained=True),
    packets.encode_publish("a/\N{PENGUIN}", b"", 2, packet_id=9, duplicate=True),
    packets.encode_subscribe(3, [("a/+", 1), ("#", 2), ("x/y/z", 0)]),
    b"\xa2\x08\0\4\0\1a\0\1b",
    *(packets.encode_ack(kind, 7) for kind in (packets.PUBACK, packets.PUBREC, packets.PUBREL, packets.PUBCOMP)),
    packets.PINGREQ_PACKET,
    packets.DISCONNECT_PACKET,
]  # fmt: skip


def malformed(random: Random) -> bytes:
    """A packet that is probably none."""
    data = bytearray(random.choice(VALID))
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data) + 1)
        match random.randrange(6):
            case 0 if at < len(data):
                data[at] = random.randrange(256)
            case 1 if at < len(data):
                data[at] ^= 1 << random.randrange(8)
            case 2:
                del data[at:]
            case 3:
                data[at:at] = random.randbytes(random.randint(1, 20))
            case 4:
                data = bytearray(random.randbytes(random.randint(1, 60)))
            case _:
                first = random.randrange(len(data) + 1)
                data[at:at] = data[first : first + 8]
        if not data:
            data = bytearray((random.randrange(256),))
    return bytes(data)


async def attack(port: int, random: Random, count: int) -> None:
    """Send so many from one connection, or until the broker has enough."""
    # A loopback address each, so that the limit of connections per address is not what is tested.
    address = f"127.{random.randrange(1, 255)}.{random.randrange(255)}.{random.randrange(1, 255)}"
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    try:
        if random.random() < 0.9:
            writer.write(
                packets.encode_connect(
                    f"bad-{random.randrange(50)}", 0, clean_session=random.random() < 0.5
                )
            )
        writer.writelines(malformed(random) for _ in range(count))
        writer.write_eof()
        async with asyncio.timeout(SERVED_S):
            while await reader.read(65_536):
                pass
    except (ConnectionError, TimeoutError):
        pass
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


class Good:
    """A client that must be served."""

    async def connect(self, port: int) -> None:
        """Connect and subscribe."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        self._parser = packets.PacketParser()
        self._writer.write(packets.encode_connect("good", 0))
        self._writer.write(packets.encode_subscribe(1, [("good/only", 1)]))
        await self._until(packets.SUBACK)

    async def is_served(self, number: int) -> None:
        """Publish to itself, and wait for message and acknowledgement.

        Raises:
            TimeoutError: It was not served.
        """
        self._writer.write(packets.encode_publish("good/only", b"%d" % number, 1, packet_id=1))
        found = {await self._until(packets.PUBLISH, packets.PUBACK) for _ in range(2)}
        assert found == {packets.PUBLISH, packets.PUBACK}, found

    async def _until(self, *kinds: int) -> int:
        async with asyncio.timeout(SERVED_S):
            while True:
                for kind, flags, body in self._parser.packets():
                    if kind == packets.PUBLISH:
                        packet_id = packets.parse_publish(flags, body)[2]
                        self._writer.write(packets.encode_ack(packets.PUBACK, packet_id))
                    if kind in kinds:
                        return kind
                data = await self._reader.read(65_536)
                assert data, "the broker has closed the good client's connection"
                self._parser.feed(data)

    async def close(self) -> None:
        """Leave."""
        self._writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def fuzz(count: int, seed: int) -> None:
    """Send everything; fails at the first finding."""
    defects: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: defects.append(context))
    with tempfile.TemporaryDirectory() as state:
        node = Node("fuzzed", Store(Path(state)), port=0, seed=seed)
        await node.start()
        good = Good()
        try:
            await good.connect(node.port)
            started_s = time.monotonic()
            sent = await _send(node.port, good, defects, count, seed)
            taken_s = time.monotonic() - started_s
            ended = node.statistics().broker.counters.malformed
        finally:
            await good.close()
            await node.stop()
    print(f"{sent} packets, seed {seed}, {taken_s:.0f} s: {ended} connections ended for them")


async def _send(port: int, good: Good, defects: list[dict[str, Any]], count: int, seed: int) -> int:
    random = Random(seed)
    sent = first_bytes = 0
    while sent < count:
        for _ in range(0, ROUND, 100):
            counts = [random.randint(1, 8) for _ in range(22)]
            sent += sum(counts)
            await asyncio.gather(*(attack(port, random, each) for each in counts))
        await good.is_served(sent)
        assert not defects, f"seed {seed}, after {sent} packets: {defects[0]}"
        first_bytes = first_bytes or resident_bytes()
        grown = resident_bytes() - first_bytes
        assert grown < GROWTH_BYTES_MAX, f"seed {seed}, after {sent} packets: {grown} bytes more"
    return sent


def main() -> None:
    """Run with what the command line says."""
    logging.disable(logging.CRITICAL)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else PACKETS
    asyncio.run(fuzz(count, int(sys.argv[2]) if len(sys.argv) > 2 else 1))


if __name__ == "__main__":
    main()
