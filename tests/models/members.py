"""Real nodes on loopback that fetch content from each other."""

from contextlib import asynccontextmanager

from agent.models.store import ContentStore
from agent.models.transfers import Transfers
from broker.calls import Calls
from tests.node.fleet import graph

SITE = "site"


class Member:
    def __init__(self, node, directory, **options):
        self.node = node
        self.calls = Calls(node, SITE)
        self.store = ContentStore(directory / f"models-{node.device}", **options)
        self.transfers = Transfers(node, self.calls, self.store, SITE)


@asynccontextmanager
async def members(directory, edges):
    async with graph(directory, edges) as nodes:
        fleet = {name: Member(node, directory) for name, node in nodes.items()}
        yield fleet
        for member in fleet.values():
            await member.transfers.close()
            await member.calls.close()
