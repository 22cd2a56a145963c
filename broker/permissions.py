"""Who may say what: the column `written by` of the topic contract, as decisions.

Decides two things. What a client of a device may publish through it (`client_may`): a program on the device itself
speaks for the device, an operator decides for the fleet, a viewer only looks on. And what a device may say as the
origin of a bundle (`origin_may`): its own topics, of others only that they are lost, and calls in its own name. The
first is asked where a message enters, the second by every receiver, since an origin may be dishonest.

What operators write enters through whichever device they are connected to, so as to `model/` the origin proves nothing;
manifests, certificates and revocation lists carry signatures of their own.

Assumes that a client's identity was verified by TLS, and an origin by its bundle's tag. Pure. Never raises: what cannot
be read is not allowed to be an exception from a rule.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from broker.identity import Role
from broker.topics import TABLE, classify, parse

if TYPE_CHECKING:
    from broker.identity import Identity

__all__ = ["client_may", "origin_may"]


class _Writer(Enum):
    """Who writes a class of topics."""

    DEVICE = "that device"
    FROM = "`from`"
    OPERATOR = "role operator"
    ON_DEVICE = "anyone on the device"
    ANYBODY = "by ACL"
    LINK = "link's own"
    ANNOUNCER = "that device, at a hub"


def _writer(written_by: str) -> _Writer:
    """The longest beginning that fits: the rest of the column says how, for people."""
    fitting = [writer for writer in _Writer if written_by.startswith(writer.value)]
    return max(fitting, key=lambda writer: len(writer.value))


_WRITERS: Final = {row.name: _writer(row.written_by) for row in TABLE}


def client_may(topic: str, device: str, client: Identity | None, *, secured: bool) -> bool:
    """Whether a client may publish on a topic through a device.

    Args:
        topic: A valid topic name.
        device: Through which it publishes.
        client: Who it is by its certificate; None: a program on the device itself.
        secured: Whether the device belongs to a fleet with identities. Where nobody has one, a program on a device may
            do what an operator may.
    """
    own = client is None or (client.role is Role.DEVICE and client.name == device)
    operator = client.role is Role.OPERATOR if client is not None else not secured
    match _WRITERS[classify(topic).name]:
        case _Writer.DEVICE:
            return own and parse(topic)["device"] == device
        case _Writer.FROM:
            return (own or operator) and parse(topic)["from"] == device
        case _Writer.OPERATOR:
            return operator
        case _Writer.ON_DEVICE:
            return own or operator
        case _Writer.ANYBODY:
            return client is None or client.role is not Role.VIEWER
        case _:
            return False


def origin_may(origin: str, topic: str, payload: bytes) -> bool:
    """Whether a device may be the origin of a message."""
    row = classify(topic)
    match _WRITERS[row.name]:
        case _Writer.DEVICE:
            return parse(topic)["device"] == origin or (
                row.name == "status" and _is_lost(payload, origin)
            )
        case _Writer.FROM:
            return parse(topic)["from"] == origin
        case _:
            return True


class _Lost(msgspec.Struct):
    state: Literal["lost"]
    by: str


_read_lost: Final = msgspec.json.Decoder(_Lost).decode


def _is_lost(payload: bytes, by: str) -> bool:
    try:
        return _read_lost(payload).by == by
    except (ValueError, RecursionError):
        return False
