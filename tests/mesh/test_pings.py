"""A link is probed when it is quiet, and otherwise only as often as its round trip must be known."""

from __future__ import annotations

from collections import Counter
from random import Random

from broker.mesh import frame
from broker.mesh.events import CloseLink
from broker.mesh.limits import MS, PING_MS, RTT_MS
from broker.mesh.mesh import Mesh

_WALL_MS = 1_700_000_000_000
_STEP_MS = 10


class Pair:
    """Two meshes and a way between them that takes one step; `pings` by who sent them."""

    def __init__(self) -> None:
        self.now_ns = 1_000 * MS
        self.meshes = {
            name: Mesh(name, Random(1), now_ns=self.now_ns, wall_ms=_WALL_MS) for name in "ab"
        }
        self.pings: Counter[str] = Counter()
        self.mute = ""
        self.closed: list[str] = []
        for name, other in ("ab", "ba"):
            self.meshes[name].link_up(other, self.now_ns)

    def step(self) -> None:
        self.now_ns += _STEP_MS * MS
        for name, other in ("ab", "ba"):
            mesh = self.meshes[name]
            if mesh.next_timer() <= self.now_ns:
                mesh.handle_timer(self.now_ns)
            mesh.seal(self.now_ns)
            for each in mesh.frames_to_send(other, 1 << 20, self.now_ns):
                self.pings[name] += sum(kind == frame.PING for kind, _ in frame.decode_frame(each))
                if name != self.mute:
                    self.meshes[other].receive(name, each, self.now_ns)
            mesh.take_changes()
            while (event := mesh.next_event()) is not None:
                if isinstance(event, CloseLink):
                    self.closed.append(name)

    def run(self, seconds: int, *, speaks: str = "", every_ms: int = 200) -> None:
        for at_ms in range(0, seconds * 1000, _STEP_MS):
            for name in speaks:
                if at_ms % every_ms == 0:
                    self.meshes[name].publish(f"t/{name}", b"x", self.now_ns, qos=1)
            self.step()


def test_a_neighbour_that_speaks_is_pinged_for_its_round_trip_only() -> None:
    pair = Pair()
    pair.run(2)
    pair.pings.clear()
    pair.run(20, speaks="ab")
    wanted = 20_000 // RTT_MS
    assert wanted - 1 <= pair.pings["a"] <= wanted + 1
    assert wanted - 1 <= pair.pings["b"] <= wanted + 1


def test_of_two_that_are_silent_one_asks() -> None:
    pair = Pair()
    pair.run(2)
    pair.pings.clear()
    pair.run(20)
    quiet_seconds = 20_000 // (2 * PING_MS)
    assert quiet_seconds // 2 <= pair.pings.total() <= quiet_seconds + 2 * (20_000 // RTT_MS)
    assert not pair.closed


def test_who_is_silent_is_asked_twice_before_its_link_is_closed() -> None:
    pair = Pair()
    pair.run(2)
    pair.pings.clear()
    pair.mute = "b"
    while not pair.closed:
        pair.step()
    assert pair.pings["a"] >= 2
    assert pair.closed == ["a"]
