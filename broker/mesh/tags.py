"""Where a bundle's integrity tag is put on and looked at. How it is made, whoever drives the mesh says.

Decides what a tag covers: all bytes of the header before `tag_kind`, and the body as it travels. An expired bundle
travels as its bare header, so a tag must be of use without the body: `Seals` puts a digest of the body into the tag,
and covers that together with the header.

Assumes a `Seals` that knows the keys; this core knows none, and no cryptography. Without one (simulator, a device
without identity) no tags are made and none are looked at. On failure: a `Fault` says what is wrong with a bundle that
came, and whether the neighbour that brought it must have been able to tell.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from broker.mesh.bundle import TAG_HEAD_BYTES, Header, encode_header

if TYPE_CHECKING:
    from broker.mesh.bundle import Message

__all__ = ["CONTROL_LANES", "Fault", "Ruling", "Seals", "TagInvalid", "covered_by", "sealed"]

CONTROL_LANES: Final = 2
"""Lanes below it, those of priority 0, carry authority: their tags are such as no relay can make."""

_HEAD: Final = struct.Struct(">BH")


class TagInvalid(ValueError):
    """Raised for a certificate that makes nobody's tags believable. The text says why."""


class Fault(NamedTuple):
    """What is wrong with a bundle's tag."""

    reason: str
    """As it is counted, and told of the neighbour that is to blame."""
    blamed: bool = False
    """Whether the neighbour that brought it must have been able to tell: it forwards what it has checked only."""
    signer: int = 0
    """The key whose certificate is missing here; 0: none is."""


class Ruling(NamedTuple):
    """Of a genuine bundle in which something is said that does not count."""

    misplaced: str
    """A topic that needs a lane whose tags are stronger: nothing of the bundle counts. Empty: there is none."""
    allowed: list[Message]
    refused: list[Message]
    """What is not its origin's to say; the rest counts."""


class Seals(Protocol):
    """Makes and checks tags, and knows who may say what."""

    def seal(self, lane: int, covered: bytes, body: bytes) -> tuple[int, bytes]:
        """Kind and bytes of the tag of an own bundle."""
        ...

    def is_current(self, header: Header) -> bool:
        """Whether an own bundle's tag is one that would be made today; after a boot, others are made anew."""
        ...

    def check(self, header: Header, covered: bytes, body: bytes) -> Fault | None:
        """What is wrong with a bundle that came. An empty body was left out, since it has expired."""
        ...

    def rule(self, header: Header, messages: list[Message]) -> Ruling | None:
        """What of a genuine bundle does not count; None: all of it does.

        The same on every device, whatever it knows of the origin, or retained maps would never agree.
        """
        ...

    def may_say(self, origin: str, topic: str, payload: bytes, rank: int) -> bool:
        """Whether a retained value may be its origin's. The same on every device, too."""
        ...

    @property
    def grounds(self) -> object:
        """What verdicts rest on besides a message: another object once they may differ."""
        ...

    def proves(self, lane: int) -> bool:
        """Whether tags of a lane are believed only where nobody but the origin can make them."""
        ...

    def carries_authority(self, topic: str) -> bool:
        """Whether what is said on a topic is believed only with the tag of a control lane."""
        ...

    def needs_proof(self, topic: str) -> bool:
        """Whether a retained value that a neighbour gives is believed only in the bundle of its origin."""
        ...

    def certificate(self, signer: int) -> bytes | None:
        """The certificate of a key, to be handed on; None: it is not known."""
        ...

    def learn(self, certificate: bytes) -> int:
        """Believe a certificate from now on; returns its key.

        Raises:
            TagInvalid: It is none of the fleet's.
        """
        ...


def sealed(header: Header, body: bytes, seals: Seals | None) -> tuple[Header, bytes]:
    """The header of an own bundle with its tag, and its bytes."""
    if seals is None:
        return header, encode_header(header)
    if header.tag_kind:
        header = header._replace(tag_kind=0, tag=b"")
    covered = encode_header(header)[:-TAG_HEAD_BYTES]
    kind, tag = seals.seal(header.lane, covered, body)
    header = header._replace(tag_kind=kind, tag=tag)
    return header, b"".join((covered, _HEAD.pack(kind, len(tag)), tag))


def covered_by(header: Header, head: bytes) -> bytes:
    """Those bytes of a header that its tag covers."""
    return head[: len(head) - TAG_HEAD_BYTES - len(header.tag)]
