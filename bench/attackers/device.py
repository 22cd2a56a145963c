"""A device of the fleet that has fallen into other hands: it has an identity, a link, and no manners.

Decides what a dishonest device can do that an honest one does not: publish in another's name, publish a model version,
stamp by a clock years ahead, and as a relay alter, forge and say again what others have said. It is the project's own
node, reached into where it has to be: what it may not say it hands to the link by hand. Its pace is that of `crowd.py`.

Assumes a link to the device that is attacked. On failure: a link that is closed for what was said comes up again as
any other does, and it goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import broker.node as node_module
from bench.attackers.crowd import Pace
from bench.role import Part
from bench.systems.flockmq import Holder
from bench.traffic import FORGED, SITE, updates
from broker.mesh import frame
from broker.mesh.bundle import Message, encode_body, lane_of
from broker.mesh.events import MeshFull
from broker.mesh.frame import NEVER, FrameInvalid
from broker.mesh.tags import sealed
from broker.topic_names import model_topic
from broker.topics import place
from broker.wall_clock import wall_ms

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.mesh.bundle import Header

__all__ = ["HOW", "Device"]

AHEAD_MS: Final = 10 * 365 * 24 * 3_600_000
FORGED_LANE: Final = lane_of(4, kept=True)
TURN: Final = 16
"""Messages, or records, in one turn."""
REMEMBERED: Final = 64
"""Bundles of others that a relay has at hand."""
HOW: Final = ("impersonation", "model version", "future clock", "relay")


_Bundle = tuple["Header", bytes, bytes]


class Device(Holder, Part):
    """The hostile device."""

    async def open(self, *, attack: str, victim: str, **settings: Any) -> int:
        """Start, and dial the device that is attacked."""
        self._step: Callable[[], None] = {
            "impersonation": self._impersonate,
            "model version": self._order,
            "future clock": self._publish,
            "relay": self._relay,
        }[attack]
        if attack == "future clock":
            vars(node_module)["wall_ms"] = lambda: wall_ms() + AHEAD_MS
        self._victim = victim
        self._numbers = itertools.count(1)
        self._heard: deque[_Bundle] = deque(maxlen=REMEMBERED)
        port = await self.start_node(**settings)
        if attack == "relay":
            self._listen()
        return port

    async def attack(self, *, seconds: float) -> dict[str, Any]:
        """Attack; returns how often, and the share of a core that it took."""
        pace = Pace()
        ends_s = time.monotonic() + seconds
        begun = 0
        while (left_s := ends_s - time.monotonic()) > 0:
            if pace.debt_s > 0:
                await asyncio.sleep(min(left_s, max(0.001, pace.debt_s)))
                continue
            self._step()
            begun += TURN
            await asyncio.sleep(0)
        return {"begun": begun, "errors": {}, "share": pace.share}

    # As an origin.

    def _impersonate(self) -> None:
        self._say(updates(next(self._numbers) * TURN, TURN, observer="a"))

    def _order(self) -> None:
        payload = b'{"name":"occupancy","counter":%d}'
        topic = model_topic(site=SITE, name="occupancy")
        self._say([(topic, payload % next(self._numbers)) for _ in range(TURN)])

    def _publish(self) -> None:
        self._say(updates(next(self._numbers) * TURN, TURN, observer="e"))

    def _say(self, messages: list[tuple[str, bytes]]) -> None:
        """Publish past the node, which refuses what nobody would believe."""
        for topic, payload in messages:
            qos, retained, _, priority, lifetime_ms, rank = place(topic, payload, 0, retained=False)
            with contextlib.suppress(MeshFull):
                self.node._mesh.publish(
                    topic, payload, time.monotonic_ns(), qos=qos, retained=retained,
                    priority=priority, lifetime_ms=lifetime_ms, rank=rank,
                )  # fmt: skip
        self.node._turn.request()

    # As a relay.

    def _listen(self) -> None:
        """Keep the bundles that come by."""
        mesh = self.node._mesh
        receive = mesh.receive

        def overhear(peer: str, data: bytes, now_ns: int) -> None:
            try:
                for kind, record in frame.decode_frame(data):
                    if kind == frame.BUNDLE:
                        header, head, body, _, _ = frame.decode_bundle(record)
                        if header.origin != self.node.device and body:
                            self._heard.append((header, head, body))
            except FrameInvalid:
                pass
            receive(peer, data, now_ns)

        mesh.receive = overhear  # type: ignore[method-assign]  # it listens before its own mesh does

    def _relay(self) -> None:
        """Say again, alter and forge in turn, each in a frame of its own."""
        link = self.node.links._links.get(self._victim)
        if link is None:
            return
        tricks = itertools.cycle((self._again, self._altered, self._again, self._forged))
        for trick, bundle in zip(tricks, tuple(self._heard)[-TURN:], strict=False):
            header, head, body = trick(*bundle)
            record = frame.encode_bundle(head, body, header.lifetime_ms or NEVER, 1)
            link.pipe.send([frame.encode_frame([record])])

    def _again(self, header: Header, head: bytes, body: bytes) -> _Bundle:
        return header, head, body

    def _altered(self, header: Header, _: bytes, body: bytes) -> _Bundle:
        """Another body under the origin's own tag, at a position that nobody has seen."""
        header = header._replace(sequence=header.sequence + 1_000)
        body = body[:-1] + bytes((body[-1] ^ 1,))
        return header, sealed(header, body, None)[1], body

    def _forged(self, header: Header, _: bytes, body: bytes) -> _Bundle:
        """A bundle in another's name, on a lane that nobody measures, with this device's own tag."""
        number = next(self._numbers)
        message = Message(header.clock, 2, 0, 0, FORGED, b"%d" % number)
        body, compressed = encode_body([message])
        header = header._replace(
            lane=FORGED_LANE, sequence=number, closes=None, lifetime_ms=0,
            body_bytes=len(body), compressed=compressed, messages=1, tag_kind=0, tag=b"",
        )  # fmt: skip
        return header, sealed(header, body, self.node._mesh._state.seals)[1], body
