"""A neighbour that never reads: it dials, says hello and pings like any other, and leaves its socket unread.

Its frames come from a real `Mesh`, so the device on the other side sees a living neighbour whose link takes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from random import Random

from bench.role import Part
from broker.embedded import packets
from broker.mesh.mesh import Mesh
from broker.topic_names import frame_topic

__all__ = ["Tarpit"]

NAME = "tarpit"
PING_S = 0.2


class Tarpit(Part):
    """Stays for as long as the role lives."""

    async def open(self, *, to: str, port: int) -> None:
        """Dial; returns when the other side has taken the link."""
        self._to = to
        self._socket = await asyncio.to_thread(self._dial, port)
        self._mesh = Mesh(
            NAME, Random(1), now_ns=time.monotonic_ns(), wall_ms=time.time_ns() // 1_000_000
        )
        self._mesh.link_up(to, time.monotonic_ns())
        self._task = asyncio.create_task(self._ping())

    def _dial(self, port: int) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", port), timeout=5.0)
        connection.sendall(packets.encode_connect(f"mesh-{NAME}", 0))
        connection.recv(4)
        inbound = frame_topic(to=NAME, sender=self._to)
        connection.sendall(packets.encode_subscribe(1, [(inbound, 0)]))
        connection.recv(5)
        return connection

    async def _ping(self) -> None:
        field = packets.string_field(frame_topic(to=self._to, sender=NAME))
        while True:
            now_ns = time.monotonic_ns()
            self._mesh.handle_timer(now_ns)
            frames = self._mesh.frames_to_send(self._to, 1 << 16, now_ns)
            if frames:
                with contextlib.suppress(OSError):  # cut off by the other side, as it may
                    self._socket.sendall(packets.publish_frames(field, frames))
            await asyncio.sleep(PING_S)

    async def close(self) -> None:
        """Hang up."""
        self._task.cancel()
        self._socket.close()
