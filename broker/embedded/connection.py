"""One client: MQTT's meaning on a wire, from packets to calls of the exchange.

Decides: the order of things (CONNECT first and once, then authentication, then everything else),
what a client's packet does to its session, and when it is a link.

Assumes: `ingress` calls return at once. On failure: a node that is full stops the reading of a
publisher, which is tried again for a bounded time and then given up without an acknowledgement.
However a connection ends but by DISCONNECT, the will is published.

Why not amqtt's handler: it makes several tasks per message (57 % of its time), acknowledges
before the message was handed on, publishes the will of a client that says DISCONNECT right after
CONNACK, lets a clean take-over leave the old connection open, and touches the session of a client
id before whoever claims it is authenticated.
"""

import logging
import secrets
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from broker.embedded import packets
from broker.embedded.bodies import (
    ACCEPTED,
    REFUSED_UNAVAILABLE,
    Connect,
    Will,
    parse_connect,
    parse_subscribe,
    parse_unsubscribe,
)
from broker.embedded.exchange import Exchange
from broker.embedded.gate import Gate
from broker.embedded.ingress import LinkIngress
from broker.embedded.limits import PACKET_BYTES_MAX
from broker.embedded.links import LinkPipe, claimed_device, link_peer
from broker.embedded.logins import NotLetIn
from broker.embedded.session import Session
from broker.embedded.slices import Slices
from broker.embedded.wire import Wire, Wires
from broker.errors import MalformedPacket, Refused

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

logger = logging.getLogger(__name__)


class Connection(Wire):
    """The client loop, whatever the transport. What the gate lets in has its will counted."""

    def __init__(self, wires: Wires, exchange: Exchange, gate: Gate, links: LinkIngress) -> None:
        super().__init__(wires)
        self._links = links
        self._exchange = exchange
        self._writes = exchange.writes
        self._gate = gate
        self._admission: asyncio.Task[None] | None = None
        self._session: Session | None = None
        self._will: Will | None = None
        self._pipe: LinkPipe | None = None
        self._published = False  # since the last read
        self._refused_since_s: float | None = None
        self._later: asyncio.Handle | None = None  # what is to go on with a packet that waits
        self._lag_ends: asyncio.TimerHandle | None = None
        self._handlers: dict[int, Callable[[Session, bytes], None]] = {
            packets.PUBACK: self._on_puback,
            packets.PUBREC: self._on_pubrec,
            packets.PUBREL: self._on_pubrel,
            packets.PUBCOMP: self._on_pubcomp,
            packets.SUBSCRIBE: self._on_subscribe,
            packets.UNSUBSCRIBE: self._on_unsubscribe,
            packets.PINGREQ: self._on_pingreq,
            packets.DISCONNECT: self._on_disconnect,
        }

    # -- the wire calls ------------------------------------------------------------------------

    def _handle(self, kind: int, flags: int, body: bytes) -> None:
        session = self._session
        if session is None:
            if kind != packets.CONNECT:
                raise MalformedPacket("something else before CONNECT")
            self._on_connect(parse_connect(body))
        elif kind == packets.PUBLISH:
            self._on_publish(session, flags, body)
        elif (handler := self._handlers.get(kind)) is not None:
            handler(session, body)
        else:
            raise MalformedPacket(f"packet type {kind}, which may not come here")

    def _after_read(self) -> None:
        if self._published:
            self._published = False
            self._writes.hasten()
        if self._writes.due:
            self._exchange.ingress.request_flush()

    @property
    def _slices(self) -> Slices:
        return self._wires.slices if self._pipe is None else self._wires.link_slices

    def _will_answer(self) -> bool:
        # A neighbour's dialler has Nagle's algorithm switched off and waits for nothing.
        return self._pipe is not None or (self._session is not None and self._session.answers.due)

    def pause_writing(self) -> None:
        """Hold QoS 0 back: the client does not read as fast as we write."""
        if self._session is not None:
            self._session.congested(now=True)

    def resume_writing(self) -> None:
        """Go on with what waited, here or in the node's queue for a link."""
        if self._session is not None:
            self._session.congested(now=False)
            self._writes.touch(self._session)
            self._exchange.ingress.request_flush()

    def _leave(self) -> None:
        session, self._session = self._session, None
        pipe, self._pipe = self._pipe, None
        will = self._take_will()
        if self._later is not None:
            self._later.cancel()
        if self._admission is not None:
            self._admission.cancel()
        if session is None:
            return
        if pipe is not None:
            self._links.link_detached(pipe.peer, pipe)
        self._exchange.leave(session, self)
        if will is not None:
            try:
                self._exchange.publish(
                    session, will.topic, will.payload, will.qos, retained=will.retained
                )
            except Refused:
                self._counters.refused += 1
                logger.warning("the will of %s is lost: the node is full", self.name)
        self._exchange.ingress.request_flush()

    def _take_will(self) -> Will | None:
        will, self._will = self._will, None
        if will is not None:
            self._wires.wills_bytes -= will.size_bytes
        return will

    def lags(self, *, now: bool) -> None:
        """Give the client a while to catch up, or note that it has."""
        if self._lag_ends is not None:
            self._lag_ends.cancel()
            self._lag_ends = None
        session = self._session
        if now and session is not None:
            self._lag_ends = self._loop.call_later(
                self._limits.lag_max_s, session.cut_off, "it did not catch up in time"
            )
            self._writes.lagging.add(self)
        else:
            self._writes.caught_up(self)

    def taken_over(self) -> None:
        """Make room for a new connection with the same client id (3.1.4-2)."""
        self._leave()
        self.drop("its client id has connected again")

    # -- CONNECT -------------------------------------------------------------------------------

    def _on_connect(self, connect: Connect) -> None:
        if connect.refusal != ACCEPTED:
            self._refuse(connect.refusal)
            return
        self.name = connect.client_id or f"auto-{secrets.token_hex(8)}"
        self._stop_reading()
        self._deadline(self._limits.admission_s, self._no_admission)
        self._wires.has_said_connect(self)
        self._admission = self._loop.create_task(self._admit(connect))

    async def _admit(self, connect: Connect) -> None:
        """Authenticate before anything of the session is touched."""
        assert self._transport is not None, "a packet came through it"
        try:
            allowed = await self._gate.admit(connect._replace(client_id=self.name), self._transport)
        except NotLetIn as refusal:
            self._refuse(refusal.code)
            return
        if self._ended:
            return
        if allowed.holder is not None and claimed_device(self.name) is None:
            most = self._limits.connections_per_member_max
            if self._exchange.connections_of(allowed.holder) >= most:
                self._counters.connections_refused += 1
                self._refuse(REFUSED_UNAVAILABLE)
                return
        if connect.will is not None and not self._wires.keeps_will(connect.will.size_bytes):
            self._refuse(REFUSED_UNAVAILABLE)
            return
        self._admission = None
        self._will = connect.will
        if claimed_device(self.name) is None:
            self.name = allowed.session_name(self.name)
        self._session, present = self._exchange.enter(self.name, self, clean=connect.clean)
        self._session.bridge = connect.bridge
        self._session.allowed = allowed
        self._session.writable.clear()
        self._parser.allow(PACKET_BYTES_MAX)
        self.when_let_in()
        self.write(packets.encode_connack(ACCEPTED, session_present=present))
        self._keep_alive(connect.keep_alive_s)
        self._go_on_reading()

    def _refuse(self, code: int) -> None:
        self._admission = None
        self.write(packets.encode_connack(code))
        self.end(f"CONNECT refused with {code}")

    # -- PUBLISH and its answers ---------------------------------------------------------------

    def _on_publish(self, session: Session, flags: int, body: bytes) -> None:
        pipe = self._pipe
        if pipe is not None and body.startswith(pipe.incoming_prefix):
            self._counters.link_frames_in += 1
            self._published = True
            frame = body[len(pipe.incoming_prefix) :]
            self._links.link_frame(pipe.peer, pipe, frame)
            return
        topic, payload, packet_id = packets.parse_publish(flags, body)
        qos = flags >> 1 & 3
        if qos == 2:
            if packet_id in session.answers.incoming:  # a repetition of what we have
                session.answers.hold(packets.PUBREC, packet_id)
                self._writes.touch(session)
                return
            if len(session.answers.incoming) >= self._limits.incoming_qos2_max:
                raise MalformedPacket("too many QoS 2 messages that it does not release")
        try:
            self._exchange.publish(session, topic, payload, qos, retained=flags & 1 == 1)
        except Refused:
            if qos:
                self._try_later(flags, body)
            else:
                self._counters.refused += 1
            return
        self._refused_since_s = None
        self._counters.messages_in += 1
        self._published = True
        if qos:
            session.answers.hold(packets.PUBACK if qos == 1 else packets.PUBREC, packet_id)
            self._writes.touch(session)

    def _try_later(self, flags: int, body: bytes) -> None:
        """Keep a refused publish and read nothing more, until it is taken or the time is up."""
        now_s = self._loop.time()
        if self._refused_since_s is None:
            self._refused_since_s = now_s
        elif now_s - self._refused_since_s >= self._limits.refused_stall_s:
            self._counters.refused += 1
            self.drop("the node has been full for too long")
            return
        if not self._waiting:
            self._stop_reading()
        self._later = self._loop.call_later(
            self._limits.refused_retry_s, self._try_again, flags, body
        )

    def _try_again(self, flags: int, body: bytes) -> None:
        self._later = None
        if self._session is None or self._ended:
            return
        try:
            self._on_publish(self._session, flags, body)
        except Exception:
            self.drop("a defect of ours")  # as asyncio does for one in `buffer_updated`
            raise
        if self._refused_since_s is None:
            self._go_on_reading()

    def _on_puback(self, session: Session, body: bytes) -> None:
        session.client_acknowledges(packets.PUBACK, packets.parse_packet_id(body))
        if session.more_waits:
            self._writes.touch(session)

    def _on_pubrec(self, session: Session, body: bytes) -> None:
        session.client_acknowledges(packets.PUBREC, packets.parse_packet_id(body))
        self._writes.touch(session)

    def _on_pubcomp(self, session: Session, body: bytes) -> None:
        session.client_acknowledges(packets.PUBCOMP, packets.parse_packet_id(body))
        if session.more_waits:
            self._writes.touch(session)

    def _on_pubrel(self, session: Session, body: bytes) -> None:
        packet_id = packets.parse_packet_id(body)
        session.answers.release(packet_id)
        self._writes.touch(session)

    # -- the rest ------------------------------------------------------------------------------

    def _on_subscribe(self, session: Session, body: bytes) -> None:
        most = self._limits.subscriptions_per_session_max
        packet_id, filters = parse_subscribe(body, most)
        self._subscribe(session, packet_id, deque(filters), bytearray(), None)

    def _subscribe(
        self,
        session: Session,
        packet_id: int,
        filters: deque[tuple[str, int]],
        codes: bytearray,
        peer: str | None,
    ) -> None:
        """Subscribe to one filter after the other, and go on in a later turn when that takes long.

        Each looks at all retained messages, which are 20,000 at most and then take milliseconds.
        """
        slices = self._wires.slices
        while filters:
            if slices.is_over():
                self._stop_reading()
                self._writes.touch(session)
                slices.later(partial(self._subscribe_on, session, packet_id, filters, codes, peer))
                return
            topic_filter, qos = filters.popleft()
            linked = link_peer(self.name, topic_filter)
            peer = linked or peer
            codes.append(0 if linked else self._exchange.subscribe(session, topic_filter, qos))
        self._subscribed(session, packets.encode_suback(packet_id, bytes(codes)), peer)

    def _subscribe_on(
        self,
        session: Session,
        packet_id: int,
        filters: deque[tuple[str, int]],
        codes: bytearray,
        peer: str | None,
    ) -> None:
        if self._session is not session or self._ended:
            return
        self._subscribe(session, packet_id, filters, codes, peer)
        if not filters:
            self._go_on_reading()

    def _subscribed(self, session: Session, suback: bytes, peer: str | None) -> None:
        if peer is None or self._pipe is not None:
            session.answers.reply_stored(suback)
            self._writes.touch(session)
            return
        self.write(suback)  # before the first frame, which may come within link_attached
        assert self._transport is not None, "a packet came through it"
        low = self._limits.link_unsent_bytes_low
        self._transport.set_write_buffer_limits(high=low, low=low // 2)
        self._pipe = LinkPipe(self, self._exchange.device, peer, self._counters)
        self._links.link_attached(peer, self._pipe)
        self._published = True

    def _on_unsubscribe(self, session: Session, body: bytes) -> None:
        packet_id, filters = parse_unsubscribe(body, self._limits.subscriptions_per_session_max)
        for topic_filter in filters:
            if self._pipe is not None and link_peer(self.name, topic_filter):
                self.end("a link without its subscription is none")
                return
            self._exchange.unsubscribe(session, topic_filter)
        session.answers.reply_stored(packets.encode_ack(packets.UNSUBACK, packet_id))
        self._writes.touch(session)

    def _on_pingreq(self, session: Session, body: bytes) -> None:
        if body:
            raise MalformedPacket("a PINGREQ with a body")
        session.answers.reply(packets.PINGRESP_PACKET)
        self._writes.touch(session)

    def _on_disconnect(self, session: Session, body: bytes) -> None:  # noqa: ARG002 - a handler
        if body:
            raise MalformedPacket("a DISCONNECT with a body")
        self._take_will()
        self.end("it says goodbye")
