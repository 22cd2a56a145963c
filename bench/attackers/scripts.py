"""What one connection of an attacker does, attack by attack.

Decides: one script each, as hostile as its name says and no cleverer. Those who need to be somebody have the identity
of a member: `screen` looks on only, `e` is a device. A script that is let go of where it should be is a finding of the
benchmark, not of this module. Assumes what `Target` says.
"""

from __future__ import annotations

import contextlib
import itertools
import ssl
from typing import TYPE_CHECKING, Final, NamedTuple

from bench.attackers.crowd import WRITE, Crowd, Wait, addresses, dial, read, shake_hands, write
from broker.embedded import packets
from broker.embedded.limits import (
    CONNECT_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    TOPIC_LEVELS_MAX,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Generator

    from bench.attackers.crowd import Script

__all__ = [
    "Target",
    "connections",
    "half_open",
    "huge_packets",
    "names",
    "never_reads",
    "nobody",
    "retained_bombs",
    "slow_connect",
    "strangers",
    "subscription_bombs",
]

KEEP_ALIVE_S: Final = 60
HELD_S: Final = 60.0
"""Longer than any window."""
BLOCK: Final = 66
"""Of loopback addresses: 127.66.0.x."""


class Target(NamedTuple):
    """The device that is attacked, and what the attacker has."""

    link_port: int
    """By TLS."""
    port: int
    """Plain."""
    identities: str
    """Folder with the identity of each member, and of a member of another fleet."""


def context(identity: str | None, authority: str) -> ssl.SSLContext:
    """A client's, with or without a certificate."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE  # an attacker does not care whom it attacks
    made.load_verify_locations(f"{authority}/ca.pem")
    if identity is not None:
        made.load_cert_chain(f"{identity}/own.pem", f"{identity}/own.key")
    return made


def client_hello() -> bytes:
    """The first flight of a handshake, made once and sent over and over."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    with contextlib.suppress(ssl.SSLWantReadError):
        made.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


class _Client:
    """A member's connections: where they come from, by which certificate, under which names."""

    def __init__(self, target: Target, member: str | None) -> None:
        self._target = target
        self.addresses = addresses(BLOCK)
        self._names = itertools.count()
        self._member = member
        folder = f"{target.identities}/identity-{member}"
        self._context = None if member is None else context(folder, folder)

    def connected(self) -> Generator[Wait, None, socket.socket]:
        """A connection that has been let in. Without a member: by plain MQTT."""
        port = self._target.port if self._context is None else self._target.link_port
        sock = yield from dial(port, next(self.addresses))
        try:
            if self._context is not None:
                sock = yield from shake_hands(sock, self._context)
            name = f"{self._member or 'program'}-{next(self._names)}"
            yield from write(sock, packets.encode_connect(name, KEEP_ALIVE_S))
            yield from read(sock)
        except BaseException:
            sock.close()
            raise
        return sock


def nobody(_target: Target) -> Crowd:
    """No attack, to compare with."""

    def script() -> Script:
        yield Wait(None, 0, HELD_S)

    return Crowd(script, 1)


def strangers(identity: str | None, client_id: str) -> Callable[[Target], Crowd]:
    """Handshakes with a certificate that does not count, or without one, and a CONNECT behind them."""

    def crowd(target: Target) -> Crowd:
        folder = None if identity is None else f"{target.identities}/identity-{identity}"
        made = context(folder, f"{target.identities}/identity-b")
        sources = addresses(BLOCK)

        def script() -> Script:
            sock = yield from dial(target.link_port, next(sources))
            try:
                sock = yield from shake_hands(sock, made)
                yield from write(sock, packets.encode_connect(client_id, KEEP_ALIVE_S))
                answer = yield from read(sock)
                if answer[3:4] == b"\0":
                    raise OSError("let in")
                yield from read(sock)
            finally:
                sock.close()

        return Crowd(script, 32)

    return crowd


def connections(target: Target) -> Crowd:
    """Connections that are closed as soon as they are there, at both ports in turn."""
    sources, ports = addresses(BLOCK), itertools.cycle([target.link_port, target.port])

    def script() -> Script:
        sock = yield from dial(next(ports), next(sources))
        sock.close()

    return Crowd(script, 64)


def half_open(target: Target) -> Crowd:
    """Connections that say nothing, and such as say hello and nothing more; held for as long as they may."""
    sources, hellos = addresses(BLOCK), itertools.cycle([b"", client_hello()])

    def script() -> Script:
        sock = yield from dial(target.link_port, next(sources))
        try:
            yield from write(sock, next(hellos))
            while True:
                yield from read(sock)
        finally:
            sock.close()

    return Crowd(script, 1_000)


def slow_connect(target: Target) -> Crowd:
    """A CONNECT of a byte a second, at the plain port."""
    sources = addresses(BLOCK)
    packet = packets.encode_connect("slow", KEEP_ALIVE_S)

    def script() -> Script:
        sock = yield from dial(target.port, next(sources))
        try:
            for number in range(len(packet)):
                yield from write(sock, packet[number : number + 1])
                yield Wait(None, 0, 1.0)
        finally:
            sock.close()

    return Crowd(script, 1_000)


def _length(body: bytes) -> bytes:
    """A remaining length, in three bytes."""
    size = len(body)
    return bytes((size & 127 | 128, size >> 7 & 127 | 128, size >> 14))


def _publish(topic: bytes, payload: bytes, flags: int = 0) -> bytes:
    field = len(topic).to_bytes(2, "big") + topic
    return packets.publish_frame(flags, field, payload)


def huge_packets(target: Target) -> Crowd:
    """Packets that say they are longer than any may be, that are as long as they may be, and that never end."""
    client = _Client(target, "screen")
    whole = packets.encode_publish("home/huge", bytes(MESSAGE_BYTES_MAX))
    endless = b"\x30\xff\xff\xff\x7f" + bytes(65_536)
    turns = itertools.cycle(["endless", "whole", "part", "connect"])

    def script() -> Script:
        turn = next(turns)
        if turn == "connect":
            sock = yield from dial(target.port, next(client.addresses))
        else:
            sock = yield from client.connected()
        try:
            if turn == "whole":
                for _ in range(64):
                    yield from write(sock, whole)
            elif turn == "part":
                yield from write(sock, whole[:-1])
            elif turn == "connect":
                yield from write(sock, b"\x10\xff\xff\xff\x7f" + bytes(CONNECT_BYTES_MAX))
            else:
                yield from write(sock, endless)
            yield from read(sock)
        finally:
            sock.close()

    return Crowd(script, 300)


def _filters(start: int, count: int) -> list[str]:
    """Different filters, most of which match obstacles, or topics as deep as may be."""
    words = ("flock", "v1", "city", "obstacle", "a", "veh-1")
    made = []
    for number in range(start, start + count):
        wild = [number >> place & 1 for place in range(len(words))]
        head = ["+" if bit else word for bit, word in zip(wild, words, strict=True)]
        depth = number // 64 % (TOPIC_LEVELS_MAX - len(words))
        deep = ["+" if number >> place % 16 & 1 else "x" for place in range(depth)]
        made.append("/".join([*head[: 1 + number % len(words)], *deep, "#"]))
    return made


def subscription_bombs(target: Target) -> Crowd:
    """Filters by the thousand, deep and full of wildcards, subscribed over and over; deep topics beside."""
    client, publisher = _Client(target, "screen"), _Client(target, "e")
    numbers, turns = itertools.count(0, 500), itertools.count()
    deep = "/".join(["flock2", *["x"] * (TOPIC_LEVELS_MAX - 2)])

    def script() -> Script:
        if next(turns) % 8 == 0:
            sock = yield from publisher.connected()
        else:
            sock = yield from client.connected()
        try:
            for number in range(64):
                filters = [(name, 1) for name in _filters(next(numbers), 500)]
                yield from write(sock, packets.encode_subscribe(1, filters))
                yield from write(sock, packets.encode_publish(f"{deep}/{number}", b"x"))
                yield from read(sock)
        finally:
            sock.close()

    return Crowd(script, 16)


def retained_bombs(target: Target) -> Crowd:
    """Retained values on ever new topics, small and large ones, by a device's certificate."""
    client = _Client(target, "e")
    numbers, turns = itertools.count(), itertools.count()

    def script() -> Script:
        sock = yield from client.connected()
        try:
            while True:
                payload = bytes(16_384 if next(turns) % 8 == 0 else 32)
                topics = [f"home/bomb/{next(numbers)}" for _ in range(16)]
                bombs = [packets.encode_publish(topic, payload, retained=True) for topic in topics]
                yield from write(sock, b"".join(bombs))
                yield Wait(sock, WRITE)
        finally:
            sock.close()

    return Crowd(script, 8)


_NAMES: Final = (
    b"a/\0/b",
    b"a/\xed\xa0\x80/b",
    b"a/\xff\xfe",
    b"x" * 65_535,
    b"/" * 65_535,
    b"a/+/b",
    b"",
)


def names(target: Target) -> Crowd:
    """Topics that are none: with NUL, surrogates, wildcards, without an end; as topics, filters and client ids."""
    client = _Client(target, None)
    turns = itertools.cycle(range(3 * len(_NAMES)))

    def script() -> Script:
        turn = next(turns)
        name, where = _NAMES[turn // 3], turn % 3
        field = len(name).to_bytes(2, "big") + name
        sock = yield from (
            client.connected() if where else dial(target.port, next(client.addresses))
        )
        try:
            if where == 0:
                body = b"\0\4MQTT\4\2\0\0" + field
                yield from write(sock, b"\x10" + _length(body) + body)
            elif where == 1:
                yield from write(sock, _publish(name, b"x"))
            else:
                body = b"\0\1" + field + b"\0"
                yield from write(sock, b"\x82" + _length(body) + body)
            yield from read(sock)
        finally:
            sock.close()

    return Crowd(script, 32)


def never_reads(target: Target) -> Crowd:
    """Clients on `#` that never read, and one that publishes what they get."""
    reader, publisher = _Client(target, "screen"), _Client(target, "e")
    turns = itertools.count()
    packet = packets.encode_publish("home/noise", bytes(4_096))
    kept = packets.encode_publish("home/kept", bytes(4_096), 1, packet_id=1)

    def script() -> Script:
        if next(turns) % 20:
            sock = yield from reader.connected()
            try:
                yield from write(sock, packets.encode_subscribe(1, [("#", 1)]))
                yield Wait(None, 0, HELD_S)
            finally:
                sock.close()
            return
        sock = yield from publisher.connected()
        try:
            while True:
                yield from write(sock, packet * 8 + kept)
                yield Wait(sock, WRITE)
        finally:
            sock.close()

    return Crowd(script, 20)
