"""The bodies of the packets that a client sends rarely: CONNECT, SUBSCRIBE, UNSUBSCRIBE.

Decides: whether a body is what MQTT 3.1.1 section 3 allows, to the last byte. Assumes: the fixed
header was checked. On failure: `MalformedPacket`. A CONNECT that is well formed but may not be
served carries the return code to refuse it with. A filter that is one, but too long or too deep,
is no reason to hang up: it is refused in the SUBACK.
"""

from typing import Final, NamedTuple

from broker.embedded.limits import CLIENT_ID_BYTES_MAX, MESSAGE_BYTES_MAX
from broker.embedded.packets import decode_topic, parse_packet_id
from broker.embedded.trie import well_formed
from broker.errors import MalformedPacket

ACCEPTED: Final = 0
REFUSED_PROTOCOL: Final = 1
REFUSED_IDENTIFIER: Final = 2
REFUSED_UNAVAILABLE: Final = 3
REFUSED_CREDENTIALS: Final = 4
REFUSED_NOT_AUTHORIZED: Final = 5

# 4 is MQTT 3.1.1. Mosquitto's bridges set the highest bit to say that they are one: they want
# nothing back of what they publish, and RETAIN as it was published.
_LEVEL_BRIDGE: Final = 0x84
_LEVELS_SERVED: Final = (0x04, _LEVEL_BRIDGE)


class Will(NamedTuple):
    """What a client leaves to be published when it goes without saying goodbye."""

    topic: str
    payload: bytes
    qos: int
    retained: bool

    @property
    def size_bytes(self) -> int:
        """What is held of it."""
        return len(self.topic) + len(self.payload)


class Connect(NamedTuple):
    """A CONNECT. With a `refusal` other than `ACCEPTED` the rest may not have been read."""

    refusal: int
    client_id: str = ""
    clean: bool = True
    keep_alive_s: int = 0
    will: Will | None = None
    username: str | None = None
    password: bytes | None = None
    bridge: bool = False


class _Reader:
    """Takes fields off a body from the front."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._position = 0

    def take(self, count: int) -> bytes:
        start, end = self._position, self._position + count
        if end > len(self._body):
            raise MalformedPacket("a body that is cut off")
        self._position = end
        return self._body[start:end]

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def field(self) -> bytes:
        return self.take(self.number(2))

    def text(self) -> str:
        try:
            text = self.field().decode()
        except UnicodeDecodeError as error:
            raise MalformedPacket("a string that is not UTF-8") from error
        if "\0" in text:
            raise MalformedPacket("a string with NUL in it")
        return text

    def topic_filter(self) -> str:
        text = self.text()
        if not well_formed(text):
            raise MalformedPacket("a filter that is none: empty, or a wildcard in the wrong place")
        return text

    def more(self) -> bool:
        return self._position < len(self._body)


def parse_connect(body: bytes) -> Connect:
    """Read a CONNECT.

    Raises:
        MalformedPacket: anything that section 3.1 answers by closing the connection.

    """
    reader = _Reader(body)
    protocol = reader.field()
    level = reader.number(1)
    if protocol == b"MQIsdp" or (protocol == b"MQTT" and level not in _LEVELS_SERVED):
        return Connect(REFUSED_PROTOCOL)
    if protocol != b"MQTT":
        raise MalformedPacket("a protocol that is not MQTT")
    flags = reader.number(1)
    if flags & 0x01 or (flags & 0x40 and not flags & 0x80):
        raise MalformedPacket("CONNECT flags that may not stand together")
    if (flags & 0x38 and not flags & 0x04) or flags & 0x18 == 0x18:
        raise MalformedPacket("will flags without a will, or with QoS 3")
    keep_alive_s = reader.number(2)
    client_id = reader.text()
    will = None
    if flags & 0x04:
        will = Will(
            topic=decode_topic(reader.field()),
            payload=reader.field(),
            qos=flags >> 3 & 3,
            retained=bool(flags & 0x20),
        )
        assert len(will.payload) <= MESSAGE_BYTES_MAX, "its length field has two bytes"
    username = reader.text() if flags & 0x80 else None
    password = reader.field() if flags & 0x40 else None
    if reader.more():
        raise MalformedPacket("a CONNECT with bytes after its end")
    clean = bool(flags & 0x02)
    if not client_id and not clean:
        return Connect(REFUSED_IDENTIFIER)
    if len(client_id.encode()) > CLIENT_ID_BYTES_MAX:
        return Connect(REFUSED_IDENTIFIER)
    bridge = level == _LEVEL_BRIDGE
    return Connect(ACCEPTED, client_id, clean, keep_alive_s, will, username, password, bridge)


def parse_subscribe(body: bytes, filters_max: int) -> tuple[int, list[tuple[str, int]]]:
    """Read a SUBSCRIBE: packet id, and the filters with the QoS asked for.

    Raises:
        MalformedPacket: no filter, one that is none, or a QoS that is none; or too many.

    """
    packet_id = parse_packet_id(body[:2])
    reader = _Reader(body[2:])
    filters: list[tuple[str, int]] = []
    while reader.more():
        topic_filter = reader.topic_filter()
        qos = reader.number(1)
        if qos > 2:
            raise MalformedPacket(f"a subscription with QoS {qos}")
        filters.append((topic_filter, qos))
        if len(filters) > filters_max:
            raise MalformedPacket(f"a SUBSCRIBE with more than {filters_max} filters")
    if not filters:
        raise MalformedPacket("a SUBSCRIBE without a filter")
    return packet_id, filters


def parse_unsubscribe(body: bytes, filters_max: int) -> tuple[int, list[str]]:
    """Read an UNSUBSCRIBE: packet id and filters.

    Raises:
        MalformedPacket: no filter, or one that is none; or too many.

    """
    packet_id = parse_packet_id(body[:2])
    reader = _Reader(body[2:])
    filters: list[str] = []
    while reader.more():
        filters.append(reader.topic_filter())
        if len(filters) > filters_max:
            raise MalformedPacket(f"an UNSUBSCRIBE with more than {filters_max} filters")
    if not filters:
        raise MalformedPacket("an UNSUBSCRIBE without a filter")
    return packet_id, filters
