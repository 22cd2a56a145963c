"""Nodes that listen on TLS, and what a client of theirs shows."""

import asyncio
import contextlib
import ssl

import uvloop

from broker.identity import Role
from broker.node import Node
from broker.store import Store


@contextlib.asynccontextmanager
async def running(*members, **options):
    """Nodes that listen on TLS too; `members` are (name, directory, TlsAt)."""
    nodes = []
    try:
        for name, directory, tls in members:
            node = Node(
                name, Store(directory / f"{name}.state"), port=0, tls=tls, seed=1, **options
            )
            await node.start()
            nodes.append(node)
        yield nodes
    finally:
        for node in nodes:
            await node.stop()


def run(story, loop_factory=uvloop.new_event_loop):
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(story)


def context(fleet, name="", role=Role.VIEWER):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(fleet.authority / "ca.pem")
    made.verify_flags |= ssl.VerifyFlags(0x200000)  # as in trust.py: the test's time is not now
    if name:
        folder = fleet.directory / name
        if not folder.exists():
            fleet.join(name, role)
        made.load_cert_chain(folder / "own.pem", folder / "own.key")
    return made
