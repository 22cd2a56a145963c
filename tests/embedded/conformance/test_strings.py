"""Section 1.5.3: strings that are no UTF-8, wherever one stands."""

import pytest

from broker.embedded import packets
from tests.embedded.conformance.broker import serving
from tests.embedded.harness import client, connect_packet, socket_to

publish = packets.encode_publish


def field(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def packet(first: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes((first, len(body))) + body


def connect(flags: int, *fields: bytes) -> bytes:
    return packet(0x10, field(b"MQTT"), bytes((4, flags, 0, 0)), *map(field, fields))


NOT_UTF8 = {
    "a byte that starts nothing": b"a\xff",
    "an overlong slash": b"a\xc0\xaf",
    "a surrogate": b"a\xed\xa0\x80",
    "beyond Unicode": b"a\xf4\x90\x80\x80",
    "cut off": b"a\xe2\x82",
}
NUL = {"NUL": b"a\0b"}
BEFORE = {
    "client id": lambda text: connect(2, text),
    "will topic": lambda text: connect(6, b"c", text, b""),
    "user name": lambda text: connect(0x82, b"c", text),
}
WITHIN = {
    "topic": lambda text: packet(0x30, field(text), b"x"),
    "filter": lambda text: packet(0x82, b"\0\1", field(text), b"\0"),
    "filter to leave": lambda text: packet(0xA2, b"\0\1", field(text)),
}


async def closes(text: bytes) -> None:
    async with serving() as node:
        for make in BEFORE.values():
            async with socket_to(node) as raw:
                raw.send(make(text))
                assert await raw.closed() == []
        for make in WITHIN.values():
            async with client(node) as raw:
                raw.send(make(text))
                assert await raw.closed() == []


@pytest.mark.parametrize("name", NOT_UTF8)
async def test_what_is_not_utf8_closes(name: str) -> None:
    await closes(NOT_UTF8[name])


async def test_nul_closes() -> None:
    await closes(NUL["NUL"])


async def test_a_byte_order_mark_is_a_character_like_any_other() -> None:
    async with serving() as node, client(node, "\ufeffc") as one, client(node, "c") as other:
        await one.subscribe("\ufefft")
        await other.subscribe("t")
        other.send(publish("\ufefft", b"x"))
        assert await other.messages() == []
        assert await one.messages() == [(0, "\ufefft", b"x")]


async def test_any_other_character_stands_in_any_string() -> None:
    text = "ä/日本/\U0001f427/ \x7f"
    async with serving() as node, socket_to(node) as raw:
        raw.send(connect_packet(text, username=text, will=(text, b"gone", 0, False)))
        await raw.expect(packets.CONNACK, b"\0\0")
        assert await raw.subscribe(text, 1) == 1
        raw.send(publish(text, b"x"))
        assert await raw.messages() == [(0, text, b"x")]
