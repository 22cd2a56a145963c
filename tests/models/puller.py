"""A device in a process of its own that fetches, for tests that kill it: `python -m tests.models.puller STATE PORT`.

Links to the publisher at PORT, reads the content from its standard input as a line of JSON, writes `have N` for the
chunks that are there as it begins and whenever there are more, and `whole TWICE` when all are.
"""

import asyncio
import os
import sys
from pathlib import Path

import msgspec

from agent.models.content import Content
from agent.models.store import ContentStore
from agent.models.transfers import Transfers
from broker.calls import Calls
from broker.link import Neighbour
from broker.node import Node
from broker.store import Store


def say(text):
    os.write(1, text.encode() + b"\n")  # at once, whatever becomes of this process


async def main(state, port):
    content = msgspec.json.decode(sys.stdin.readline(), type=Content)
    publisher = Neighbour("a", "127.0.0.1", int(port))
    node = Node("b", Store(Path(state) / "node"), port=0, neighbours=[publisher])
    transfers = Transfers(node, Calls(node, "site"), ContentStore(Path(state) / "models"), "site")
    await node.start()
    fetching = asyncio.ensure_future(transfers.fetch(content))
    told, twice = -1, 0
    while not fetching.done():
        for progress in transfers.progress().values():
            twice = progress.counted.twice
            if progress.chunks_there != told:
                told = progress.chunks_there
                say(f"have {told}")
        await asyncio.sleep(0.001)
    await fetching
    say(f"whole {twice}")
    await node.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
