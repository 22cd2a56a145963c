"""A fleet with keys on virtual time, a - r - b, whose relay says what it likes to b."""

from broker.mesh import frame
from broker.mesh.bundle import Message, encode_body, encode_header
from broker.mesh.frame import NEVER
from broker.mesh.tags import sealed
from broker.strength import Strength
from sim.network import WALL_MS, Network
from tests.identity.fleet import Fleet

CONTROL = "flock/v1/town/status/a"


class Dishonest:
    """`seals(name)` makes a device's; `network` runs with those."""

    def __init__(self, directory, strength=Strength.MAC):
        self.fleet = Fleet(directory, now_ms=WALL_MS)
        self.strength = strength
        self.made = {}
        for name in "arb":
            self.fleet.join(name)
        self.network = Network("arb", [("a", "r"), ("r", "b")], seals=self.seals)
        self.network.run(4_000)

    def seals(self, name, strength=None):
        """A device's: made anew with each boot."""
        if name in self.made and (pem := self.made[name].signers.take_unsaved()) is not None:
            self.made[name].signers.save(pem)
        self.made[name] = self.fleet.trust(name).seals(strength or self.strength)
        return self.made[name]

    def mesh(self, name="b"):
        return self.network.devices[name].mesh

    def counted(self, what, name="b"):
        return self.mesh(name).statistics().counters.get(what, 0)

    def bad(self, name="b"):
        return [event.reason for event in self.network.devices[name].bad]

    def heal_until_hello(self):
        """Link r and b, up to the moment at which b has heard r's hello and nothing else."""
        self.network.cut.clear()
        self.network.connect(("b", "r"))
        link = self.mesh()._state.peers["r"]
        while not link.established:
            self.network.run(0.1)

    def held(self, name="r", origin="a", lane=5):
        """The newest bundle of a stream in a device's log."""
        log = self.mesh(name)._state.log
        return log.between((origin, lane), (0, 0), (1 << 32, 0))[-1]

    def say(self, head, body, remaining_ms=NEVER, *, peer="r", to="b", hops=1, kind=frame.BUNDLE):
        """Have `peer` bring a bundle."""
        record = frame.encode_bundle(head, body, remaining_ms, hops, kind)
        self.mesh(to).receive(peer, frame.encode_frame([record]), self.network.now_ns)
        self.network.turn(to)

    def forge(self, stored, payload, seals=None, **changes):
        """A bundle like another one, one further in its stream, with another payload, sealed by `seals` or untagged."""
        message = Message(stored.header.clock, 2, stored.header.lifetime_ms, 0, "t", payload)
        changes = {"topic": "t", "sequence": stored.header.sequence + 1} | changes
        flags, rank = 2 | changes.pop("retained", False), changes.pop("rank", 0)
        message = Message(
            message.clock, flags, message.lifetime_ms, rank, changes.pop("topic"), payload
        )
        body, compressed = encode_body([message])
        header = stored.header._replace(
            body_bytes=len(body), compressed=compressed, messages=1, tag_kind=0, tag=b"", **changes
        )
        if seals is None:
            return encode_header(header), body
        return sealed(header, body, seals)[1], body
