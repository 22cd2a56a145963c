"""Real nodes on loopback, port 0, for tests."""

from contextlib import asynccontextmanager
from itertools import pairwise

from broker.link import Neighbour
from broker.node import Node
from broker.store import Store
from tests.waiting import until


class Listener:
    """An agent that only remembers."""

    def __init__(self, node):
        self.heard = []
        node.subscribe(self.heard.extend)

    def payloads(self, topic, *, rebuild=None):
        return [
            m.payload
            for m in self.heard
            if m.topic == topic and (rebuild is None or m.rebuild is rebuild)
        ]


async def start(name, directory, neighbours=(), **options):
    node = Node(
        name,
        Store(directory / name),
        port=options.pop("port", 0),
        neighbours=[Neighbour(n.device, "127.0.0.1", n.port) for n in neighbours],
        seed=1,
        **options,
    )
    await node.start()
    return node


def established(node):
    return {peer.name for peer in node.statistics().mesh.peers if peer.established}


@asynccontextmanager
async def chain(directory, names="abc"):
    """Nodes in a row, linked."""
    nodes = []
    try:
        for name in names:
            nodes.append(await start(name, directory, nodes[-1:]))
        for one, other in pairwise(nodes):
            await until(lambda one=one, other=other: other.device in established(one), "a link")
            await until(lambda one=one, other=other: one.device in established(other), "a link")
        yield nodes
    finally:
        for node in reversed(nodes):
            await node.stop()


@asynccontextmanager
async def graph(directory, edges):
    """Nodes linked as these edges say; by name. A test may stop some of them itself."""
    nodes = {}
    try:
        for name in sorted({name for edge in edges for name in edge}):
            nodes[name] = await start(name, directory)
        for one, other in edges:
            nodes[one].dial(Neighbour(other, "127.0.0.1", nodes[other].port))
        for one, other in edges:
            await until(lambda one=one, other=other: other in established(nodes[one]), "a link")
            await until(lambda one=one, other=other: one in established(nodes[other]), "a link")
        yield nodes
    finally:
        for node in nodes.values():
            if not node._turn.closed:
                await node.stop()
