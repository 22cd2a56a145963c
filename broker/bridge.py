"""A foreign broker whose own clients are joined to the mesh: what matches `in` comes in, what matches `out` goes out.

This device is a client there. It asks for the bridge bit (protocol level 0x84): a broker that knows it, as Mosquitto
does, sends nothing back of what the bridge published and leaves RETAIN as it was. At one that does not, as nats-server,
own echoes are counted off (broker/bridge_echo.py), and a message on a topic that has a retained value counts as
retained, since RETAIN is not passed on to live subscribers.

Nothing goes round in circles: what comes in carries the bridge's mark through the mesh, and no device attached under
the same name sends it out again. Of the devices attached under one name one is active (broker/bridge_claims.py); the
others hold a connection and wait.

Acknowledgements are honest. What comes in at QoS 1 is acknowledged once it is stored here; while the mesh refuses, it
is not. What goes out at QoS 1 is owed until the PUBACK (broker/bridge_outward.py). Over the bridge that makes at least
once; a repetition happens only when a connection breaks between a message and its acknowledgement. The session at the
foreign broker outlives the connection, so it keeps what is published there meanwhile.

Assumes that everything under one bridge's name is the same foreign broker. On failure: a broker that is away or
refuses is tried again with jitter and told of; a message the mesh cannot carry is counted, acknowledged and dropped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from broker.bridge_claims import Claims
from broker.bridge_inward import Filter, Inward, InwardOwner, stays
from broker.bridge_outward import Outward, OutwardOwner
from broker.embedded import packets
from broker.errors import Refused
from broker.lookup import Lookup
from broker.mqtt_client import Backoff, BrokerRefuses, Client, connect
from broker.packet_connection import KEEP_ALIVE_S
from broker.permissions import client_may
from broker.topic_names import bridge_topic

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from broker.mqtt_client import Address
    from broker.node import Delivered

__all__ = ["Bridge", "BridgeAt", "BridgeStatistics", "Filter"]

logger = logging.getLogger(__name__)

TICK_S: Final = 0.1
"""How often roles are looked at; a takeover waits for that."""
LEAVE_S: Final = 1.0
"""A goodbye that is not taken by then is cut short. Guess."""
LIVED_S_MIN: Final = 5.0
"""A connection that ends sooner counts as a failure."""


class BridgeAt(NamedTuple):
    """A foreign broker and what is exchanged with it."""

    name: str
    """The same at every device that is attached to the same broker."""
    site: str
    address: Address
    inward: tuple[Filter, ...]
    outward: tuple[Filter, ...]


class BridgeStatistics(NamedTuple):
    """What there is to say of a bridge."""

    name: str
    address: str
    state: str
    """`active`, `standby` or `away`."""
    last_failure: str
    knows_bridges: bool
    """Whether the broker has taken the bridge bit."""
    waiting: int
    """Messages that the broker has not acknowledged."""
    counters: dict[str, int]


class BridgeOwner(InwardOwner, OutwardOwner, Protocol):
    """What a bridge asks of its device; the node."""

    def subscribe(self, callback: Callable[[list[Delivered]], None]) -> None:
        """Have every delivery."""


class Bridge:
    """One attachment to one foreign broker.

    Args:
        device: This device's id.
        at: Which broker, and what crosses.
        owner: The node.
        random: Jitter.
        secured: Whether the device belongs to a fleet with identities.
    """

    def __init__(
        self, device: str, at: BridgeAt, owner: BridgeOwner, random: Random, *, secured: bool
    ) -> None:
        self._device = device
        self._at = at
        self._owner = owner
        self._random = random
        self._via = _mark(at.name)
        self._lookup = Lookup(at.address.host, at.address.port)
        self._claims = Claims(device, time.monotonic_ns())
        self._claim_topic = bridge_topic(site=at.site, device=device, name=at.name)
        before, _, after = self._claim_topic.rpartition(f"/{device}/")
        self._claims_between = (f"{before}/", f"/{after}")
        """What stands before and behind a device's id where it claims to be active."""
        self._counters: Counter[str] = Counter()
        # Whoever speaks at the foreign broker speaks through this device, as a program on it does.
        may_write = partial(client_may, device=device, client=None, secured=secured)
        self._outward = Outward(
            at.outward, owner, self._via, self._stays, self._note_echo, self._counters
        )
        self._inward = Inward(at.inward, owner, self._outward, self._via, may_write)
        self._client: Client | None = None
        self._plain = False
        self._subscribed = False
        self._last_failure = "not tried yet"
        owner.subscribe(self._delivered)

    # Life.

    async def run(self) -> None:
        """Be attached for ever; cancel to stop."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tick_for_ever(), name=f"{self._device} bridge {self._at.name}")
            await self._attach_for_ever()

    def leave(self) -> None:
        """Let another device take over, and close; before the last flush."""
        self._say(self._claims.goodbye())
        self._inward.close()
        self._outward.close()
        if self._client is not None:
            self._client.leave()
            self._client = None

    def statistics(self) -> BridgeStatistics:
        """What was counted so far."""
        host, port, *_ = self._at.address
        state = "active" if self._claims.active and self._inward.subscribed else "standby"
        counters = self._counters + self._inward.counters
        window = self._outward.window
        counters.update(out=window.sent, out_dropped=window.dropped)
        counters.update(claims_invalid=self._claims.invalid)
        return BridgeStatistics(
            name=self._at.name,
            address=f"{host}:{port}",
            state=state if self._client is not None else "away",
            last_failure=self._last_failure,
            knows_bridges=not self._plain,
            waiting=len(window),
            counters={name: count for name, count in sorted(counters.items()) if count},
        )

    # The connection.

    async def _attach_for_ever(self) -> None:
        backoff = Backoff(self._random)
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._claims.listen_s)
        while True:
            began_s = loop.time()
            try:
                client = await self._connected()
                self._attached(client)
                await client.closed
                self._note(client.failure)
            except (OSError, TimeoutError, ValueError, OverflowError) as error:
                self._note(str(error) or "no answer")
            if loop.time() - began_s >= LIVED_S_MIN:
                backoff.reset()
            await asyncio.sleep(backoff.next_s())

    async def _connected(self) -> Client:
        """A connection with this device's session; without what it kept if others have been active meanwhile."""
        if self._claims.others(time.monotonic_ns()):
            clean = await self._connect(clean=True)
            clean.leave()
            await asyncio.wait([clean.closed], timeout=LEAVE_S)
            clean.close()
            self._subscribed = False
        return await self._connect(clean=False)

    async def _connect(self, *, clean: bool) -> Client:
        try:
            return await connect(self._lookup, self._hello(clean=clean), self)
        except ConnectionError as error:
            # Closing without a CONNACK is how some brokers refuse a protocol level.
            unknown = type(error) is ConnectionError
            refuses = isinstance(error, BrokerRefuses) and error.code == 1
            if self._plain or not (unknown or refuses):
                self._plain = False
                raise
        self._plain = True
        return await self._connect(clean=clean)

    def _hello(self, *, clean: bool) -> bytes:
        return packets.encode_connect(
            f"flockmq-{self._device}-{self._at.name}",
            KEEP_ALIVE_S,
            clean_session=clean,
            bridge=not self._plain,
            username=self._at.address.username,
            password=self._at.address.password,
        )

    def _attached(self, client: Client) -> None:
        if client.closed.done():
            return
        self._client = client
        self._last_failure = ""
        self._subscribed = self._subscribed and client.session_present
        logger.info("%s: attached to %s as bridge %s", self._device, self._lookup, self._at.name)
        self._say(self._claims.claim(connected=True))

    def _activate(self, client: Client) -> None:
        """Exchange messages from now on."""
        logger.info("%s: active as bridge %s", self._device, self._at.name)
        self._inward.open(client, plain=self._plain, subscribed=self._subscribed)
        self._subscribed = True
        self._outward.open(client)

    # The connection calls (Handler).

    def packet(self, kind: int, flags: int, body: bytes) -> None:
        """Take a packet from the foreign broker."""
        if kind == packets.PUBLISH:
            self._inward.published(flags, body)
        elif kind == packets.PUBACK:
            self._outward.acknowledged(packets.parse_packet_id(body))
        elif kind == packets.SUBACK:
            self._inward.subscribed = packets.SUBACK_REFUSED not in body[2:]
            if not self._inward.subscribed and self._client is not None:
                self._client.close("the broker refuses a subscription; see its access rules")

    def writable(self) -> None:
        """There is room again."""
        self._outward.pump()

    def lost(self) -> None:
        """The connection is gone: what was not acknowledged comes again."""
        self._client = None
        self._inward.close()
        self._outward.close()
        self._decide()

    # Roles.

    async def _tick_for_ever(self) -> None:
        while True:
            self._decide()
            if self._claims.due(time.monotonic_ns()):
                self._say(self._claims.claim(connected=self._client is not None))
            await asyncio.sleep(TICK_S)

    def _decide(self) -> None:
        now_ns = time.monotonic_ns()
        client = self._client
        changed = self._claims.decide(now_ns, connected=client is not None)
        others = self._claims.others(now_ns).values()
        rival = any(claim.state == "active" for claim in others) and not self._claims.active
        self._outward.pay(pays=not rival)
        if not changed:
            return
        if self._claims.active and client is not None:
            self._activate(client)
        elif client is not None:
            self._inward.close()
            self._outward.close()
            client.close("another device is active as this bridge")

    def _say(self, claim: bytes) -> None:
        try:
            self._owner.publish_nowait(self._claim_topic, claim)
        except Refused:
            self._counters["claims_refused"] += 1

    # What the mesh delivers.

    def _delivered(self, batch: list[Delivered]) -> None:
        for message in batch:
            if not self._is_claim(message.topic):
                self._outward.take(message)
            elif not message.rebuild:
                self._heard_claim(message)
        self._outward.pump()

    def _is_claim(self, topic: str) -> bool:
        """Whether devices claim on a topic to be active as this bridge."""
        before, after = self._claims_between
        return topic.startswith(before) and topic.endswith(after) and topic.count("/") == 5

    def _stays(self, topic: str) -> bool:
        return stays(topic) or self._is_claim(topic)

    def _heard_claim(self, message: Delivered) -> None:
        if message.origin == message.topic.split("/")[4]:
            self._claims.hear(message.origin, message.payload, time.monotonic_ns())
            self._decide()

    def _note_echo(self, topic: str, payload: bytes) -> None:
        self._inward.note_echo(topic, payload)

    def _note(self, reason: str) -> None:
        if reason != self._last_failure:
            self._last_failure = reason
            text = "%s: not attached to %s as bridge %s: %s"
            logger.info(text, self._device, self._lookup, self._at.name, reason)


def _mark(name: str) -> int:
    """What stands for the bridge in messages: 28 bits, never 0."""
    return int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "big") >> 4 | 1
