"""Who is who: what a certificate says of its holder, and whether it counts at this moment.

A certificate of the fleet names its holder in a URI, `spiffe://<fleet>/device/<name>`, and the role in the subject's
organisational unit. That the fleet's authority signed it has been verified by TLS before anything here sees it; when it
counts is judged here and not by TLS, since TLS knows only the system clock, and a Raspberry Pi has no battery for one.

Decides: the time is the latest that is known (`Moment`), so a clock that has fallen back revives nothing. Without time
synchronisation a not-before proves nothing and is passed over, so that a device that boots in 1970 joins and learns the
time. An expired certificate of a device holds for GRACE_DAYS, since its authority may have been out of reach; one of an
operator or a viewer does not, since people can renew theirs. Revoked is revoked, at any time.

Assumes the form that Python's `ssl` gives a verified certificate in. On failure: `CertificateInvalid` for what is no
certificate of a fleet. Source of the URI: SPIFFE ID; of the rest: RFC 5280.
"""

from __future__ import annotations

import ssl
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from broker.topic_names import is_id

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = [
    "DAY_MS",
    "GRACE_DAYS",
    "RENEW_DAYS",
    "Certificate",
    "CertificateInvalid",
    "Identity",
    "Moment",
    "Role",
    "Standing",
    "fleet_uri",
    "identity_of_uri",
    "identity_uri",
    "judge",
    "read_certificate",
]

DAY_MS: Final = 86_400_000
GRACE_DAYS: Final = 30
"""For how long an expired certificate of a device still counts. A month without anybody near the authority's machine is
a long holiday; a fleet that is left alone for longer needs a look anyway. Guess."""
RENEW_DAYS: Final = 20
"""A certificate with fewer days left is due for renewal: a third of its life, as is usual with web servers."""
_PREFIX: Final = "spiffe://"
_SKEW_MS: Final = 300_000
"""How far two synchronised clocks may differ."""


class Role(StrEnum):
    """What the holder of a certificate is for."""

    OPERATOR = "operator"
    """Decides for the fleet: publishes model versions, renews, revokes."""
    DEVICE = "device"
    """Is linked to others, relays, and speaks for itself."""
    VIEWER = "viewer"
    """Looks on."""


class Standing(StrEnum):
    """What a certificate counts for at a moment."""

    GOOD = "good"
    GRACE = "expired, in its grace"
    EXPIRED = "expired"
    EARLY = "not valid yet"
    REVOKED = "revoked"

    @property
    def counts(self) -> bool:
        """Whether its holder is let in."""
        return self in {Standing.GOOD, Standing.GRACE}


class CertificateInvalid(ValueError):
    """This is no certificate of a fleet; says what is missing."""


class Identity(NamedTuple):
    """Who somebody is, as the fleet's authority says."""

    fleet: str
    name: str
    role: Role


class Certificate(NamedTuple):
    """What a certificate says."""

    identity: Identity
    serial: int
    not_before_ms: int
    not_after_ms: int


class Moment(NamedTuple):
    """What is known of the time."""

    now_ms: int
    """The latest of all that is known: the system's clock and the bound that is stored, since 1970."""
    synchronised: bool
    """Whether something keeps the system's clock right."""


def fleet_uri(fleet: str) -> str:
    """The name of a fleet's authority."""
    return f"{_PREFIX}{fleet}"


def identity_uri(fleet: str, name: str) -> str:
    """The name of a member of a fleet."""
    return f"{_PREFIX}{fleet}/device/{name}"


def identity_of_uri(uri: str) -> tuple[str, str]:
    """Fleet and name of a member.

    Raises:
        CertificateInvalid: The URI names none.
    """
    fleet, _, rest = uri.removeprefix(_PREFIX).partition("/")
    kind, _, name = rest.partition("/")
    if not uri.startswith(_PREFIX) or kind != "device" or not is_id(fleet) or not is_id(name):
        raise CertificateInvalid(f"{uri!r} is no spiffe://<fleet>/device/<name>")
    return fleet, name


def read_certificate(fields: Mapping[str, Any] | None) -> Certificate:
    """What a verified certificate says, from `SSLSocket.getpeercert()`.

    Raises:
        CertificateInvalid: There is none, or it names nobody of a fleet.
    """
    if not fields:
        raise CertificateInvalid("there is no certificate")
    uris = [value for kind, value in fields.get("subjectAltName", ()) if kind == "URI"]
    if len(uris) != 1:
        raise CertificateInvalid(f"it has {len(uris)} URI names; one of a fleet has exactly one")
    fleet, name = identity_of_uri(uris[0])
    units = [
        value
        for names in fields.get("subject", ())
        for key, value in names
        if key == "organizationalUnitName"
    ]
    try:
        role = Role(units[0] if len(units) == 1 else "")
        serial = int(fields["serialNumber"], 16)
        not_before, not_after = (
            ssl.cert_time_to_seconds(fields[field]) * 1000 for field in ("notBefore", "notAfter")
        )
    except (KeyError, ValueError):
        raise CertificateInvalid(f"the certificate of {name} names no role of a fleet") from None
    return Certificate(Identity(fleet, name, role), serial, not_before, not_after)


def judge(certificate: Certificate, revoked: Collection[int], moment: Moment) -> Standing:
    """What a certificate counts for.

    Args:
        certificate: Signed by the fleet's authority; that was verified before.
        revoked: Serial numbers.
        moment: The time.
    """
    if certificate.serial in revoked:
        return Standing.REVOKED
    if moment.synchronised and moment.now_ms + _SKEW_MS < certificate.not_before_ms:
        return Standing.EARLY
    if moment.now_ms <= certificate.not_after_ms:
        return Standing.GOOD
    graced = certificate.identity.role is Role.DEVICE
    if graced and moment.now_ms <= certificate.not_after_ms + GRACE_DAYS * DAY_MS:
        return Standing.GRACE
    return Standing.EXPIRED
