"""What keys, certificates, requests and revocation lists of a fleet look like: made and read here, and nowhere else.

Decides the forms. Keys are of elliptic curve P-256: of what TLS 1.3 offers it is the one that OpenSSL, mbedTLS on
microcontrollers, browsers and so every MQTT client takes; Ed25519 certificates are refused by the latter two. Only
a device's certificate may serve as a server's, so a viewer cannot stand in for a device.

Assumes that times are right; who calls knows them. On failure: `CertificateInvalid`. Costs 12 MB of memory once it is
imported, so only devices do that, for the tags of bundles (identity.py reads certificates without it).

Source: RFC 5280 for certificates and revocation lists, RFC 2986 for requests, SPIFFE for the URI names.
"""

from __future__ import annotations

import ipaddress
import re
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from broker.identity import (
    Certificate,
    CertificateInvalid,
    Identity,
    Role,
    fleet_uri,
    identity_of_uri,
    identity_uri,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = [
    "PEM",
    "SIGNATURE",
    "Issuer",
    "Key",
    "PublicKey",
    "host_names",
    "issue",
    "key_bytes",
    "key_number",
    "make_key",
    "make_request",
    "member_of",
    "public_key_of",
    "read_key",
    "read_request",
    "revocation_list",
    "revoked_serials",
    "self_signed",
]

Key: TypeAlias = ec.EllipticCurvePrivateKey
PublicKey: TypeAlias = ec.EllipticCurvePublicKey
Names: TypeAlias = x509.SubjectAlternativeName

PEM: Final = serialization.Encoding.PEM
SIGNATURE: Final = ec.ECDSA(hashes.SHA256())
"""How the keys of members, and that of the authority, sign what is no certificate."""
_BACKDATED: Final = timedelta(hours=1)
"""Other clocks of the fleet may be a little behind."""
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,250}[A-Za-z0-9])?")


class Issuer(NamedTuple):
    """Who signs."""

    key: Key
    certificate: x509.Certificate


def make_key() -> Key:
    """A new key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_bytes(key: Key) -> bytes:
    """A key for its file."""
    plain = serialization.NoEncryption()
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, plain)


def read_key(pem: bytes) -> Key:
    """A key from its file.

    Raises:
        CertificateInvalid: It is none of this program.
    """
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        raise CertificateInvalid("it is no key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateInvalid("it is no key of elliptic curve P-256")
    return key


def self_signed(fleet: str, key: Key, now_ms: int, life: timedelta) -> x509.Certificate:
    """The certificate of a fleet's authority."""
    now = _time(now_ms)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, fleet),
            x509.NameAttribute(NameOID.COMMON_NAME, f"authority of {fleet}"),
        ]
    )
    uri = x509.UniformResourceIdentifier(fleet_uri(fleet))
    public_key = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .sign(key, hashes.SHA256())
    )


def host_names(name: str, hosts: Sequence[str]) -> Names:
    """Under which names clients that check them reach a device: `hosts`, its own name, and localhost.

    Raises:
        CertificateInvalid: One of them is neither an address nor a name.
    """
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys([*hosts, name, f"{name}.local", "localhost", "127.0.0.1"]):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            if not _HOST.fullmatch(host):
                if host in hosts:
                    raise CertificateInvalid(f"{host!r} is no address and no name") from None
                continue  # an id may begin or end with "-", and a host's name may not
            names.append(x509.DNSName(host))
    return x509.SubjectAlternativeName(names)


def issue(
    issuer: Issuer,
    member: Identity,
    public_key: PublicKey,
    names: Iterable[x509.GeneralName],
    now_ms: int,
    life: timedelta,
) -> x509.Certificate:
    """Sign a certificate of a member of the fleet.

    Args:
        issuer: The fleet's authority.
        member: Whom it names.
        public_key: The member's.
        names: Of hosts; URIs among them are left out.
        now_ms: The time, since 1970.
        life: How long it holds.
    """
    fleet, name, role = member
    now = _time(now_ms)
    uri = x509.UniformResourceIdentifier(identity_uri(fleet, name))
    hosts = [other for other in names if not isinstance(other, x509.UniformResourceIdentifier)]
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if role is Role.DEVICE:
        uses.append(ExtendedKeyUsageOID.SERVER_AUTH)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, fleet),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName([uri, *hosts]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(signer, critical=False)
        .sign(issuer.key, hashes.SHA256())
    )


def public_key_of(pem: bytes) -> tuple[PublicKey, Names]:
    """The key and the names in a certificate of a member, which is not verified.

    Raises:
        CertificateInvalid: It cannot be one.
    """
    with _refused("it is no certificate of a member"):
        certificate = x509.load_pem_x509_certificate(pem)
        key = certificate.public_key()
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise CertificateInvalid("its key is not of elliptic curve P-256")
    return key, names


def member_of(der: bytes, authority_pem: bytes) -> tuple[Certificate, PublicKey]:
    """What the certificate of a member says, and its key; verified as TLS would, but for the time.

    Raises:
        CertificateInvalid: It is none, or the authority has not signed it.
    """
    authority = x509.load_pem_x509_certificate(authority_pem)
    with _refused("it is no certificate of this fleet's authority"):
        found = x509.load_der_x509_certificate(der)
        found.verify_directly_issued_by(authority)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        (unit,) = found.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
        fleet, name = identity_of_uri(uri)
        identity = Identity(fleet, name, Role(str(unit.value)))
        key = found.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateInvalid("its key is not of elliptic curve P-256")
    first_ms, last_ms = (
        int(moment.timestamp()) * 1000
        for moment in (found.not_valid_before_utc, found.not_valid_after_utc)
    )
    return Certificate(identity, found.serial_number, first_ms, last_ms), key


def key_number(key: PublicKey) -> int:
    """63 bits that stand for a key, from 1 on."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    spki = key.public_bytes(serialization.Encoding.DER, form)
    return int.from_bytes(sha256(spki).digest()[:8], "big") >> 1 or 1


def make_request(key: Key) -> bytes:
    """A request for a certificate, as PEM: proves that the key is there, and names nobody."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return request.sign(key, hashes.SHA256()).public_bytes(PEM)


def read_request(pem: bytes) -> PublicKey:
    """The key that a certificate is asked for.

    Raises:
        CertificateInvalid: It is no request, or not signed with that key.
    """
    with _refused("it is no request in PEM"):
        request = x509.load_pem_x509_csr(pem)
        key, signed = request.public_key(), request.is_signature_valid
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateInvalid("its key is not of elliptic curve P-256")
    if not signed:
        raise CertificateInvalid("it is not signed with its own key")
    return key


def revocation_list(
    issuer: Issuer, number: int, revoked: Iterable[tuple[int, int]], now_ms: int
) -> bytes:
    """All that is revoked, signed, as PEM.

    Args:
        issuer: The fleet's authority.
        number: Greater than that of any earlier list.
        revoked: Serial number of each, and when, in milliseconds since 1970.
        now_ms: The time.
    """
    now = _time(now_ms)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(now)
        # Its number says which list is newer, whatever clocks say; the date is only a form.
        .next_update(now + timedelta(days=3_650))
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for serial, revoked_ms in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial)
        builder = builder.add_revoked_certificate(entry.revocation_date(_time(revoked_ms)).build())
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(PEM)


def revoked_serials(pem: bytes, authority_pem: bytes) -> tuple[int, frozenset[int]]:
    """The number of a revocation list and the serial numbers in it.

    Raises:
        CertificateInvalid: It is none, or the authority has not signed it.
    """
    key = x509.load_pem_x509_certificate(authority_pem).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey), "TLS has accepted the authority"
    with _refused("it is no revocation list"):
        found = x509.load_pem_x509_crl(pem)
        number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        if found.is_signature_valid(key):
            return number, frozenset(entry.serial_number for entry in found)
    raise CertificateInvalid("the fleet's authority has not signed it")


@contextmanager
def _refused(reason: str) -> Iterator[None]:
    """Refuse a stranger's bytes for that reason, whatever reading them brings about.

    Raises:
        CertificateInvalid: Reading them failed; one that says more is left as it is.
    """
    try:
        yield
    except CertificateInvalid:
        raise
    except Exception:  # noqa: BLE001 - the library has a dozen errors for them, and adds to them with each release
        raise CertificateInvalid(reason) from None


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _time(now_ms: int) -> datetime:
    return datetime.fromtimestamp(now_ms // 1000, UTC)
