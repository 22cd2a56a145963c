"""A device of the fleet that has fallen into other hands: `flockmq run`, with its own key, that does what it is told.

Whoever publishes JSON on `local/deed/NAME` of its plain port has it do a deed to its neighbours. It is run as a
program of its own and imports nothing of the tests.
"""

import json
import sys
import time

from agent.cli import main
from broker.mesh import frame
from broker.mesh.bundle import Header, Message, encode_body, lane_of
from broker.mesh.control import Entries, encode_control
from broker.mesh.frame import NEVER
from broker.mesh.tags import sealed
from broker.node import Node
from broker.topics import place

DEED = "local/deed/"


class Insider:
    """Its deeds. Bundles that it sends are kept, to be said again."""

    def __init__(self, encode_bundle):
        self.encode_bundle = encode_bundle
        self.sent = {}
        self.altered = b""

    def sending(self, head, body, remaining_ms, hops, kind=frame.BUNDLE):
        """In place of `frame.encode_bundle`: what it relays is as it likes."""
        if kind == frame.BUNDLE and len(self.sent) < 1_000:
            self.sent[head] = body, remaining_ms
        if self.altered and self.altered in body:
            body = body.replace(self.altered, self.altered.swapcase())
        return self.encode_bundle(head, body, remaining_ms, hops, kind)

    def do(self, node, name, told):
        mesh = node._mesh
        getattr(self, name)(node, mesh._state, told)

    def say(self, node, state, told):
        """Publish in one turn, as its own, whatever the topics: past the node, which refuses what nobody believes.

        A third item is the rank to claim.
        """
        for topic, payload, *said in told:
            data = payload.encode()
            qos, retained, _, priority, lifetime_ms, rank = place(topic, data, 1, retained=False)
            node._mesh.publish(
                topic, data, time.monotonic_ns(), qos=qos, retained=retained,
                priority=priority, lifetime_ms=lifetime_ms, rank=said[0] if said else rank,
            )  # fmt: skip
        node.request_flush()

    def alter(self, node, state, told):
        """From now on change what holds this, whenever it is sent."""
        self.altered = told.encode()

    def forge(self, node, state, told):
        """Make a bundle of another's, the next one of its stream, and tag it with one's own keys."""
        lane = lane_of(told["priority"], kept=True)
        stream = state.kept.get((told["origin"], lane))
        incarnation, sequence = stream.position if stream else (2**20, 0)
        clock = mesh_clock(node)
        flags = 2 | told["retained"]
        body, compressed = encode_body(
            [Message(clock, flags, 0, told.get("rank", 0), told["topic"], told["payload"].encode())]
        )
        header = Header(
            told["origin"], lane, incarnation, sequence + 1, 1, clock, 0, len(body),
            compressed=compressed,
        )  # fmt: skip
        head = sealed(header, body, state.seals)[1]
        record = self.encode_bundle(head, body, NEVER, 1)
        self.tell(state, told["to"], record)

    def give(self, node, state, told):
        """Give a retained value that was never said."""
        entry = (
            told["topic"], told["payload"].encode(), 1, 0, mesh_clock(node), told["origin"],
        )  # fmt: skip
        self.tell(state, told["to"], encode_control(Entries([entry])))

    def repeat(self, node, state, told):
        """Say everything again, as young as it was, so often."""
        for _ in range(told["times"]):
            for head, (body, remaining_ms) in self.sent.items():
                record = self.encode_bundle(head, body, remaining_ms, 1)
                self.tell(state, told["to"], record)

    def tell(self, state, to, record):
        peer = state.peers.get(to)
        if peer is not None:
            peer.say_record(record)


def mesh_clock(node):
    return node._mesh.clock(time.monotonic_ns())


def corrupt():
    insider = Insider(frame.encode_bundle)
    frame.encode_bundle = insider.sending
    publish_nowait = Node.publish_nowait

    def publishing(node, topic, payload, **options):
        if topic.startswith(DEED):
            insider.do(node, topic.removeprefix(DEED), json.loads(payload))
        return publish_nowait(node, topic, payload, **options)

    Node.publish_nowait = publishing


if __name__ == "__main__":
    corrupt()
    sys.exit(main())
