"""A neighbour that says anything, and a driver that checks what it costs.

`Hostile` makes frames of every kind: sound ones, sound ones with impossible numbers, and damaged ones. `Driver` plays
one device's driver with any budget, and checks after each step that the mesh asks for no turn that brings nothing.
`containers` finds everything that a mesh could let grow.
"""

from collections import OrderedDict, deque
from enum import Enum

from broker.mesh import frame
from broker.mesh.bundle import Header, Message, encode_body, encode_header
from broker.mesh.control import (
    Ack,
    Ask,
    Digest,
    Entries,
    Have,
    Ping,
    Proofs,
    Ranges,
    Shape,
    Unreachable,
    Vouch,
    Want,
    Who,
    encode_control,
)
from broker.mesh.events import CloseLink, Deliver, Misbehaved
from broker.mesh.frame import NEVER
from broker.mesh.limits import MS
from broker.mesh.mesh import Mesh
from broker.mesh.parts import PART_BYTES, PARTS_MAX, split
from broker.mesh.tags import sealed

NOW_NS = 10**12
POSSIBLE = (1, 2, 5, 100, 10_000)
NUMBERS = (
    *POSSIBLE, 0, -1, -(2**63), 2**31, 2**32 - 1, 2**32, 2**59, 2**63 - 1, 2**63, 2**64 - 1
)  # fmt: skip


class Hostile:
    """Frames out of a seed.

    `devices`: names that it uses besides ones that it makes up; `only`: it talks of one kind (`Header`: bundles), and
    says nothing for which its link would be closed at once; `seals`: by which it tags bundles.
    """

    def __init__(self, random, devices, *, only=None, seals=()):
        self.seals = seals
        self.random = random
        self.devices = devices
        self.only = only
        self.numbers = POSSIBLE if only else NUMBERS
        self.made = 0

    def number(self):
        return self.random.choice(self.numbers)

    def name(self):
        if self.random.random() < 0.5:
            return self.random.choice(self.devices)
        self.made += 1
        return f"x{self.made}"

    def row(self, count):
        lane = self.random.randrange(5) * 2 + (count == 4 or self.random.random() < 0.5)
        return (self.name(), lane, *(self.number() for _ in range(count)))

    def rows(self, count):
        return [self.row(count) for _ in range(self.random.randrange(6))]

    def topics(self):
        return [self.number() % 2**64 for _ in range(self.random.randrange(5))]

    def range(self):
        return (0, 0) if self.only else (self.random.randrange(18), self.number())

    def controls(self):
        """One control message of each kind but hello."""
        random, number = self.random, self.number
        flag = random.random() < 0.5
        floor = 0 if flag or self.only else number()
        versions = [(number(), number(), number(), self.name()) for _ in range(random.randrange(5))]
        return [
            Ping(abs(number()) % 2**63, abs(number()) % 2**63, abs(number()) % 2**63),
            Digest(flag, flag, random.random() < 0.2, number(), number(), number(), self.rows(4)),
            Want(self.rows(4)),
            Ranges(
                floor,
                [(*self.range(), random.randbytes(128)) for _ in range(2)],
                [(*self.range(), [] if self.only else versions)],
            ),
            Entries(
                [
                    (self.name(), random.randbytes(3), random.randrange(3), number(), number(), "o")
                    for _ in range(random.randrange(5))
                ]
            ),
            Ask(floor, self.topics(), self.topics()),
            Have([(*self.row(2), random.randrange(256)) for _ in range(random.randrange(6))]),
            Shape([self.name() for _ in range(3)], [self.name() for _ in range(3)]),
            Ack(self.name(), number(), self.name(), number(), flag, number()),
            Unreachable(self.name(), number(), self.name(), number(), flag),
            Who([abs(number()) % 2**63 or 1 for _ in range(random.randrange(3))]),
            Proofs([(self.name(), random.randbytes(50), random.randbytes(9))]),
            Vouch([(abs(number()) % 2**63 or 1, random.randbytes(40))]),
        ]

    def bundle(self):
        """A bundle record, of any stream or for any device."""
        random = self.random
        to = self.name() if random.random() < 0.3 else ""
        lane = random.choice((1, 3, 5)) if to else random.randrange(10)
        clock = 1 + random.choice((0, 5 << 16, 2**58))
        flags = (lane & 1) << 1 | (not to and random.random() < 0.3)
        lifetime_ms = 1_000 if to else random.choice((0, 1_000))
        filling = b"flood" * random.choice((0, 0, 0, 50_000))
        message = Message(clock, flags, lifetime_ms, 0, self.name(), random.randbytes(9) + filling)
        body, compressed = encode_body([message])
        first = lane & 1 and not to and random.random() < 0.2
        header = Header(
            self.name(), lane, random.randrange(1, 5), 1 if first else random.randrange(1, 40),
            1, clock, lifetime_ms, len(body), closes=(0, 5) if first else None, to=to,
            compressed=compressed or random.random() < 0.05,
        )  # fmt: skip
        remaining_ms = random.choice((1, lifetime_ms)) if lifetime_ms else NEVER
        kind = frame.UNICAST if to else frame.BUNDLE
        head = encode_header(header)
        if self.seals and random.random() < 0.9:
            head = sealed(header, body, random.choice(self.seals))[1]
        return frame.encode_bundle(head, body, remaining_ms, random.choice((0, 3, 255)), kind)

    def long(self):
        """What travels in parts: a few, or one more than any record may have; to cut more is dear and no worse."""
        sound = self.bundle()
        parts = self.random.choice((1, 2, PARTS_MAX, PARTS_MAX + 1))
        return (sound * (parts * PART_BYTES // len(sound) + 1))[: parts * PART_BYTES]

    def record(self):
        """Any record but a hello; of the one kind that it is to talk of."""
        random = self.random
        if self.only is not None:
            made = [record for record in self.controls() if type(record) is self.only]
            return encode_control(made[0]) if made else self.bundle()
        drawn = random.random()
        if drawn < 0.35:
            return self.bundle()
        if drawn < 0.4:
            return frame.record(random.randrange(256), random.randbytes(random.randrange(60)))
        if drawn < 0.45:
            return frame.encode_credit(abs(self.number()) % 2**64)
        if drawn < 0.5:
            return random.choice(split(self.long(), random.randrange(3)))
        try:
            return encode_control(random.choice(self.controls()))
        except OverflowError:  # msgpack has no such number
            return frame.record(frame.RESYNC, b"")

    def frame(self):
        """A frame, one in ten damaged."""
        records = [self.record() for _ in range(self.random.randrange(1, 4))]
        data = bytearray(frame.encode_frame([r for r in records if len(r) < 60_000]))
        if self.only is None and self.random.random() < 0.1:
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
        return bytes(data)


class Driver:
    """The driver of device `a`, with a budget per neighbour."""

    def __init__(self, random, restored=None, seals=None):
        self.now_ns = NOW_NS
        self.mesh = Mesh(
            "a",
            random,
            now_ns=self.now_ns,
            wall_ms=1_700_000_000_000,
            restored=restored,
            seals=seals,
        )
        self.budgets = {}
        self.events = []
        self.sent = {}

    def link_up(self, peer, budget=1 << 20):
        self.budgets[peer] = budget
        self.mesh.link_up(peer, self.now_ns)

    def link_down(self, peer):
        if self.budgets.pop(peer, None) is not None:
            self.mesh.link_down(peer, self.now_ns)

    def receive(self, peer, data):
        self.mesh.receive(peer, data, self.now_ns)

    def say(self, peer, *records):
        encoded = [r if isinstance(r, bytes) else encode_control(r) for r in records]
        self.receive(peer, frame.encode_frame(encoded))

    def turn(self):
        """End a turn. Whether it brought anything."""
        mesh = self.mesh
        mesh.seal(self.now_ns)
        moved = bool(mesh.take_changes())
        while (event := mesh.next_event()) is not None:
            self.events.append(event)
            moved = True
            if isinstance(event, CloseLink):
                self.link_down(event.peer)
        for peer, budget in self.budgets.items():
            frames = mesh.frames_to_send(peer, budget, self.now_ns)
            self.sent[peer] = self.sent.get(peer, 0) + len(frames)
            moved = moved or bool(frames)
        return moved

    def settle(self):
        """Turns at one moment, as long as the mesh asks for them: each must bring something."""
        self.turn()
        while self.mesh.next_timer() <= self.now_ns:
            self.mesh.handle_timer(self.now_ns)
            moved = self.turn()
            assert moved or self.mesh.next_timer() > self.now_ns, "it spins"

    def wait(self, ms):
        """Let time pass, with each timer at its time."""
        end_ns = self.now_ns + int(ms * MS)
        while (due_ns := self.mesh.next_timer()) <= end_ns:
            self.now_ns = max(self.now_ns, due_ns)
            self.mesh.handle_timer(self.now_ns)
            self.settle()
        self.now_ns = end_ns
        self.settle()

    def take_events(self):
        taken, self.events = self.events, []
        return taken

    def reasons(self):
        return [e.reason for e in self.events if isinstance(e, Misbehaved | CloseLink)]

    def heard(self):
        return [m.payload for e in self.events if isinstance(e, Deliver) for m in e.messages]


_PLAIN = (int, float, str, bytes, bool, type(None), Enum, type)


def containers(root):
    """(path, size) of every list, dict, set and queue that can be reached."""
    seen, todo = set(), [(root, "mesh")]
    while todo:
        thing, path = todo.pop()
        if isinstance(thing, _PLAIN) or id(thing) in seen or callable(thing):
            continue
        seen.add(id(thing))
        if isinstance(thing, dict | OrderedDict):
            yield path, len(thing)
            todo += [(value, f"{path}[]") for value in thing.values()]
        elif isinstance(thing, list | set | frozenset | deque | tuple):
            yield path, len(thing)
            todo += [(value, f"{path}[]") for value in thing]
        else:
            slots = [s for c in type(thing).__mro__ for s in getattr(c, "__slots__", ())]
            names = [*slots, *getattr(thing, "__dict__", ())]
            todo += [(getattr(thing, n), f"{path}.{n}") for n in names if hasattr(thing, n)]
