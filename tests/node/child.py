"""A device in a process of its own, for tests that kill it: `python -m tests.node.child NAME STATE [disk]`.

Prints `port N`. Is told, a line each: `dial NAME PORT`; `publish FIRST`, whereupon it publishes numbers on `t` from
FIRST on for as long as it lives, five a turn, and writes `try N` before and `kept N` after the last of five is
acknowledged.
"""

import asyncio
import os
import sys
from collections import deque
from pathlib import Path

from broker.link import Neighbour
from broker.node import Node
from broker.store import Store

TURN = 5
TURNS_MAX = 20
NUMBERS_MAX = 100_000


def say(text):
    os.write(1, text.encode() + b"\n")  # at once, whatever becomes of this process


async def publish(node, first):
    kept = deque()

    async def settle(last):
        await node.committed()
        say(f"kept {last}")

    for number in range(first, NUMBERS_MAX, TURN):
        last = number + TURN - 1
        say(f"try {last}")
        for each in range(number, last + 1):
            node.publish_nowait("t", b"%d" % each, qos=1)
        kept.append(asyncio.ensure_future(settle(last)))
        await asyncio.sleep(0.001)
        if len(kept) > TURNS_MAX:
            await kept.popleft()


async def main(name, state, *options):
    node = Node(name, Store(Path(state), relay_log_on_disk="disk" in options), port=0)
    await node.start()
    say(f"port {node.port}")
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    publishing = None
    while line := await reader.readline():
        verb, *arguments = line.decode().split()
        if verb == "dial":
            node.dial(Neighbour(arguments[0], "127.0.0.1", int(arguments[1])))
        else:
            publishing = asyncio.ensure_future(publish(node, int(arguments[0])))
    if publishing is not None:
        publishing.cancel()
    await node.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
