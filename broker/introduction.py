"""What a device says of itself to whoever asks at its broker's address, and how to ask.

A seed is an address without a name, and a link needs the name: it stands in the topics of every frame. So each device
keeps `{"device", "site", "protocol"}` retained on DEVICE_TOPIC of its own broker, as readable as its status, and one
that has only the address asks as an ordinary client without an id, before it dials. The same question measures the
round trip to a device that there is no link to.

Assumes that what answers may be anything: it gets ASK_TIMEOUT_S and ANSWER_BYTES_MAX, and `Unanswered` says what is
wrong. Where this device has an identity, it asks over TLS, and the certificate must be that of the device that
answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any, Final, NamedTuple

import msgspec

from broker.embedded import packets
from broker.errors import MalformedPacket
from broker.mesh.frame import PROTOCOL
from broker.tls import explain
from broker.topic_names import Id  # noqa: TC001 - msgspec reads the types of what came
from broker.trust import NotAdmitted, Trust
from broker.words import in_words

__all__ = ["DEVICE_TOPIC", "Introduction", "Unanswered", "ask", "introduction", "meet"]

DEVICE_TOPIC: Final = "local/flockmq/device"
"""Where a device says who it is, retained."""
ASK_TIMEOUT_S: Final = 2.0
"""From SYN to the answer; as for a link (broker/dialler.py)."""
ANSWER_BYTES_MAX: Final = 4096
"""CONNACK, SUBACK, PINGRESP and an introduction are under 200."""
KEEP_ALIVE_S: Final = 10


class Introduction(msgspec.Struct, frozen=True):
    """Who a device is."""

    device: Id
    site: Id
    protocol: int


class Answer(NamedTuple):
    """Who answers at an address, and how fast."""

    introduction: Introduction
    rtt_ms: float


class Unanswered(Exception):
    """Nobody answers there, or nobody of this site who could be linked to; the text says what is there."""


def introduction(device: str, site: str) -> dict[str, Any]:
    """What to keep on DEVICE_TOPIC, as JSON."""
    return {"device": device, "site": site, "protocol": PROTOCOL}


async def ask(host: str, port: int, site: str, trust: Trust | None = None) -> Answer:
    """Ask who listens at an address.

    Args:
        host: Address or name.
        port: Of its broker.
        site: This device's.
        trust: Who is believed, over TLS; None: plain MQTT.

    Raises:
        Unanswered: Nobody, or nobody of this site and protocol.
    """
    answer = await meet(host, port, trust)
    if answer.introduction.site != site:
        who = answer.introduction
        raise Unanswered(f"{who.device} is of site {who.site}")
    return answer


async def meet(host: str, port: int, trust: Trust | None) -> Answer:
    """Ask who listens at an address, of whichever site. See `ask`.

    Raises:
        Unanswered: Nobody, or nobody of this protocol, or of this fleet.
    """
    try:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            answer = await _ask(host, port, trust)
    except ssl.SSLError as error:
        raise Unanswered(explain(error)) from None
    except NotAdmitted as error:
        raise Unanswered(str(error)) from None
    except TimeoutError:
        raise Unanswered("no flockmq device answers") from None
    except (OSError, ValueError, OverflowError, RecursionError, MalformedPacket) as error:
        raise Unanswered(in_words(error, "it hangs up")) from None
    who = answer.introduction
    if who.protocol != PROTOCOL:
        raise Unanswered(f"{who.device} speaks protocol {who.protocol}, this device {PROTOCOL}")
    return answer


async def _ask(host: str, port: int, trust: Trust | None) -> Answer:
    reader, writer = await asyncio.open_connection(
        host,
        port,
        ssl=None if trust is None else trust.client,
        server_hostname=None if trust is None else "",
    )
    try:
        inbox = _Inbox(reader)
        writer.write(packets.encode_connect("", KEEP_ALIVE_S))
        accepted = await inbox.next(packets.CONNACK)
        if accepted[-1:] != b"\0":
            raise Unanswered(f"its broker refuses this device (CONNACK {accepted[-1:].hex()})")
        writer.write(packets.encode_subscribe(1, [(DEVICE_TOPIC, 0)]))
        _, payload, _ = packets.parse_publish(0, await inbox.next(packets.PUBLISH))
        who = msgspec.json.decode(payload, type=Introduction)
        if trust is not None:
            fields = writer.get_extra_info("peercert")
            trust.admit_neighbour(fields, who.device, f"{host}:{port}")
        loop = asyncio.get_running_loop()
        asked_s = loop.time()
        writer.write(packets.PINGREQ_PACKET)
        await inbox.next(packets.PINGRESP)
        rtt_ms = (loop.time() - asked_s) * 1000
        writer.write(packets.DISCONNECT_PACKET)
        return Answer(who, rtt_ms)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


class _Inbox:
    """Packets of one answer."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._parser = packets.PacketParser(ANSWER_BYTES_MAX)
        self._read_bytes = 0
        self._packets: list[tuple[int, bytes]] = []

    async def next(self, wanted: int) -> bytes:
        """The body of the next packet of a kind; others before it are passed over."""
        while True:
            while self._packets:
                kind, body = self._packets.pop(0)
                if kind == wanted:
                    return body
            data = await self._reader.read(ANSWER_BYTES_MAX)
            self._read_bytes += len(data)
            if not data or self._read_bytes > ANSWER_BYTES_MAX:
                raise Unanswered("what listens there is no flockmq device")
            self._parser.feed(data)
            self._packets += [(kind, body) for kind, _, body in self._parser.packets()]
