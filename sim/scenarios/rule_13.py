"""Two devices meet at a third-party broker that loses, repeats, reorders and forges: frames come in order, once.

The hub is a list of what one end wrote. It loses a tenth of it, repeats a third, lets neighbours change places, writes
envelopes of its own, and plays the whole first session again when the devices have begun a second one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.hub_session import HubSession
from broker.mesh.limits import MS
from sim.plants import Plant
from sim.randomness import stream

if TYPE_CHECKING:
    from random import Random

    from broker.hub_session import Came, Outcome
    from sim.scene import Scene

RULE = "frames through a hub carry a session, a number and a tag"
FRAMES = 300


def _take_all(_: Any) -> Any:
    def bug(self: HubSession, came: Came, now_ns: int) -> tuple[bytes, ...]:
        del self, now_ns
        return (came.body,)

    return bug


BUG = Plant("a frame's number is not looked at", "", HubSession, "_take", _take_all)


class _End:
    """One device's end."""

    def __init__(self, device: str, peer: str, random: Random) -> None:
        self.session = HubSession(device, peer, b"secret", lambda: random.getrandbits(63) + 1, 0)
        self.frames: list[bytes] = []

    def receive(self, data: bytes, now_ns: int) -> tuple[bytes, ...]:
        return self._done(self.session.receive(data, now_ns, wanted=True))

    def tick(self, now_ns: int) -> tuple[bytes, ...]:
        due_ns = self.session.next_timer(wanted=True)
        if due_ns is None or due_ns > now_ns:
            return ()
        return self._done(self.session.handle_timer(now_ns, wanted=True))

    def _done(self, outcome: Outcome) -> tuple[bytes, ...]:
        self.frames += outcome.frames
        return outcome.send


def tell(scene: Scene) -> None:
    """Let it happen."""
    random = stream(scene.seed, "hub")
    a, b = _End("a", "b", random), _End("b", "a", random)
    now_ns = _meet(a, b, 0)
    scene.expect(a.session.is_up and b.session.is_up, "no session came about")
    recorded = a.session.wrap([b"%d" % number for number in range(FRAMES)])
    now_ns = _carry(b, _mangled(recorded, random), now_ns)
    numbers = [int(frame) for frame in b.frames]
    scene.same(numbers, sorted(set(numbers)), "frames that b took")
    scene.expect(len(numbers) > FRAMES * 0.8, f"only {len(numbers)} of {FRAMES} frames came")
    scene.expect(b.session.counters["refused"], "no forgery was refused")
    for envelope in a.session.close(now_ns).send:
        b.receive(envelope, now_ns)
    now_ns = _meet(a, b, now_ns + 10_000 * MS)
    scene.expect(b.session.is_up, "no second session came about")
    b.frames.clear()
    now_ns = _carry(b, recorded, now_ns)
    scene.same(b.frames, [], "frames of the first session that b took in the second")
    _carry(b, a.session.wrap([b"fresh"]), now_ns)
    scene.same(b.frames, [b"fresh"], "frames of the second session")


def _meet(a: _End, b: _End, now_ns: int) -> int:
    to_b: list[bytes] = []
    to_a: list[bytes] = []
    for _ in range(200):
        now_ns += 10 * MS
        to_b += a.tick(now_ns)
        to_a += b.tick(now_ns)
        arriving_b, to_b = to_b, []
        arriving_a, to_a = to_a, []
        for envelope in arriving_b:
            to_a += b.receive(envelope, now_ns)
        for envelope in arriving_a:
            to_b += a.receive(envelope, now_ns)
    return now_ns


def _mangled(envelopes: list[bytes], random: Random) -> list[bytes]:
    rows: list[tuple[float, bytes]] = []
    for number, envelope in enumerate(envelopes):
        if random.random() < 0.1:
            continue
        rows.append((number + random.uniform(0, 2), envelope))
        if random.random() < 0.3:
            rows.append((number + random.uniform(0, 50), envelope))
        if random.random() < 0.1:
            forged = bytearray(envelope)
            forged[random.randrange(len(forged))] ^= 1 << random.randrange(8)
            rows.append((number + 0.5, bytes(forged)))
    return [envelope for _, envelope in sorted(rows)]


def _carry(end: _End, envelopes: list[bytes], now_ns: int) -> int:
    for envelope in envelopes:
        now_ns += 5 * MS
        end.tick(now_ns)
        end.receive(envelope, now_ns)
    now_ns += 1_000 * MS
    end.tick(now_ns)
    return now_ns
