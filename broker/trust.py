"""What one device trusts: the fleet's authority, its own certificate, who is revoked; and whom it lets in.

Decides who may connect over TLS (`tls.py`): who has a certificate of the same authority that counts at this moment. TLS
verifies signatures and purposes; dates and revocations are judged here, after the handshake, by the latest time that is
known (identity.py says why). Everyone who is turned away is counted, by reason.

Assumes a folder with `ca.pem`, `own.pem` and `own.key`, as `flockmq enroll` and `flockmq ca issue` leave it, on a disk
that only this device writes: what was verified once is not verified again after a restart. That the three fit together
is seen by a handshake of this device with itself, in memory. On failure: `IdentityUnusable` at the start, with the way
out; a renewed certificate or a revocation list that does not hold is refused by `CertificateInvalid`, and nothing has
changed.
"""

from __future__ import annotations

import logging
import ssl
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from broker.errors import FlockmqError, IdentityUnusable
from broker.identity import (
    DAY_MS,
    GRACE_DAYS,
    CertificateInvalid,
    Identity,
    Moment,
    Role,
    Standing,
    judge,
    read_certificate,
)
from broker.identity_folder import AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE, REVOKED_FILE
from broker.mesh.tags import TagInvalid
from broker.secret_file import read_secret, write_file
from broker.tls import HANGS_UP, explain, shake_hands, tls_context

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from broker.identity import Certificate
    from broker.seals import FleetSeals
    from broker.strength import Strength

__all__ = ["Holder", "NotAdmitted", "TlsAt", "Trust", "TrustStatistics"]

logger = logging.getLogger(__name__)

_REASONS_MAX: Final = 32
"""Different reasons that are counted by name; a certificate of the fleet can be wrong in a dozen ways."""
_NEIGHBOURS_MAX: Final = 256
"""Addresses of neighbours that are remembered: as many as an address book holds."""


class NotAdmitted(FlockmqError):
    """Somebody is not let in.

    Args:
        reason: As it is counted.
        who: As far as it is known.
    """

    def __init__(self, reason: str, who: str) -> None:
        super().__init__(f"{who}: {reason}")
        self.reason = reason


class Holder(NamedTuple):
    """Who was let in, and on what certificate; to be judged again later."""

    identity: Identity
    certificate: Certificate


class TlsAt(NamedTuple):
    """Where a device listens for TLS, and who is let in there."""

    trust: Trust
    host: str
    port: int
    """0 picks a free one."""
    seals: FleetSeals | None = None
    """Makes and checks the tags of bundles; None: there are none."""


class TrustStatistics(NamedTuple):
    """What there is to say of a device's identity."""

    fleet: str
    name: str
    role: str
    standing: str
    """Of its own certificate."""
    days_left: float
    revocations: int
    """Number of the newest revocation list that is known; 0: none."""
    revoked: int
    """Certificates in it."""
    graced: int
    """Times that somebody was let in on an expired certificate in its grace."""
    refused: dict[str, int]
    """By reason."""
    last_refused: str


class _Revoked(msgspec.Struct):
    """What is kept of the newest revocation list."""

    number: int = 0
    serials: list[str] = []
    """Hexadecimal."""
    pem: str = ""


class Trust:
    """One device's.

    Args:
        directory: Its identity's folder.
        moment: Tells the time; set anew once there is a mesh that knows a later one.

    Raises:
        IdentityUnusable: A file is missing, or they do not fit together.
        SecretUnusable: Others may read the key.
    """

    def __init__(self, directory: Path, moment: Callable[[], Moment]) -> None:
        self._directory = directory
        self.clock = moment
        self.server = tls_context(ssl.PROTOCOL_TLS_SERVER)
        self.client = tls_context(ssl.PROTOCOL_TLS_CLIENT)
        self._revoked = _Revoked()
        self._serials: frozenset[int] = frozenset()
        self._refused: Counter[str] = Counter()
        self._graced = 0
        self._signed_ms = 0
        """When the authority signed the newest certificate that this device has seen."""
        self._last_refused = ""
        self._neighbours: dict[str, None] = {}
        """Addresses at which devices of the fleet are, the newest last."""
        self._read_revoked()
        self.certificate = self._load(directory / CERTIFICATE_FILE)

    # What it knows.

    @property
    def identity(self) -> Identity:
        """This device's own."""
        return self.certificate.identity

    def moment(self) -> Moment:
        """The time, as far as it is known.

        What the authority has signed was not signed in the future: a clock that shows less is wrong, whoever says
        that it is kept. And without synchronisation a clock is hearsay, which may be one wrong clock among the
        neighbours: it counts up to GRACE_DAYS after that, so that it shuts out nobody who was good then.
        """
        now_ms, synchronised = self.clock()
        if synchronised and now_ms >= self._signed_ms:
            return Moment(now_ms, synchronised=True)
        latest_ms = self._signed_ms + GRACE_DAYS * DAY_MS
        return Moment(max(self._signed_ms, min(now_ms, latest_ms)), synchronised=False)

    def standing(self, certificate: Certificate) -> Standing:
        """What a certificate counts for now."""
        return judge(certificate, self._serials, self.moment())

    def statistics(self) -> TrustStatistics:
        """What there is to say to people."""
        own = self.certificate
        left_ms = own.not_after_ms - self.moment().now_ms
        return TrustStatistics(
            *own.identity,
            standing=self.standing(own).value,
            days_left=round(left_ms / DAY_MS, 1),
            revocations=self._revoked.number,
            revoked=len(self._serials),
            graced=self._graced,
            refused=dict(self._refused),
            last_refused=self._last_refused,
        )

    def seals(self, strength: Strength) -> FleetSeals:
        """What makes and checks the integrity tags of this device's bundles.

        Raises:
            IdentityUnusable: Its files do not fit together.
            SecretUnusable: Others may read its key.
        """
        from broker.seals import FleetSeals  # noqa: PLC0415 - 12 MB that who only looks on need not have

        fleet, name, _ = self.identity
        try:
            return FleetSeals(self._directory, fleet, name, lambda: self._serials, strength)
        except (CertificateInvalid, TagInvalid, OSError) as error:
            raise IdentityUnusable(
                f"{self._directory} cannot be used: {error}; `flockmq enroll` makes another"
            ) from None

    # Who is let in.

    def admit(self, fields: Mapping[str, Any] | None, where: str) -> Holder:
        """Who has connected, with a certificate that TLS has verified.

        Args:
            fields: Of the certificate, as `getpeercert` has them.
            where: The address, for messages.

        Raises:
            NotAdmitted: The certificate does not count. It is counted.
        """
        try:
            return self._admit(fields, where)
        except NotAdmitted:
            self._neighbours.pop(where, None)
            raise

    def _admit(self, fields: Mapping[str, Any] | None, where: str) -> Holder:
        try:
            certificate = read_certificate(fields)
        except CertificateInvalid as error:
            raise self._refuse(str(error), where) from None
        identity = certificate.identity
        who = f"{identity.role} {identity.name} at {where}"
        if identity.fleet != self.identity.fleet:
            raise self._refuse(f"of another fleet, {identity.fleet}", who)
        standing = self.standing(certificate)
        if not standing.counts:
            raise self._refuse(standing.value, who)
        self._graced += standing is Standing.GRACE
        self._signed_ms = max(self._signed_ms, certificate.not_before_ms)
        return Holder(identity, certificate)

    def admit_neighbour(self, fields: Mapping[str, Any] | None, peer: str, where: str) -> Holder:
        """Like `admit`, for one that must be the device `peer` and nobody else.

        Raises:
            NotAdmitted: It is not, or its certificate does not count.
        """
        holder = self.admit(fields, where)
        name, role = holder.identity.name, holder.identity.role
        if role is not Role.DEVICE or name != peer:
            raise self._refuse("in another's name", f"{role} {name} at {where} as {peer}")
        self._neighbours.pop(where, None)
        self._neighbours[where] = None
        if len(self._neighbours) > _NEIGHBOURS_MAX:
            del self._neighbours[next(iter(self._neighbours))]
        return holder

    def knows_neighbour_at(self, where: str) -> bool:
        """Whether a device of the fleet was met at an address, and nobody there had a bad certificate since."""
        return where in self._neighbours

    def refuse_handshake(self, error: Exception, where: str) -> None:
        """Count somebody that TLS turned away."""
        if isinstance(error, ssl.SSLError) and not isinstance(error, HANGS_UP):
            self._neighbours.pop(where, None)
        self._refuse(explain(error), where)

    def refuse_plain_link(self, where: str) -> NotAdmitted:
        """Count a neighbour that came without TLS."""
        return self._refuse("a link without TLS", where)

    def _refuse(self, reason: str, who: str) -> NotAdmitted:
        known = reason in self._refused or len(self._refused) < _REASONS_MAX
        self._refused[reason if known else "other reasons"] += 1
        error = NotAdmitted(reason, who)
        # A neighbour tries twice a second, for as long as it likes.
        if str(error) != self._last_refused:
            logger.info("not let in: %s", error)
        self._last_refused = str(error)
        return error

    # What changes.

    def adopt_certificate(self, pem: bytes) -> bool:
        """Take a renewed certificate from now on. False if it is not newer than the one in use.

        Raises:
            CertificateInvalid: It does not hold: not this device's key, or not of this authority.
            SecretUnusable: It cannot be stored.
        """
        if pem == self._own_pem:
            return False
        candidate = self._directory / ".candidate.pem"
        write_file(candidate, pem)
        try:
            found = self._try(candidate)
        except (ssl.SSLError, CertificateInvalid) as error:
            raise CertificateInvalid(f"it does not fit: {error}") from None
        finally:
            candidate.unlink(missing_ok=True)
        if found.identity != self.identity:
            raise CertificateInvalid(f"it is of {found.identity.role} {found.identity.name}")
        if found.not_after_ms <= self.certificate.not_after_ms or found.serial in self._serials:
            return False
        write_file(self._directory / CERTIFICATE_FILE, pem)
        self.certificate = self._load(self._directory / CERTIFICATE_FILE)
        return True

    def adopt_revocations(self, pem: bytes) -> bool:
        """Believe a revocation list from now on. False if it is not newer than the one that is known.

        Raises:
            CertificateInvalid: The authority has not signed it.
            SecretUnusable: It cannot be stored.
        """
        if pem.decode(errors="replace") == self._revoked.pem:
            return False
        from broker.certificates import revoked_serials  # noqa: PLC0415 - 12 MB that who only looks on need not have

        authority_pem = (self._directory / AUTHORITY_FILE).read_bytes()
        number, serials = revoked_serials(pem, authority_pem)
        if number <= self._revoked.number:
            return False
        self._believe(_Revoked(number, sorted(f"{s:x}" for s in serials), pem.decode()))
        content = msgspec.json.encode(self._revoked)
        write_file(self._directory / REVOKED_FILE, content, secret=True)
        return True

    @property
    def revocations_pem(self) -> str:
        """The newest revocation list that is known; empty: none."""
        return self._revoked.pem

    # Inside.

    def _believe(self, revoked: _Revoked) -> None:
        self._revoked = revoked
        self._serials = frozenset(int(serial, 16) for serial in revoked.serials)

    def _read_revoked(self) -> None:
        path = self._directory / REVOKED_FILE
        try:
            self._believe(msgspec.json.decode(path.read_bytes(), type=_Revoked))
        except FileNotFoundError:
            return
        except OSError as error:
            raise IdentityUnusable(
                f"{path} cannot be read: {error.strerror}; is this the user that the identity belongs to?"
            ) from None
        except ValueError as error:
            raise IdentityUnusable(
                f"{path} cannot be read: {error}; remove it, and the fleet tells it anew"
            ) from None

    def _load(self, certificate_file: Path) -> Certificate:
        """Make both contexts use a certificate."""
        authority, key = self._directory / AUTHORITY_FILE, self._directory / KEY_FILE
        advice = "`flockmq enroll` or `flockmq ca issue` makes all three"
        for path in (authority, certificate_file):
            if not path.is_file():
                raise IdentityUnusable(f"there is no {path}; {advice}")
        read_secret(key, "key of this device")
        try:
            for context in (self.server, self.client):
                context.load_verify_locations(authority)
                context.load_cert_chain(certificate_file, key)
            self._own_pem = certificate_file.read_bytes()
            own = self._try(certificate_file)
        except (OSError, CertificateInvalid) as error:
            raise IdentityUnusable(
                f"{authority.name}, {certificate_file.name} and {key.name} in {self._directory} do not fit together: "
                f"{error}; {advice}"
            ) from None
        self._signed_ms = max(self._signed_ms, own.not_before_ms)
        return own

    def _try(self, certificate_file: Path) -> Certificate:
        """What a certificate says, once a peer that trusts the authority has believed it."""
        own, other = tls_context(ssl.PROTOCOL_TLS_CLIENT), tls_context(ssl.PROTOCOL_TLS_SERVER)
        for context in (own, other):
            context.load_verify_locations(self._directory / AUTHORITY_FILE)
            context.load_cert_chain(certificate_file, self._directory / KEY_FILE)
        # A viewer's certificate serves a client and no server, so it is believed as a client's.
        other.verify_mode, own.verify_mode = ssl.CERT_REQUIRED, ssl.CERT_NONE
        return read_certificate(shake_hands(own, other))
