"""`[[hub]]` and `[[bridge]]` of device.toml: other people's brokers that this device is to use.

Decides that a hub without a key needs consent in so many words, since it could then write in any device's name; and
that keys and passwords stand in files of their own, which only their owner may read. On failure: a sentence for the
`ConfigError` that agent/config.py raises, or `SecretUnusable` when the device is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from agent.config_types import FarPort, Id, Table
from broker.bridge import BridgeAt, Filter
from broker.hub import HubAt
from broker.mqtt_client import Address
from broker.secret_file import read_secret
from broker.topic_names import TopicError, check_topic_filter

__all__ = ["BridgeConfig", "CrossingConfig", "HubConfig", "foreign_problem"]

KEY_BYTES_MIN: Final = 16
"""128 bits, if they are random."""
CROSSINGS_MAX: Final = 64
"""Filters in one direction; each new topic is compared with all of them once. Guess."""


class HubConfig(Table, frozen=True):
    """`[[hub]]`: a third-party broker at which devices meet that cannot reach each other."""

    host: str
    """Address or name of where it listens."""
    port: FarPort = 1883
    key_file: str | None = None
    """What all devices there know and the hub does not; mode 0600."""
    integrity: Literal["tag", "none"] = "tag"
    """none: nothing proves who wrote a frame, and there is no key_file."""
    peers: tuple[Id, ...] = ()
    """Whom to meet; empty: every device with the key that announces itself."""
    username: str | None = None
    password_file: str | None = None
    """Mode 0600."""

    def beside(self, folder: Path) -> HubConfig:
        """With its files as seen from device.toml."""
        return msgspec.structs.replace(
            self,
            key_file=_beside(folder, self.key_file),
            password_file=_beside(folder, self.password_file),
        )

    def at(self) -> HubAt:
        """For the node, with the secrets read.

        Raises:
            SecretUnusable: A file is missing, or others may read it.
        """
        key = b""
        if self.key_file is not None:
            key = read_secret(Path(self.key_file), "key of a hub", bytes_min=KEY_BYTES_MIN)
        address = _address(self.host, self.port, self.username, self.password_file)
        return HubAt(address, key, self.peers)


class CrossingConfig(Table, frozen=True):
    """An entry of `in` or `out`: what crosses a bridge in that direction."""

    filter: str
    """MQTT topic filter."""
    qos: Annotated[int, Meta(ge=0, le=1)] = 1
    """The most that a message keeps."""


Crossings: TypeAlias = Annotated[tuple[CrossingConfig, ...], Meta(max_length=CROSSINGS_MAX)]


class BridgeConfig(Table, frozen=True, rename={"inward": "in", "outward": "out"}):
    """`[[bridge]]`: a foreign broker whose own clients are joined to the mesh."""

    name: Id
    """The same at every device that is attached to the same broker; one of them is active."""
    host: str
    """Address or name of where it listens."""
    port: FarPort = 1883
    inward: Crossings = ()
    """What comes from there into the mesh."""
    outward: Crossings = ()
    """What goes there."""
    username: str | None = None
    password_file: str | None = None
    """Mode 0600."""

    def beside(self, folder: Path) -> BridgeConfig:
        """With its file as seen from device.toml."""
        return msgspec.structs.replace(self, password_file=_beside(folder, self.password_file))

    def at(self, site: str) -> BridgeAt:
        """For the node, with the password read.

        Raises:
            SecretUnusable: Its file is missing, or others may read it.
        """
        address = _address(self.host, self.port, self.username, self.password_file)
        inward, outward = (
            tuple(Filter(entry.filter, entry.qos) for entry in entries)
            for entries in (self.inward, self.outward)
        )
        return BridgeAt(self.name, site, address, inward, outward)


def foreign_problem(hubs: tuple[HubConfig, ...], bridges: tuple[BridgeConfig, ...]) -> str:
    """What is wrong that types cannot say; empty if nothing is."""
    return _hub_problem(hubs) or _bridge_problem(bridges)


def _bridge_problem(bridges: tuple[BridgeConfig, ...]) -> str:
    for bridge in bridges:
        where = f"[[bridge]] {bridge.name}"
        if not bridge.inward and not bridge.outward:
            return f'{where} has neither in nor out; say what crosses, as in = [{{ filter = "machines/#" }}]'
        for entry in (*bridge.inward, *bridge.outward):
            try:
                check_topic_filter(entry.filter)
            except TopicError as error:
                return f"{where}, filter {entry.filter!r}: {error}"
        if bridge.password_file is not None and bridge.username is None:
            return f"{where} has a password_file and no username; add it"
    names = [bridge.name for bridge in bridges]
    twice = [name for name in names if names.count(name) > 1]
    return f"[[bridge]] {twice[0]} stands there twice; remove one" if twice else ""


def _hub_problem(hubs: tuple[HubConfig, ...]) -> str:
    for hub in hubs:
        where = f"[[hub]] {hub.host}"
        if hub.integrity == "tag" and hub.key_file is None:
            return (
                f"{where} has no key_file, so the hub could write in any device's name; "
                "`head -c 32 /dev/urandom | base64 > hub.key && chmod 600 hub.key`, give every device there that file "
                'and write key_file = "hub.key"; or consent by integrity = "none"'
            )
        if hub.integrity == "none" and hub.key_file is not None:
            return f'{where} has a key_file and integrity = "none"; remove one of them'
        if hub.password_file is not None and hub.username is None:
            return f"{where} has a password_file and no username; add it"
    places = [(hub.host, hub.port) for hub in hubs]
    twice = [host for host, port in places if places.count((host, port)) > 1]
    return f"[[hub]] {twice[0]} stands there twice; remove one" if twice else ""


def _beside(folder: Path, name: str | None) -> str | None:
    return None if name is None else str(folder / name)


def _address(host: str, port: int, username: str | None, password_file: str | None) -> Address:
    password = None
    if password_file is not None:
        password = read_secret(Path(password_file), f"password for {host}")
    return Address(host, port, username, password)
