"""The journal against the sessions it describes: what it stored brings them back, after any steps."""

import sqlite3
from random import Random

import pytest

from broker.embedded import Limits, packets
from broker.embedded.exchange import Exchange
from broker.embedded.slices import Slices
from broker.session_changes import PendingSessions
from broker.session_table import SessionTable
from tests.embedded.harness import Nowhere

LIMITS = Limits(
    inflight_messages_max=5, kept_queue_messages_max=12, sessions_max=3, unsent_bytes_high=300
)
NAMES = ("a", "b", "c", "d")


def described(exchange):
    """All persistent sessions, with the serials and times of sending left out."""
    found = {}
    for name, session in exchange.sessions.items():
        if not session.clean:
            found[name] = (
                session.subscriptions,
                session.answers.incoming,
                session.replaying,
                session._window._frames,
                [entry[:3] for entry in session._queue],
            )
    return found


class World:
    """An exchange, its table, and steps at random."""

    def __init__(self, seed) -> None:
        self.random = Random(seed)
        self.node = Nowhere()
        self.database = sqlite3.connect(":memory:")
        self.database.executescript(SessionTable.SCHEMA)
        self.exchange = Exchange(self.node, "self", LIMITS)
        self.pending = PendingSessions()

    def step(self) -> None:
        exchange, random = self.exchange, self.random
        name = random.choice(NAMES)
        session = exchange.sessions.get(name)
        if session is None or session.output is None:
            if random.random() < 0.3:
                exchange.enter(name, self.node, clean=random.random() < 0.2)
        else:
            self.act(session)
        for _ in range(random.randrange(4)):
            exchange.route(random.choice(["t", "u/x", "r/1"]), b"%d" % random.randrange(99), 2)

    def act(self, session) -> None:
        exchange, random = self.exchange, self.random
        packet_id = random.randrange(1, 12)
        steps = [
            lambda: exchange.subscribe(session, random.choice(["t", "u/+", "r/#"]), packet_id % 3),
            lambda: exchange.unsubscribe(session, random.choice(["t", "u/+", "r/#"])),
            lambda: session.client_acknowledges(packets.PUBACK, packet_id),
            lambda: session.client_acknowledges(packets.PUBREC, packet_id),
            lambda: session.client_acknowledges(packets.PUBCOMP, packet_id),
            lambda: session.answers.hold(packets.PUBREC, packet_id),
            lambda: session.answers.release(packet_id),
            lambda: exchange.leave(session, self.node),
            lambda: session.congested(now=packet_id % 2 == 0),
        ]
        random.choice(steps)()
        exchange.writes.touch(session)

    def flush(self) -> None:
        exchange = self.exchange
        committed = self.random.random() < 0.9
        exchange.writes.prepare()
        changes = exchange.journal.take(exchange.everything)
        if committed and changes is not None:
            self.pending.absorb(changes)
            if self.random.random() < 0.3:
                self.fold()
        if not committed:
            exchange.journal.lost()
        exchange.flush(committed=committed, pressed=False)
        if committed:
            assert exchange.journal.take(exchange.everything) is None  # writing changes nothing
            self.compare()

    def fold(self) -> None:
        again = PendingSessions()  # as after a fold that failed
        again.absorb(self.pending.changes())
        SessionTable().write(self.database, again.changes())
        self.pending = PendingSessions()

    def compare(self) -> None:
        if self.random.random() < 0.5:
            self.fold()
        else:
            return
        stored = SessionTable().load(self.database)
        again = Exchange(self.node, "self", LIMITS)
        again.restore(stored)
        assert described(again) == described(self.exchange)
        assert len(again.trie) == sum(
            len(session.subscriptions) for session in again.sessions.values()
        )
        if self.random.random() < 0.05:
            self.exchange = again


@pytest.mark.parametrize("seed", range(8))
def test_what_was_stored_brings_every_session_back(seed, monkeypatch) -> None:
    # It asks the event loop, and there is none.
    monkeypatch.setattr(Slices, "is_over", lambda _: False)
    world = World(seed)
    seen = 0
    for _ in range(800):
        world.step()
        if world.random.random() < 0.5:
            world.flush()
        seen += len(described(world.exchange))
    assert seen > 800
