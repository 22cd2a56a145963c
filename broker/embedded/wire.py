"""One connection's bytes: reading, cutting into packets, writing, and the ways to end.

Decides: when reading stops and goes on, how long a peer may be silent, and what happens to one
that does not read.

Assumes: a transport as asyncio's, calling back from one event loop. On failure: a malformed
packet ends the connection and is counted; an exception out of a handler is a defect, which
asyncio reports and answers by closing this connection alone.

Why not amqtt's stream adapters: they await every field of every packet, go on after a malformed
one, and never enforce keep-alive.
"""

import abc
import asyncio
import logging
from collections.abc import Callable
from typing import Final, cast

from broker.embedded.addresses import network_of
from broker.embedded.limits import CONNECT_BYTES_MAX, LINK_SLICE_S, READ_BYTES, Limits
from broker.embedded.packets import PacketParser
from broker.embedded.quickack import acknowledge_now
from broker.embedded.slices import Slices
from broker.embedded.statistics import Counters
from broker.embedded.token_buckets import TokenBuckets
from broker.errors import MalformedPacket

logger = logging.getLogger(__name__)

# A connection that is closing but whose peer does not read what is left ends after this long.
_LINGER_S: Final = 2.0
# A read of at most this many bytes may be all that Nagle's algorithm lets a client send before it
# hears from us.
_NAGLE_BYTES: Final = 4096


class Wires:
    """The connections of one broker, and what they share; `slices` are those of its clients."""

    def __init__(self, limits: Limits, counters: Counters, slices: Slices) -> None:
        self.limits = limits
        self.counters = counters
        self.open: set[Wire] = set()
        self.slices = slices
        self.link_slices = Slices(LINK_SLICE_S)
        self._admissions = TokenBuckets(
            limits.connections_burst_per_address,
            limits.connections_per_address_per_s,
            limits.addresses_max,
        )
        self.incomplete_bytes = 0  # of packets that have come in part, in all connections
        self.wills_bytes = 0  # of all connections
        # One buffer for all: it is emptied within the callback that filled it. A buffer per read,
        # as asyncio makes for plain protocols, costs 256 KiB of fresh memory each time.
        self.read_buffer = memoryview(bytearray(READ_BYTES))
        self.upgrades: dict[object, asyncio.Transport] = {}  # not WebSockets yet; the oldest first
        self._one_gone = asyncio.Event()
        self._closed = False
        # Without CONNECT, by whether they came by TLS; the oldest first.
        self._strangers: dict[bool, dict[Wire, None]] = {False: {}, True: {}}

    def has_room(self, address: str, *, counted: bool = False, neighbour: bool = False) -> bool:
        """Tell whether one more connection is taken.

        `counted`: its address' rate was asked before; `neighbour`: it may have one of the places
        that are kept for neighbours, and its address counts alone, whatever else comes from its network.
        """
        places = self.limits.connections_max + (self.limits.neighbours_max if neighbour else 0)
        if self._closed or len(self.open) >= places:
            return False
        if counted:
            return True
        source = address if neighbour else network_of(address)
        return self._admissions.take(source, asyncio.get_running_loop().time())

    def keeps_will(self, size_bytes: int) -> bool:
        """Take a will among those that are kept, if there is room; its connection gives the bytes back."""
        if self.wills_bytes + size_bytes > self.limits.wills_bytes_max:
            self.counters.wills_refused += 1
            return False
        self.wills_bytes += size_bytes
        return True

    def entered(self, wire: "Wire") -> None:
        """Note a connection that has not said CONNECT yet; if there are too many, the oldest ends."""
        self.open.add(wire)
        strangers = self._strangers[wire.by_tls]
        strangers[wire] = None
        if len(strangers) > self.limits.strangers_max:
            oldest = next(iter(strangers))
            del strangers[oldest]
            self.counters.timed_out += 1
            oldest.drop("too many have not said CONNECT")

    def has_said_connect(self, wire: "Wire") -> None:
        """Note that a connection is no stranger's any more."""
        self._strangers[wire.by_tls].pop(wire, None)

    def gone(self, wire: "Wire") -> None:
        """Let go of a connection that is no more."""
        self.open.discard(wire)
        self.has_said_connect(wire)
        self._one_gone.set()

    async def end_all(self, reason: str) -> None:
        """End every connection and wait until they are gone, lingering ones included.

        None is taken any more: one that was accepted in this very turn is told of only in the next. Half-open
        WebSockets end at once: the library would wait for their time to be over.
        """
        self._closed = True
        for transport in self.upgrades.values():
            transport.abort()
        while self.open:
            for wire in list(self.open):
                wire.end(reason)
            self._one_gone.clear()
            await self._one_gone.wait()


class Wire(asyncio.BufferedProtocol, abc.ABC):
    """A connection without MQTT's meaning, which `Connection` adds."""

    def __init__(self, wires: Wires) -> None:
        self.name = "a client without a name"
        self.counted = False  # whether its address' rate was asked before it was made
        self.by_tls = False
        self.when_let_in: Callable[[], object] = lambda: None  # tells the transport of it
        self._wires = wires
        self._limits = wires.limits
        self._counters = wires.counters
        self._loop = asyncio.get_running_loop()
        self._parser = PacketParser(CONNECT_BYTES_MAX)
        self._incomplete_bytes = 0
        self._transport: asyncio.Transport | None = None
        self._ended = False
        self._acknowledges_late = True  # the kernel, until it is told otherwise: see `quickack.py`
        self._waiting = False  # not reading: packets wait for something on our side
        self._heard_s = 0.0  # when the peer was last heard, on the loop's clock
        self._silence_max_s = 0.0
        self._timer: asyncio.TimerHandle | None = None  # for the next deadline, whichever it is

    # -- hooks ---------------------------------------------------------------------------------

    @abc.abstractmethod
    def _handle(self, kind: int, flags: int, body: bytes) -> None:
        """Act on one packet; may raise `MalformedPacket`."""

    @abc.abstractmethod
    def _after_read(self) -> None:
        """All packets at hand were handled."""

    @property
    @abc.abstractmethod
    def _slices(self) -> Slices:
        """What of a turn it shares with which others."""

    @abc.abstractmethod
    def _will_answer(self) -> bool:
        """Tell whether this turn's flush writes something to this peer."""

    @abc.abstractmethod
    def _leave(self) -> None:
        """Let go of everything beyond the wire; called at least once, and idempotent."""

    # -- reading -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock for CONNECT, or hang up when there are too many."""
        # uvloop's transports are no subclasses of asyncio's, only alike.
        transport = self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else ""
        if not self._wires.has_room(address, counted=self.counted, neighbour=self.by_tls):
            self._counters.connections_refused += 1
            self._ended = True
            transport.abort()
            return
        self._wires.entered(self)
        transport.set_write_buffer_limits(
            high=self._limits.unsent_bytes_high, low=self._limits.unsent_bytes_low
        )
        if self.by_tls:
            # What waits to be decrypted while this connection is not read: 256 KiB by default, which
            # OpenSSL then keeps for as long as the connection is there.
            limit_reads: Callable[[int], None] = transport.set_read_buffer_limits  # type: ignore[attr-defined]  # of TLS only
            limit_reads(READ_BYTES)
        self._deadline(self._limits.connect_timeout_s, self._no_connect)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's name
        """Lend the shared buffer."""
        return self._wires.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read into the shared buffer."""
        self.data_received(bytes(self._wires.read_buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Take what was read, from any transport."""
        if self._ended:
            return
        self._heard_s = self._loop.time()
        self._counters.bytes_in += len(data)
        self._parser.feed(data)
        if not self._waiting:
            if self._slices.is_over_for(len(data)):
                self._wait_for_slice()
            else:
                self._process()
        self._keep_incomplete(self._parser.buffered_bytes)
        # An answer within this turn carries the acknowledgement of TCP by itself, unless the
        # peer's next packet is cut in two and its second half waits for that acknowledgement.
        if (
            self._acknowledges_late
            and len(data) <= _NAGLE_BYTES
            and (self._parser.buffered_bytes or not self._will_answer())
        ):
            self._acknowledges_late = False
            # After this turn's flush: messages go first.
            self._loop.call_soon(acknowledge_now, self._transport)

    def _process(self) -> None:
        try:
            for number, (kind, flags, body) in enumerate(self._parser.packets(), 1):
                self._handle(kind, flags, body)
                if self._waiting or self._ended:
                    break
                # To look at the time costs a tenth of a small packet.
                if (not number % 32 or len(body) > 1024) and self._slices.is_over():
                    self._wait_for_slice()
                    break
        except MalformedPacket as error:
            self._counters.malformed += 1
            logger.warning("%s sent %s", self.name, error)
            self.end("malformed packet")
        self._after_read()

    def _keep_incomplete(self, size_bytes: int) -> None:
        """Account for what waits to become a packet; whoever brings it over the limit goes."""
        self._wires.incomplete_bytes += size_bytes - self._incomplete_bytes
        self._incomplete_bytes = size_bytes
        if size_bytes and self._wires.incomplete_bytes > self._limits.incomplete_bytes_max:
            self._counters.malformed += 1
            logger.warning("%s is cut off: too much has come in part, of all clients", self.name)
            self.drop("too many incomplete packets")

    def _wait_for_slice(self) -> None:
        self._stop_reading()
        self._slices.later(self._go_on_reading)

    def _stop_reading(self) -> None:
        """Leave further packets where they are: unparsed, and then with the peer."""
        self._waiting = True
        if self._transport is not None:
            self._transport.pause_reading()

    def _go_on_reading(self) -> None:
        self._waiting = False
        self._heard_s = self._loop.time()  # it was us who did not listen
        if self._transport is not None and not self._ended:
            self._transport.resume_reading()
            self._process()
            self._keep_incomplete(self._parser.buffered_bytes)

    # -- writing -------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Write whole packets."""
        transport = self._transport
        if transport is None or self._ended:
            return
        transport.write(data)
        self._acknowledges_late = True
        self._counters.bytes_out += len(data)
        if transport.get_write_buffer_size() > self._limits.unsent_bytes_max:
            self._counters.slow_consumers += 1
            self._counters.last_slow_consumer = f"{self.name}: it does not read what it is sent"
            logger.warning("%s does not read what it is sent and is cut off", self.name)
            self.drop("slow consumer")

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the kernel has not taken; 0 once it ends."""
        if self._transport is None or self._ended:
            return 0
        return self._transport.get_write_buffer_size()

    # -- ending --------------------------------------------------------------------------------

    def drop(self, reason: str) -> None:
        """End at once; what was not sent is lost. The rest follows in `connection_lost`."""
        if self._ended:
            return
        logger.info("dropping %s: %s", self.name, reason)
        self._ended = True
        if self._transport is not None:
            self._transport.abort()

    def end(self, reason: str) -> None:
        """Leave now, and close once everything written is sent, or after a while."""
        if self._ended:
            return
        logger.debug("closing %s: %s", self.name, reason)
        self._leave()
        self._ended = True
        if self._transport is not None:
            self._deadline(_LINGER_S, self._transport.abort)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up; the connection is gone."""
        logger.debug("lost %s: %s", self.name, exc)
        self._ended = True
        self._keep_incomplete(0)
        self._wires.gone(self)
        self._leave()
        if self._timer is not None:
            self._timer.cancel()
        self._transport = None

    # -- deadlines -----------------------------------------------------------------------------

    def _deadline(self, delay_s: float, action: Callable[[], None]) -> None:
        """Set the next deadline in place of the last one."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, action)

    def _no_connect(self) -> None:
        self._counters.timed_out += 1
        self.drop("no CONNECT in time")

    def _no_admission(self) -> None:
        self._counters.timed_out += 1
        self.drop("it could not be let in in time")

    def _keep_alive(self, keep_alive_s: int) -> None:
        """Expect to hear from the peer from now on; 0 for never (3.1.2-24)."""
        if self._timer is not None:
            self._timer.cancel()
        self._silence_max_s = keep_alive_s * self._limits.keep_alive_factor
        if keep_alive_s:
            self._check_alive()

    def _check_alive(self) -> None:
        now_s = self._loop.time()
        if self._waiting:
            self._heard_s = now_s
        left_s = self._heard_s + self._silence_max_s - now_s
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._check_alive)
            return
        self._counters.timed_out += 1
        self.drop("silent for longer than its keep-alive allows")
