"""An operator's model key: the one file that can sign manifests, in the operator's identity folder.

Decides how keys follow each other. The operator's certificate vouches for the first; `rotate` makes the next one, which
the present one vouches for. A key's number is the moment at which it was made, so one that is made after the file was
lost comes after it, too. Where the certificate is for another key than the one that vouched (it was issued anew, not
renewed), and after KEYS_MAX keys, the certificate vouches for the present key under the next number. All of it stands
in one file, mode 0600, replaced as a whole, so a crash leaves the old key or the new one and never half of each.

Assumes an identity folder with an operator's certificate that holds at this moment. On failure: `IdentityUnusable` with
the way out. The key is never told or logged. Source: TUF, root rotation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from broker.certificates import SIGNATURE, member_of, read_key
from broker.errors import IdentityUnusable
from broker.identity import CertificateInvalid, Role
from broker.identity_folder import AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE, MODEL_KEY_FILE
from broker.model_envelope import KEYS_MAX, Key, Statement, write_envelope
from broker.model_seal import signed_key, signed_manifest
from broker.secret_file import read_secret, write_file

if TYPE_CHECKING:
    from pathlib import Path

    from broker.certificates import Key as CertifiedKey
    from broker.identity import Certificate

__all__ = ["ModelKey"]


class _File(msgspec.Struct, frozen=True):
    """What is kept."""

    private: bytes
    """Ed25519."""
    keys: tuple[Key, ...]
    """The row that ends with it; public."""


class ModelKey:
    """Of one operator.

    Args:
        directory: The operator's identity folder. A first key is made if there is none.
        now_ms: The time, since 1970.

    Raises:
        IdentityUnusable: It is no operator's, its certificate does not hold now, or its files do not fit together.
        SecretUnusable: Others may read a key, or it cannot be written.
    """

    def __init__(self, directory: Path, now_ms: int) -> None:
        self._path = directory / MODEL_KEY_FILE
        self._certificate, self._der, self._own_key = _operator(directory, now_ms)
        self.fleet, self.operator, _ = self._certificate.identity
        if self._path.exists():
            self._private, self._keys = self._read()
            if not self._is_vouched_for():
                self._vouch(self._private, self._next(now_ms))
        else:
            self._vouch(Ed25519PrivateKey.generate(), now_ms)

    @property
    def number(self) -> int:
        """Of the present key; counts up with each."""
        return msgspec.json.decode(self._keys[-1].statement, type=Statement).number

    def rotate(self, now_ms: int) -> None:
        """Sign with a new key from now on, which the present one vouches for; the present one is forgotten."""
        new, number = Ed25519PrivateKey.generate(), self._next(now_ms)
        if len(self._keys) >= KEYS_MAX:
            self._vouch(new, number)
            return
        statement = self._statement(new, number)
        signature = self._private.sign(signed_key(statement))
        self._keep(new, (*self._keys, Key(msgspec.Raw(statement), signature)))

    def sign(self, manifest: bytes) -> bytes:
        """The payload that a manifest travels as."""
        signature = self._private.sign(signed_manifest(self.fleet, manifest))
        return write_envelope(manifest, signature, self._keys, self._der)

    # Inside.

    def _next(self, now_ms: int) -> int:
        return max(now_ms, self.number + 1)

    def _is_vouched_for(self) -> bool:
        """Whether the certificate's own key has signed the first key in the row."""
        first = self._keys[0]
        try:
            self._own_key.public_key().verify(
                first.signature, signed_key(bytes(first.statement)), SIGNATURE
            )
        except InvalidSignature:
            return False
        return True

    def _vouch(self, private: Ed25519PrivateKey, number: int) -> None:
        """Begin a row of keys with this one."""
        statement = self._statement(private, number)
        signature = self._own_key.sign(signed_key(statement), SIGNATURE)
        self._keep(private, (Key(msgspec.Raw(statement), signature),))

    def _statement(self, private: Ed25519PrivateKey, number: int) -> bytes:
        public = private.public_key().public_bytes_raw()
        return msgspec.json.encode(Statement(self.fleet, self.operator, number, public))

    def _keep(self, private: Ed25519PrivateKey, keys: tuple[Key, ...]) -> None:
        content = msgspec.json.encode(_File(private.private_bytes_raw(), keys))
        write_file(self._path, content, secret=True)
        self._private, self._keys = private, keys

    def _read(self) -> tuple[Ed25519PrivateKey, tuple[Key, ...]]:
        secret = read_secret(self._path, "model key")
        try:
            file = msgspec.json.decode(secret, type=_File)
            private = Ed25519PrivateKey.from_private_bytes(file.private)
            statement = msgspec.json.decode(file.keys[-1].statement, type=Statement)
        except (ValueError, IndexError):
            statement = None
        if statement is None or statement.key != private.public_key().public_bytes_raw():
            raise IdentityUnusable(
                f"{self._path} is no model key; take it from a backup, or remove it: the next publish makes "
                "another, which devices take"
            )
        return private, file.keys


def _operator(directory: Path, now_ms: int) -> tuple[Certificate, bytes, CertifiedKey]:
    """Whose folder it is: certificate, the same as DER, and its key."""
    advice = "`flockmq ca issue NAME --role operator` makes a folder"
    try:
        authority = (directory / AUTHORITY_FILE).read_bytes()
        pem = (directory / CERTIFICATE_FILE).read_bytes()
        der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
        certificate, public_key = member_of(der, authority)
        own_key = read_key(read_secret(directory / KEY_FILE, "key of this operator"))
    except (OSError, CertificateInvalid, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise IdentityUnusable(
            f"{directory} is no identity of an operator: {why}; {advice}"
        ) from None
    _, name, role = certificate.identity
    if role is not Role.OPERATOR:
        raise IdentityUnusable(
            f"{directory} is that of {role} {name}, and models are an operator's to publish; {advice}"
        )
    if own_key.public_key() != public_key:
        raise IdentityUnusable(f"certificate and key in {directory} do not fit together; {advice}")
    if not certificate.not_before_ms <= now_ms <= certificate.not_after_ms:
        raise IdentityUnusable(
            f"the certificate of {name} in {directory} does not hold now; "
            f"`flockmq ca renew {name} --out {directory}` renews it"
        )
    return certificate, der, own_key
