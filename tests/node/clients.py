"""MQTT clients of a node: by hand, and Mosquitto's own."""

import asyncio
import contextlib
import shutil

import pytest

from broker.embedded import packets
from tests.embedded.harness import RawClient
from tests.waiting import until

needs_mosquitto = pytest.mark.skipif(
    shutil.which("mosquitto_sub") is None, reason="mosquitto-clients is not installed"
)


@contextlib.asynccontextmanager
async def session(node, *, clean=False, present):
    """The client `s`, by hand; its connection breaks off in the end."""
    raw = RawClient(*await asyncio.open_connection("127.0.0.1", node.port))
    try:
        raw.send(packets.encode_connect("s", 0, clean_session=clean))
        await raw.expect(packets.CONNACK, bytes((present, 0)))
        yield raw
    finally:
        raw.writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await raw.writer.wait_closed()


@contextlib.asynccontextmanager
async def mosquitto_sub(node, *arguments):
    before = node.statistics().broker.subscriptions
    process = await asyncio.create_subprocess_exec(
        "mosquitto_sub", "-p", str(node.port), "-v", *arguments,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        await until(lambda: node.statistics().broker.subscriptions > before, "the subscription")
        yield process.stdout
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def lines(stdout, count):
    async with asyncio.timeout(20):
        return [(await stdout.readline()).rstrip(b"\n") for _ in range(count)]


async def mosquitto_pub(port, *arguments):
    process = await asyncio.create_subprocess_exec("mosquitto_pub", "-p", str(port), *arguments)
    assert await process.wait() == 0
