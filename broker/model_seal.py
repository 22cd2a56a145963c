"""Who signed a manifest: the chain from its signature to the fleet's authority.

Decides whose word counts. An operator's certificate, which the fleet's authority has signed, vouches for the operator's
first model key; each later key is vouched for by the one before it; the last one has signed the manifest. So all that a
device needs is the authority's certificate, which it has since it joined, and no key is ever copied to it. Signatures
are over bytes as they travel, never over a new encoding of what they say. The certificate counts for the moment at
which the manifest says that it was made, so what was signed in time stays good when the certificate has expired.

What is decided here is the same on every device and at any time, revocations excepted, since retained maps would not
agree otherwise. Which keys and counters a device has gone past is its own memory's to say.

Assumes the authority's certificate. On failure: `SealBroken`, with one of a few reasons, as they are counted.
Source: TUF for keys that succeed each other (root rotation); RFC 8032 for Ed25519; X.509 for the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, NamedTuple, TypeAlias

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Meta

from broker.certificates import SIGNATURE, member_of
from broker.identity import CertificateInvalid, Role
from broker.model_envelope import (
    Key,
    SealBroken,
    Statement,
    manifest_in,
    one_line,
    read_envelope,
)
from broker.topic_names import Id  # noqa: TC001 - msgspec reads the types of what came
from broker.topics import COUNTER_MAX, parse

if TYPE_CHECKING:
    from broker.certificates import PublicKey

__all__ = ["Seal", "check_seal", "signed_key", "signed_manifest"]

_SKEW_MS: Final = 300_000
"""How far an operator's clock may be behind the authority's."""

_AtMs: TypeAlias = Annotated[int, Meta(ge=0, le=2**47 - 1)]


class Head(msgspec.Struct, frozen=True):
    """What of a manifest matters to its seal; agents read the rest."""

    site: Id
    name: Id
    counter: Annotated[int, Meta(ge=1, le=COUNTER_MAX)]
    made_ms: _AtMs


class Seal(NamedTuple):
    """Who signed a manifest."""

    head: Head
    operator: str
    serial: int
    """Of the operator's certificate."""
    keys: tuple[tuple[int, bytes], ...]
    """Number and key of each in the row; the last has signed."""


_read_statement: Final = msgspec.json.Decoder(Statement).decode
_read_head: Final = msgspec.json.Decoder(Head).decode


def signed_manifest(fleet: str, manifest: bytes) -> bytes:
    """What a manifest's signature is over."""
    return b"flockmq model manifest 1\0" + fleet.encode() + b"\0" + manifest


def signed_key(statement: bytes) -> bytes:
    """What a key's signature is over."""
    return b"flockmq model key 1\0" + statement


def check_seal(payload: bytes, topic: str, fleet: str, authority_pem: bytes) -> Seal:
    """Who signed what stands on a topic. Revocations are the caller's to look at.

    Args:
        payload: As it travelled.
        topic: A topic of class `model`.
        fleet: The device's own.
        authority_pem: Certificate of its authority.

    Raises:
        SealBroken: Nobody whose word counts.
    """
    envelope = read_envelope(payload)
    if msgspec.json.encode(envelope) != payload:  # base64 has several ways to write the same bytes
        raise SealBroken("unreadable", "it is not as its operator wrote it")
    if not envelope.signature or not envelope.keys or not envelope.certificate:
        raise SealBroken("unsigned")
    try:
        certificate, public_key = member_of(envelope.certificate, authority_pem)
    except CertificateInvalid as error:
        raise SealBroken("wrong signature", f"the certificate: {error}") from None
    member, operator, role = certificate.identity
    if role is not Role.OPERATOR or member != fleet:
        raise SealBroken("not an operator", f"{role} {operator} of fleet {member}")
    keys = _follow(envelope.keys, public_key, fleet, operator)
    manifest = manifest_in(envelope)
    _, last = keys[-1]
    _verify(last, envelope.signature, signed_manifest(fleet, manifest), "of the manifest")
    try:
        head = _read_head(manifest)
    except (ValueError, RecursionError) as error:
        raise SealBroken("unreadable", one_line(error)) from None
    named = parse(topic)
    if (head.site, head.name) != (named["site"], named["name"]):
        raise SealBroken("another model's", f"it is for {head.name} of site {head.site}")
    begins_ms, ends_ms = certificate.not_before_ms - _SKEW_MS, certificate.not_after_ms
    if not begins_ms <= head.made_ms <= ends_ms:
        raise SealBroken("certificate expired", f"{operator} had none that held when it was made")
    return Seal(head, operator, certificate.serial, keys)


def _follow(
    keys: tuple[Key, ...], certified: PublicKey, fleet: str, operator: str
) -> tuple[tuple[int, bytes], ...]:
    """The row of keys, each vouched for by the one before it, the first by the certificate."""
    row: list[tuple[int, bytes]] = []
    for key in keys:
        raw = bytes(key.statement)
        if row:
            _verify(row[-1][1], key.signature, signed_key(raw), f"of key {row[-1][0]}")
        else:
            try:
                certified.verify(key.signature, signed_key(raw), SIGNATURE)
            except InvalidSignature:
                raise SealBroken("wrong signature", "of the certificate") from None
        try:
            statement = _read_statement(raw)
        except (ValueError, RecursionError) as error:
            raise SealBroken("unreadable", one_line(error)) from None
        if (statement.fleet, statement.operator) != (fleet, operator):
            raise SealBroken("wrong signature", "a key is another operator's")
        if row and statement.number <= row[-1][0]:
            raise SealBroken("wrong signature", "keys are out of order")
        row.append((statement.number, statement.key))
    return tuple(row)


def _verify(key: bytes, signature: bytes, said: bytes, what: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, said)
    except (InvalidSignature, ValueError):
        raise SealBroken("wrong signature", what) from None
