"""The fleet's shared key, and the notice by which its authority hands it to the devices.

Decides: the authority draws keys at random, numbers them, and hands out the newest KEYS_MAX, so that what was tagged
before a change can still be checked. A notice holds them once for each device, wrapped for its certificate's key, and
is signed as a whole: it may travel openly, by any way and through anybody, and nobody else can read the keys or make
one. The notice with the greatest number counts.

A notice, as PEM with a label of its own: a signature (ECDSA, P-256, SHA-256) over the rest, which is msgpack. Keys are
wrapped by AES key wrap under HKDF-SHA256 of an ECDH secret between a key made for this notice and the device's own.

Assumes that times are right; who calls knows them. On failure: `CertificateInvalid`. Never logs or shows a key.

Source: RFC 5869 for HKDF, RFC 3394 for key wrap, SP 800-56A for the agreement.
"""

from __future__ import annotations

import binascii
import secrets
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from broker.certificates import SIGNATURE
from broker.identity import DAY_MS, GRACE_DAYS, CertificateInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.certificates import Key, PublicKey

__all__ = [
    "KEYS_MAX",
    "KEY_DAYS",
    "OVERLAP_MS",
    "FleetKey",
    "Notice",
    "make_notice",
    "new_key",
    "read_notice",
]

SECRET_BYTES: Final = 32
KEYS_MAX: Final = 3
"""How many the authority hands out: the one in use and two before it."""
KEY_DAYS: Final = 30
"""After so long `flockmq ca keep` changes the key. With KEYS_MAX a change reaches back past the overlap. Guess."""
OVERLAP_MS: Final = GRACE_DAYS * DAY_MS
"""For how long after a change the key before it still counts, by the stamp of what it tags: a device that was cut off
brings along what it published meanwhile. As long as its certificate would be excused."""
NOTICE_BYTES_MAX: Final = 200 * 1024
"""A thousand devices; a message of the mesh has 256 KiB."""
_BEGIN: Final = "-----BEGIN FLOCKMQ FLEET KEY-----"
_END: Final = "-----END FLOCKMQ FLEET KEY-----"
_SIGNED_AS: Final = b"flockmq fleet key 1\0"
_CURVE: Final = ec.SECP256R1()


class FleetKey(msgspec.Struct, frozen=True):
    """One key of a fleet."""

    number: int
    from_ms: int
    """Since when it is in use, since 1970."""
    secret: bytes


class Notice(NamedTuple):
    """What a device reads in a notice."""

    number: int
    whole: bool
    """Whether it is for all devices, and not only for one."""
    keys: tuple[FleetKey, ...]
    """The newest last."""


class _Content(msgspec.Struct, array_like=True):
    fleet: str
    number: int
    whole: bool
    keys: list[tuple[int, int]]
    """Number and first moment of each."""
    ephemeral: bytes
    """The public key that was made for this notice, as a compressed point."""
    wrapped: dict[str, bytes]
    """By device: the secrets in a row, wrapped."""


def new_key(number: int, now_ms: int) -> FleetKey:
    """A key that is in use from now on."""
    return FleetKey(number, now_ms, secrets.token_bytes(SECRET_BYTES))


def make_notice(
    authority: Key,
    fleet: str,
    number: int,
    keys: Sequence[FleetKey],
    devices: Mapping[str, PublicKey],
    *,
    whole: bool,
) -> bytes:
    """A notice, as PEM.

    Args:
        authority: The authority's key.
        fleet: Whose.
        number: Greater than that of any earlier notice.
        keys: The newest last.
        devices: Whom it is for.
        whole: Whether these are all.
    """
    ephemeral = ec.generate_private_key(_CURVE)
    row = b"".join(key.secret for key in keys)
    wrapped = {
        name: aes_key_wrap(_secret(ephemeral, public_key, fleet, name, number), row)
        for name, public_key in devices.items()
    }
    point = ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    numbers = [(key.number, key.from_ms) for key in keys]
    content = msgspec.msgpack.encode(_Content(fleet, number, whole, numbers, point, wrapped))
    signature = authority.sign(_SIGNED_AS + content, SIGNATURE)
    text = b64encode(msgspec.msgpack.encode((signature, content))).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join([_BEGIN, *lines, _END, ""]).encode()


def read_notice(pem: bytes, authority: PublicKey, fleet: str, name: str, own: Key) -> Notice:
    """What a notice says to one device; no keys where it is not among those it is for.

    Raises:
        CertificateInvalid: It is none, not of this fleet, or the authority has not signed it.
    """
    content = _verified(pem, authority)
    if content.fleet != fleet:
        raise CertificateInvalid(f"it is of fleet {content.fleet}")
    wrapped = content.wrapped.get(name)
    if wrapped is None:
        return Notice(content.number, content.whole, ())
    try:
        point = ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, content.ephemeral)
        row = aes_key_unwrap(_secret(own, point, fleet, name, content.number), wrapped)
    except (ValueError, InvalidUnwrap):
        raise CertificateInvalid("it does not open with this device's key") from None
    if len(row) != SECRET_BYTES * len(content.keys):
        raise CertificateInvalid("it holds other keys than it says")
    keys = (
        FleetKey(number, from_ms, row[at * SECRET_BYTES : (at + 1) * SECRET_BYTES])
        for at, (number, from_ms) in enumerate(content.keys)
    )
    return Notice(content.number, content.whole, tuple(keys))


def _verified(pem: bytes, authority: PublicKey) -> _Content:
    """What the authority has signed; nothing of it is looked at before that."""
    text = pem.decode(errors="replace").strip()
    if len(pem) > NOTICE_BYTES_MAX or not text.startswith(_BEGIN) or not text.endswith(_END):
        raise CertificateInvalid("it is no notice of a fleet's key")
    try:
        packed = b64decode("".join(text.splitlines()[1:-1]), validate=True)
        signature, content = msgspec.msgpack.decode(packed, type=tuple[bytes, bytes])
        authority.verify(signature, _SIGNED_AS + content, SIGNATURE)
        return msgspec.msgpack.decode(content, type=_Content)
    except InvalidSignature:
        raise CertificateInvalid("the fleet's authority has not signed it") from None
    except (ValueError, binascii.Error):
        raise CertificateInvalid("it is a damaged notice of a fleet's key") from None


def _secret(own: Key, other: PublicKey, fleet: str, name: str, number: int) -> bytes:
    """What wraps the keys for one device in one notice."""
    info = _SIGNED_AS + f"{fleet}\0{name}\0{number}".encode()
    return HKDF(hashes.SHA256(), SECRET_BYTES, None, info).derive(own.exchange(ec.ECDH(), other))
