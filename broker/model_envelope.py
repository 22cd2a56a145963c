"""What travels on `model/{name}`: a manifest, its signature, and what leads from that to the fleet's authority.

    {"manifest": {...}, "signature": ..., "keys": [{"statement": {...}, "signature": ...}, ...], "certificate": ...}

Decides the form, and that a manifest stands in it byte for byte as it was signed. Bytes in JSON are base64. Whether a
signature holds is for `model_seal.py`, which costs 12 MB to import. On failure: `SealBroken`.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from broker.topic_names import Id  # noqa: TC001 - msgspec reads the types of what came
from broker.topics import COUNTER_MAX

__all__ = [
    "ENVELOPE_BYTES_MAX",
    "KEYS_MAX",
    "Envelope",
    "Key",
    "SealBroken",
    "Statement",
    "manifest_in",
    "one_line",
    "read_envelope",
    "write_envelope",
]

ENVELOPE_BYTES_MAX: Final = 248 * 1024
"""With its topic and what surrounds it, it is a message of the mesh."""
KEYS_MAX: Final = 8
"""Keys in a row; after that the operator's certificate vouches anew. A change each quarter for two years."""

_Signature: TypeAlias = Annotated[bytes, Meta(max_length=128)]


class SealBroken(ValueError):
    """A manifest is nobody's whose word counts.

    Args:
        reason: As it is counted.
        detail: For people.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Statement(msgspec.Struct, frozen=True):
    """That a key speaks for an operator."""

    fleet: Id
    operator: Id
    number: Annotated[int, Meta(ge=1, le=COUNTER_MAX)]
    """Counts up with each key of this operator: the moment at which it was made, in milliseconds since 1970."""
    key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    """Ed25519, public."""


class Key(msgspec.Struct, frozen=True):
    """A statement, signed."""

    statement: msgspec.Raw
    signature: _Signature
    """Of the first key in a row by the operator's certificate (ECDSA, P-256, SHA-256), else by the key before."""


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """What travels. Without signature, keys and certificate it counts where devices are told to believe anybody."""

    manifest: msgspec.Raw
    signature: _Signature = b""
    """By the last key."""
    keys: Annotated[tuple[Key, ...], Meta(max_length=KEYS_MAX)] = ()
    certificate: Annotated[bytes, Meta(max_length=4_096)] = b""
    """The operator's, as DER."""


_read: Final = msgspec.json.Decoder(Envelope).decode


def write_envelope(
    manifest: bytes, signature: bytes = b"", keys: tuple[Key, ...] = (), certificate: bytes = b""
) -> bytes:
    """The payload of a manifest; `manifest` stands in it as it is."""
    return msgspec.json.encode(Envelope(msgspec.Raw(manifest), signature, keys, certificate))


def read_envelope(payload: bytes) -> Envelope:
    """What a payload holds.

    Raises:
        SealBroken: It is too large, or no envelope.
    """
    if len(payload) > ENVELOPE_BYTES_MAX:
        raise SealBroken("too large", f"{len(payload)} bytes of at most {ENVELOPE_BYTES_MAX}")
    try:
        payload.decode()  # msgspec does not look at the text of fields that it skips
        return _read(payload)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise SealBroken("unreadable", one_line(error)) from None


def manifest_in(envelope: Envelope) -> bytes:
    """The manifest's bytes, as they were signed."""
    return bytes(envelope.manifest)


def one_line(error: Exception) -> str:
    """What an error says, as the detail of a `SealBroken`."""
    return " ".join(str(error).split())[:150]
