"""Other people's brokers, started on free ports: Mosquitto and nats-server; and a nasty one of our own."""

import asyncio
import contextlib
import shutil
import socket
import struct

import pytest

from broker.embedded import packets
from broker.topic_names import topic_matches

DEADLINE_S = 20

needs_mosquitto = pytest.mark.skipif(
    not (shutil.which("mosquitto") and shutil.which("mosquitto_sub")),
    reason="mosquitto and mosquitto-clients are not installed",
)
needs_nats = pytest.mark.skipif(
    shutil.which("nats-server") is None, reason="nats-server is not installed"
)
KINDS = [
    pytest.param("mosquitto", marks=needs_mosquitto),
    pytest.param("nats", marks=needs_nats),
]

NATS = """
server_name: foreign
listen: 127.0.0.1:-1
jetstream {{ store_dir: "{directory}" }}
mqtt {{ listen: "127.0.0.1:{port}" }}
"""
MOSQUITTO = """
listener {port} 127.0.0.1
allow_anonymous true
persistence true
persistence_location {directory}/
"""


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Foreign:
    """A real broker as a process of its own."""

    def __init__(self, kind, directory, extra=""):
        self.kind = kind
        self.directory = directory / kind
        self.directory.mkdir()
        self.port = free_port()
        text = (NATS if kind == "nats" else MOSQUITTO) + extra
        self._file = self.directory / "broker.conf"
        self._file.write_text(text.format(port=self.port, directory=self.directory))
        self._process = None

    async def start(self):
        if self.kind == "nats":
            command = ["nats-server", "-c", str(self._file)]
        else:
            command = ["mosquitto", "-c", str(self._file)]
        self._process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(DEADLINE_S):
            while True:
                assert self._process.returncode is None, f"{self.kind} has not started"
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return

    async def kill(self):
        """kill -9."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


@contextlib.asynccontextmanager
async def foreign(kind, directory, extra=""):
    broker = Foreign(kind, directory, extra)
    try:
        await broker.start()
        yield broker
    finally:
        await broker.kill()


class NastyHub:
    """A broker that routes QoS 0 and does with it what a test says: `mangle(topic, payload)` gives what goes on."""

    def __init__(self, mangle=lambda topic, payload: [(topic, payload)]):
        self.mangle = mangle
        self.seen = []
        self.connections = 0
        self.deaf = False
        self._clients = {}
        self._server = None

    async def start(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self):
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self):
        """Reset every connection."""
        for writer in list(self._clients):
            linger = struct.pack("ii", 1, 0)
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    def publish(self, topic, payload):
        """Send to whoever subscribed."""
        for writer, filters in list(self._clients.items()):
            if any(topic_matches(known, topic) for known in filters):
                writer.write(packets.encode_publish(topic, payload))

    async def _serve(self, reader, writer):
        self.connections += 1
        filters = self._clients[writer] = []
        parser = packets.PacketParser(1 << 20)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                parser.feed(data)
                for kind, flags, body in parser.packets():
                    self._packet(writer, filters, kind, flags, body)
                while self.deaf:
                    await asyncio.sleep(0.01)
        del self._clients[writer]
        writer.close()

    def _packet(self, writer, filters, kind, flags, body):
        if kind == packets.CONNECT:
            writer.write(packets.encode_connack(0))
        elif kind == packets.SUBSCRIBE:
            at = 2
            while at < len(body):
                length = int.from_bytes(body[at : at + 2], "big")
                filters.append(body[at + 2 : at + 2 + length].decode())
                at += length + 3
            writer.write(packets.encode_suback(1, bytes(len(filters))))
        elif kind == packets.PINGREQ:
            writer.write(packets.PINGRESP_PACKET)
        elif kind == packets.PUBLISH:
            topic, payload, _ = packets.parse_publish(flags, body, 1 << 20)
            self.seen.append((topic, payload))
            for passed in self.mangle(topic, payload):
                self.publish(*passed)
