"""A third-party broker in the middle at which devices meet that cannot reach each other.

This device is an ordinary client there: it subscribes `mesh/v1/{device}/+` and publishes what is for a peer on
`mesh/v1/{peer}/{device}`, all at QoS 0, each frame in an envelope (broker/hub_session.py). Each peer with a session is
shown to the links as a pipe like any other. Devices announce themselves on `mesh/v1/{device}`, not retained, every
ANNOUNCE_S; one for which no peers are named meets whoever does.

Assumes that the hub is somebody else's: it may drop, reorder, repeat, read and stop reading. Whoever has the key may be
a peer. On failure: a hub that is away, or refuses, is tried again with jitter and told of; one that does not read costs
its links and a bounded number of bytes; what comes from it and is no envelope is counted and dropped.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from broker.embedded import packets
from broker.hub_session import HubSession, announcement, is_announcement, is_envelope
from broker.lookup import Lookup
from broker.mqtt_client import Backoff, Client, connect
from broker.packet_connection import KEEP_ALIVE_S, UNSENT_HIGH_BYTES
from broker.topic_names import announcement_topic, frame_topic, is_id
from broker.words import in_words

if TYPE_CHECKING:
    from random import Random

    from broker.embedded.ingress import Pipe
    from broker.hub_session import Outcome
    from broker.mqtt_client import Address

__all__ = ["Hub", "HubAt", "HubStatistics"]

logger = logging.getLogger(__name__)

PEERS_MAX: Final = 64
"""Sessions at one hub: as many as a device has links. Who announces itself beyond it is passed over."""
ANNOUNCE_S: Final = 10.0
"""To fifty devices fifty bytes each: 250 bytes a second. A newcomer announces itself at once, so nobody waits."""
FORGET_S: Final = 35.0
"""Who has not announced itself for so long, and has no session, is forgotten."""
LIVED_S_MIN: Final = 5.0
"""A connection that ends sooner counts as a failure."""
UNSENT_BYTES_MAX: Final = 512 * 1024
"""What may wait for a hub that does not read. The node stops at a quarter of it; offers and goodbyes at this."""


class HubAt(NamedTuple):
    """A hub and who is met there."""

    address: Address
    key: bytes
    """What all peers know and the hub does not; empty: nothing proves who wrote a frame."""
    peers: tuple[str, ...] = ()
    """Whom to meet; empty: whoever announces itself."""


class HubStatistics(NamedTuple):
    """What there is to say of a hub."""

    name: str
    """Its address."""
    connected: bool
    last_failure: str
    integrity: str
    """`tag` or `none`."""
    peers: dict[str, bool]
    """By peer: whether there is a session."""
    counters: dict[str, int]
    """Envelopes that were refused (no right tag), stale (of an older session), repeated, early or lost."""


class HubOwner(Protocol):
    """What a hub tells and asks; the node."""

    def wants_link(self, peer: str) -> bool:
        """Whether there is no link to the peer."""

    def link_at_hub(self, peer: str, pipe: Pipe, rank: int) -> None:
        """A session is there."""

    def link_frame(self, peer: str, pipe: Pipe, frame: bytes) -> None:
        """A frame came."""

    def link_detached(self, peer: str, pipe: Pipe) -> None:
        """The session is over."""

    def request_flush(self) -> None:
        """There is room in the pipes again."""


class HubPipe:
    """A session with one peer, as a link."""

    def __init__(self, hub: Hub, session: HubSession) -> None:
        self._hub = hub
        self._session: HubSession | None = session

    @property
    def unsent_bytes(self) -> int:
        """Bytes to the hub that the kernel has not taken yet: the peers share one connection."""
        return self._hub.unsent_bytes if self._session is not None else 0

    def send(self, frames: list[bytes]) -> None:
        """Publish each frame, all in one write."""
        if self._session is not None:
            self._hub.write(self._session.peer, self._session.wrap(frames))

    def close(self) -> None:
        """End the session."""
        if self._session is not None:
            self._hub.close_session(self._session)

    def dead(self) -> None:
        """The session is over."""
        self._session = None


class Hub:
    """One hub.

    Args:
        device: This device's id.
        at: Which hub, and who is met there.
        owner: The node.
        random: Jitter.
    """

    def __init__(self, device: str, at: HubAt, owner: HubOwner, random: Random) -> None:
        self._device = device
        self._at = at
        self._owner = owner
        self._random = random
        self._lookup = Lookup(at.address.host, at.address.port)
        self._client: Client | None = None
        self._sessions: dict[str, HubSession] = {}
        self._pipes: dict[str, HubPipe] = {}
        self._seen_s: dict[str, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._counters: Counter[str] = Counter()
        self._last_failure = "not tried yet"
        self._fields: dict[str, bytes] = {}
        for peer in at.peers:
            if peer != device:
                self._make_session(peer)

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._client.unsent_bytes if self._client is not None else 0

    async def run(self) -> None:
        """Be there for ever; cancel to stop."""
        backoff = Backoff(self._random)
        hello = packets.encode_connect(
            f"flockmq-{self._device}",
            KEEP_ALIVE_S,
            username=self._at.address.username,
            password=self._at.address.password,
        )
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            try:
                client = await connect(self._lookup, hello, self)
                self._begin(client)
                await self._announce_until_closed(client)
                self._note(client.failure)
            except (OSError, TimeoutError, ValueError, OverflowError) as error:
                self._note(in_words(error))
            except asyncio.CancelledError:
                self._leave()
                raise
            if loop.time() - began_s >= LIVED_S_MIN:
                backoff.reset()
            await asyncio.sleep(backoff.next_s())

    def link_lost(self, peer: str) -> None:
        """There is no link to the peer any more: look for it here."""
        session = self._sessions.get(peer)
        if session is not None:
            session.seek(time.monotonic_ns())
            self._arm()

    def statistics(self) -> HubStatistics:
        """What was counted so far."""
        counters = self._counters.copy()
        for session in self._sessions.values():
            counters.update(session.counters)
        host, port, *_ = self._at.address
        return HubStatistics(
            name=f"{host}:{port}",
            connected=self._client is not None,
            last_failure=self._last_failure,
            integrity="tag" if self._at.key else "none",
            peers={peer: session.is_up for peer, session in sorted(self._sessions.items())},
            counters=dict(sorted(counters.items())),
        )

    # For the pipes.

    def write(self, peer: str, envelopes: list[bytes] | tuple[bytes, ...]) -> None:
        """Publish envelopes for a peer, unless the hub is not there or does not read."""
        if self._client is not None and envelopes:
            if self._client.unsent_bytes > UNSENT_BYTES_MAX:
                self._counters["unsent"] += len(envelopes)
                return
            field = self._fields.get(peer)
            if field is None:
                topic = frame_topic(to=peer, sender=self._device)
                field = self._fields[peer] = packets.string_field(topic)
            self._client.write(packets.publish_frames(field, envelopes))

    def close_session(self, session: HubSession) -> None:
        """End a session from this side."""
        self._apply(session, session.close(time.monotonic_ns()))

    # For the connection (Handler).

    def packet(self, kind: int, flags: int, body: bytes) -> None:
        """Take a packet from the hub."""
        if kind == packets.PUBLISH:
            topic, payload, _ = packets.parse_publish(flags, body, len(body))
            self._heard(topic.split("/"), payload)
        elif kind == packets.SUBACK and packets.SUBACK_REFUSED in body[2:] and self._client:
            self._client.close("the hub refuses the subscription to mesh/v1; see its access rules")

    def writable(self) -> None:
        """There is room again."""
        self._owner.request_flush()

    def lost(self) -> None:
        """The connection is gone, and all sessions with it: a hub reorders across reconnects."""
        self._client = None
        now_ns = time.monotonic_ns()
        for session in list(self._sessions.values()):
            self._apply(session, session.close(now_ns))

    # Inside.

    def _begin(self, client: Client) -> None:
        if client.closed.done():
            return
        self._client = client
        filters = [(frame_topic(to=self._device, sender="x").removesuffix("x") + "+", 0)]
        if not self._at.peers:
            filters.append((announcement_topic(device="x").removesuffix("x") + "+", 0))
        client.write(packets.encode_subscribe(1, filters))
        self._last_failure = ""
        logger.info("%s: at the hub %s", self._device, self._lookup)
        now_ns = time.monotonic_ns()
        for session in self._sessions.values():
            session.seek(now_ns)
        self._arm()

    async def _announce_until_closed(self, client: Client) -> None:
        topic = packets.string_field(announcement_topic(device=self._device))
        packet = packets.publish_frames(topic, [announcement(self._at.key, self._device)])
        while not client.closed.done():
            if client.unsent_bytes < UNSENT_HIGH_BYTES:
                client.write(packet)
            self._forget_absent()
            await asyncio.wait([client.closed], timeout=ANNOUNCE_S * self._random.uniform(0.8, 1.2))

    def _heard(self, levels: list[str], payload: bytes) -> None:
        sender = levels[-1]
        if sender == self._device:
            return
        if len(levels) == 3:
            self._announced(sender, payload)
            return
        session = self._sessions.get(sender)
        if session is None:
            if not is_envelope(self._at.key, sender, self._device, payload):
                self._counters["of_strangers"] += 1
                return
            if not self._meet(sender):
                return
            session = self._sessions[sender]
        wanted = self._owner.wants_link(sender)
        self._apply(session, session.receive(payload, time.monotonic_ns(), wanted=wanted))

    def _announced(self, peer: str, payload: bytes) -> None:
        if not is_announcement(self._at.key, peer, payload):
            self._counters["refused"] += 1
        elif self._meet(peer):
            self._sessions[peer].seek(time.monotonic_ns())
            self._arm()

    def _meet(self, peer: str) -> bool:
        """Whether there is a session for a peer that has shown itself; it is made if this device meets anybody."""
        if self._at.peers or not is_id(peer):
            return peer in self._sessions
        if peer not in self._sessions and len(self._sessions) >= PEERS_MAX:
            self._counters["no_room"] += 1
            return False
        self._seen_s[peer] = asyncio.get_running_loop().time()
        if peer not in self._sessions:
            self._make_session(peer)
        return True

    def _make_session(self, peer: str) -> None:
        self._sessions[peer] = HubSession(
            self._device, peer, self._at.key, _draw, time.monotonic_ns()
        )

    def _forget_absent(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for peer, seen_s in list(self._seen_s.items()):
            session = self._sessions[peer]
            if not session.is_up and now_s - seen_s > FORGET_S:
                self._counters.update(session.counters)
                del self._sessions[peer], self._seen_s[peer]
                self._fields.pop(peer, None)

    def _apply(self, session: HubSession, outcome: Outcome) -> None:
        peer = session.peer
        if outcome.down and (old := self._pipes.pop(peer, None)) is not None:
            old.dead()
            self._owner.link_detached(peer, old)
        self.write(peer, outcome.send)
        if outcome.up:
            pipe = self._pipes[peer] = HubPipe(self, session)
            self._owner.link_at_hub(peer, pipe, session.rank)
        for frame in outcome.frames:
            if (current := self._pipes.get(peer)) is not None:
                self._owner.link_frame(peer, current, frame)
        if outcome.up or outcome.down or session.next_timer(wanted=True) is not None:
            self._arm()

    def _arm(self) -> None:
        """Wake at the earliest of what the sessions wait for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._client is None:
            return
        due = [
            due_ns
            for session in self._sessions.values()
            for due_ns in (session.next_timer(wanted=self._owner.wants_link(session.peer)),)
            if due_ns is not None
        ]
        if due:
            delay_s = max(0.0, (min(due) - time.monotonic_ns()) / 1e9)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now_ns = time.monotonic_ns()
        for session in list(self._sessions.values()):
            wanted = self._owner.wants_link(session.peer)
            self._apply(session, session.handle_timer(now_ns, wanted=wanted))
        self._arm()

    def _leave(self) -> None:
        for session in list(self._sessions.values()):
            self.close_session(session)
        if self._timer is not None:
            self._timer.cancel()
        if self._client is not None:
            self._client.leave()
            self._client = None

    def _note(self, reason: str) -> None:
        if reason != self._last_failure:
            self._last_failure = reason
            logger.info("%s: not at the hub %s: %s", self._device, self._lookup, reason)


def _draw() -> int:
    return secrets.randbelow(2**64 - 1) + 1
