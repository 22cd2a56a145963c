"""Who may say what: the column `written by` of the topic contract, as decisions.

Decides two things. What a client of a device may publish through it (`client_may`): a program on the device itself
speaks for the device, an operator decides for the fleet, a viewer only looks on. And what a device may say as the
origin of a bundle (`origin_may`): its own topics, of others only that they are lost, and calls in its own name. The
first is asked where a message enters, the second by every receiver, since an origin may be dishonest.

Origins are devices: no other certificate makes a tag that counts. What operators write enters through whichever device
they are connected to, so as to `model/` the origin proves nothing. Manifests carry an operator's
signature, and no others count (`model_trust.py`); certificates, revocation lists and notices of the fleet's key are
signed by its authority.

Assumes that a client's identity was verified by TLS, and an origin by its bundle's tag. Pure. Never raises: what cannot
be read is not allowed to be an exception from a rule.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec

from broker.identity import Role
from broker.mesh.limits import INCARNATION_KNOWN_MAX
from broker.mesh.tags import CONTROL_LANES, Ruling
from broker.topics import REFUTATION_BITS, TABLE, Priority, classify, parse, status_rank

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.identity import Identity
    from broker.mesh.bundle import Message

__all__ = ["OriginPermissions", "carries_authority", "client_may", "is_sealed", "origin_may"]


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


KNOWN_TOPICS_MAX: Final = 20_000
"""Topics of all origins together that need not be looked at again, at about 100 bytes; emptied when full, since a look
costs 3 us."""
_NONE: Final[frozenset[str]] = frozenset()
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


def origin_may(origin: str, topic: str, payload: bytes, rank: int) -> bool:
    """Whether a device may be the origin of a message of that rank."""
    return _is_its_own(origin, topic) or _says_lost(origin, topic, payload, rank)


def carries_authority(topic: str) -> bool:
    """Whether what is said on a topic is believed only with the tag of a control lane."""
    return classify(topic).priority is Priority.CONTROL


def is_sealed(topic: str) -> bool:
    """Whether what is said on a topic counts for an operator's signature, whoever says it."""
    return classify(topic).name == "model"


def _is_its_own(origin: str, topic: str) -> bool:
    """Whether a device may say on a topic whatever it likes."""
    match _WRITERS[classify(topic).name]:
        case _Writer.DEVICE:
            return parse(topic)["device"] == origin
        case _Writer.FROM:
            return parse(topic)["from"] == origin
        case _:
            return True


class OriginPermissions:
    """What of the bundles that arrive is their origins' to say; asked for each bundle, so what is known is remembered.

    Only what is allowed is: whoever says what is not its own to say pays for the look at it.

    Args:
        believes: Whether a value may stand on a topic that `is_sealed`, at a rank.
    """

    __slots__ = ("_believes", "_count", "_known")

    def __init__(self, believes: Callable[[str, bytes, int], bool]) -> None:
        self._believes = believes
        self._known: dict[str, set[str]] = {}
        """By origin: topics that carry no authority, on which it may say whatever it likes."""
        self._count = 0

    def rule(self, origin: str, lane: int, messages: list[Message]) -> Ruling | None:
        """What of a genuine bundle does not count; None: all of it does."""
        if lane < CONTROL_LANES:  # few, and each has cost a signature to check
            unseen = {message.topic for message in messages}
        else:
            unseen = {message.topic for message in messages} - self._known.get(origin, _NONE)
            if not unseen:
                return None
            misplaced = next(filter(carries_authority, unseen), "")
            if misplaced:
                return Ruling(misplaced, [], messages)
        doubtful = {topic for topic in unseen if not _is_its_own(origin, topic) or is_sealed(topic)}
        if lane >= CONTROL_LANES:
            self._remember(origin, unseen - doubtful)
        if not doubtful:
            return None
        allowed: list[Message] = []
        refused: list[Message] = []
        for message in messages:
            topic, payload, rank = message.topic, message.payload, message.rank
            fine = topic not in doubtful or self.may_say(origin, topic, payload, rank)
            (allowed if fine else refused).append(message)
        return Ruling("", allowed, refused) if refused else None

    def may_say(self, origin: str, topic: str, payload: bytes, rank: int) -> bool:
        """Whether a device may be the origin of a retained value."""
        if is_sealed(topic):
            return self._believes(topic, payload, rank)
        return origin_may(origin, topic, payload, rank)

    def _remember(self, origin: str, topics: set[str]) -> None:
        if not topics:
            return
        if self._count + len(topics) > KNOWN_TOPICS_MAX:
            self._known.clear()
            self._count = 0
        self._known.setdefault(origin, set()).update(topics)
        self._count += len(topics)


class _Lost(msgspec.Struct):
    state: Literal["lost"]
    by: str
    incarnation: Annotated[int, msgspec.Meta(ge=0, le=INCARNATION_KNOWN_MAX)]
    refutation: Annotated[int, msgspec.Meta(ge=0, lt=2**REFUTATION_BITS)]


_read_lost: Final = msgspec.json.Decoder(_Lost).decode


def _says_lost(by: str, topic: str, payload: bytes, rank: int) -> bool:
    """Whether a message calls a device lost, in the name of the one that says it, so that the device can deny it.

    Its rank must be that of the life that it quotes, and there must be room for a life above.
    """
    if classify(topic).name != "status":
        return False
    try:
        lost = _read_lost(payload)
    except (ValueError, RecursionError):
        return False
    return lost.by == by and rank == status_rank(lost.incarnation, lost.refutation)
