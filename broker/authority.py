"""A fleet's certificate authority: a folder with one key, and a book of what was signed with it.

Decides who gets a certificate and for how long, and that one name has one holder at a time, so that nobody becomes a
second `lot-1` unnoticed. What certificates look like stands in `certificates.py`. It also draws the key that all
devices share and changes it (`fleet_key.py`): when told, when it is due, and with each revocation.

Assumes that the clock of the machine it runs on is right, and that the folder is nobody else's; one process at a time
works in it. On failure: `AuthorityUnusable`, with the way out, and nothing has changed. The key is read from a file
that only its owner may read, and never told.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography import x509

from broker import certificates
from broker.certificates import PEM, Issuer, PublicKey
from broker.errors import AuthorityUnusable, SecretUnusable
from broker.fleet_key import KEY_DAYS, KEYS_MAX, FleetKey, make_notice, new_key
from broker.identity import DAY_MS, GRACE_DAYS, RENEW_DAYS, CertificateInvalid, Identity, Role
from broker.identity_folder import write_identity
from broker.secret_file import read_secret, write_file
from broker.topic_names import is_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["LIFE_DAYS", "Authority", "Issued"]

AUTHORITY_DAYS: Final = 3_650
"""The root outlives the hardware. A fleet that lives longer enrols anew."""
LIFE_DAYS: Final = 60
"""Of a certificate. With GRACE_DAYS a fleet survives three months without its authority. Guess."""
CERTIFICATES_MAX: Final = 1_000
"""In the book. A list that revokes them all has 40 KB, so it travels as one message of the mesh."""


class Issued(msgspec.Struct, frozen=True):
    """One certificate that was signed."""

    name: str
    role: Role
    serial: str
    """Hexadecimal."""
    not_after_ms: int
    pem: str
    revoked_ms: int | None = None

    def due(self, now_ms: int) -> bool:
        """Whether it should be renewed."""
        return self.not_after_ms - now_ms < RENEW_DAYS * DAY_MS

    def matters(self, now_ms: int) -> bool:
        """Whether anybody would believe it, were it not revoked."""
        return now_ms <= self.not_after_ms + GRACE_DAYS * DAY_MS


class _Book(msgspec.Struct):
    """What an authority remembers."""

    fleet: str
    revocations: int = 0
    """Number of the last revocation list."""
    issued: list[Issued] = msgspec.field(default_factory=list)
    keys: list[FleetKey] = msgspec.field(default_factory=list)
    """The fleet's shared keys, the newest last."""
    notices: int = 0
    """Number of the last notice of them."""
    notice: str = ""
    """That notice, for all devices: one number is never given to two."""


class Authority:
    """A fleet's authority, open for work; made by `create` and `at`."""

    def __init__(self, directory: Path, book: _Book, issuer: Issuer) -> None:
        self._directory = directory
        self._book = book
        self._issuer = issuer

    # Making and opening.

    @staticmethod
    def create(directory: Path, fleet: str, now_ms: int) -> None:
        """Make the authority of a new fleet.

        Raises:
            AuthorityUnusable: There is one already, the name cannot be one, or the folder cannot be made.
            SecretUnusable: A file cannot be written.
        """
        _check_name(fleet, "a fleet")
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise AuthorityUnusable(f"{directory} cannot be made: {error.strerror}") from None
        with _locked(directory):
            if (directory / "ca.key").exists():
                raise AuthorityUnusable(
                    f"there is an authority in {directory} already, and a new one would make all its certificates "
                    "worthless; name another folder with --directory"
                )
            key = certificates.make_key()
            life = timedelta(days=AUTHORITY_DAYS)
            own = certificates.self_signed(fleet, key, now_ms, life)
            write_file(directory / "book.json", msgspec.json.encode(_Book(fleet)), secret=True)
            write_file(directory / "ca.pem", own.public_bytes(PEM))
            write_file(directory / "ca.key", certificates.key_bytes(key), secret=True)

    @staticmethod
    @contextlib.contextmanager
    def at(directory: Path) -> Iterator[Authority]:
        """Work with an authority; nobody else does meanwhile.

        Raises:
            AuthorityUnusable: It is not there, damaged, or at work elsewhere.
            SecretUnusable: Others may read its key.
        """
        if not (directory / "ca.key").exists():
            raise AuthorityUnusable(
                f"there is no authority in {directory}; `flockmq ca init FLEET` makes one, --directory names another"
            )
        with _locked(directory):
            pem = read_secret(directory / "ca.key", "key of the authority")
            try:
                key = certificates.read_key(pem)
                own = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
                book = msgspec.json.decode((directory / "book.json").read_bytes(), type=_Book)
            except (OSError, ValueError) as error:
                raise AuthorityUnusable(
                    f"the authority in {directory} is damaged ({error}); take it from a backup"
                ) from None
            yield Authority(directory, book, Issuer(key, own))

    # What it says.

    @property
    def fleet(self) -> str:
        """Whose authority it is."""
        return self._book.fleet

    @property
    def pem(self) -> bytes:
        """Its certificate, which every member trusts."""
        return self._issuer.certificate.public_bytes(PEM)

    def members(self, now_ms: int) -> list[Issued]:
        """The newest certificate of everyone who has one that is not revoked, expired ones in their grace included."""
        found = {
            issued.name: issued
            for issued in self._book.issued
            if issued.revoked_ms is None and issued.matters(now_ms)
        }
        return [issued for _, issued in sorted(found.items())]

    def revocation_list(self, now_ms: int) -> bytes:
        """All that is revoked, signed, as PEM."""
        revoked = [
            (int(issued.serial, 16), issued.revoked_ms)
            for issued in self._book.issued
            if issued.revoked_ms is not None
        ]
        return certificates.revocation_list(self._issuer, self._book.revocations, revoked, now_ms)

    def fleet_key_notice(self, now_ms: int) -> bytes:
        """The fleet's shared keys for all devices, as PEM."""
        if not self._book.notice:
            self._hand_out_keys(now_ms)
        return self._book.notice.encode()

    def key_share(self, member: Issued, now_ms: int) -> bytes:
        """The fleet's shared keys for one member, as PEM; empty for who is no device."""
        if member.role is not Role.DEVICE:
            return b""
        # There are keys from here on, in a book of before there were any, too.
        self.fleet_key_notice(now_ms)
        return self._notice(now_ms, member.name)

    def key_due(self, now_ms: int) -> bool:
        """Whether the fleet's shared key should be changed."""
        return not self._book.keys or now_ms - self._book.keys[-1].from_ms >= KEY_DAYS * DAY_MS

    def check_free(self, name: str, now_ms: int) -> None:
        """Whether a new member may have this name.

        Raises:
            AuthorityUnusable: It cannot be one, or has a holder.
        """
        _check_name(name, "a member")
        if any(member.name == name for member in self.members(now_ms)):
            raise AuthorityUnusable(
                f"{name} has a certificate already; `flockmq ca renew {name}` renews it, and if its key is lost or "
                f"another takes its place, `flockmq ca revoke {name}` comes first"
            )

    # What it does.

    def issue(
        self,
        name: str,
        role: Role,
        public_key: PublicKey,
        now_ms: int,
        *,
        hosts: Sequence[str] = (),
        days: float = LIFE_DAYS,
    ) -> Issued:
        """Sign a certificate for a new member.

        Args:
            name: Its id.
            role: What it is for.
            public_key: Its key.
            now_ms: The time, since 1970.
            hosts: Addresses and names at which clients that check them reach it, beside its own name and localhost.
            days: How long it holds.

        Raises:
            AuthorityUnusable: The name cannot be one, or has a holder; or a host cannot be one.
        """
        self.check_free(name, now_ms)
        try:
            names = certificates.host_names(name, hosts)
        except CertificateInvalid as error:
            raise AuthorityUnusable(f"no certificate for {name}: {error}") from None
        issued = self._sign(name, role, public_key, names, now_ms, days)
        if role is Role.DEVICE:
            self._hand_out_keys(now_ms)
        return issued

    def equip(
        self,
        folder: Path,
        name: str,
        role: Role,
        now_ms: int,
        *,
        hosts: Sequence[str] = (),
        days: float = LIFE_DAYS,
    ) -> None:
        """Make the folder of a new member's identity, its key included; otherwise as `issue`.

        Where it cannot be written nobody has the certificate, and the name is free again.

        Raises:
            AuthorityUnusable: As there.
            SecretUnusable: Something cannot be written.
        """
        key = certificates.make_key()
        before = msgspec.structs.replace(self._book, issued=[*self._book.issued])
        try:
            issued = self.issue(name, role, key.public_key(), now_ms, hosts=hosts, days=days)
            share = self.key_share(issued, now_ms)
            key_pem, pem = certificates.key_bytes(key), issued.pem.encode()
            write_identity(folder, self.pem, pem, key_pem, share)
        except SecretUnusable:
            self._book = before
            # If that fails, too, the name stays taken until it is revoked.
            with contextlib.suppress(SecretUnusable):
                self._save(now_ms)
            raise

    def renew(self, name: str, now_ms: int) -> Issued:
        """Sign a new certificate for a member, with the key, role and hosts of the last one.

        Raises:
            AuthorityUnusable: It has none, or a revoked one.
        """
        member = next((m for m in self.members(now_ms) if m.name == name), None)
        if member is None:
            raise self._unknown(name, now_ms)
        public_key, names = certificates.public_key_of(member.pem.encode())
        return self._sign(name, member.role, public_key, names, now_ms, LIFE_DAYS)

    def revoke(self, name: str, now_ms: int) -> int:
        """Let no certificate of a member count any more. Returns how many there were.

        Raises:
            AuthorityUnusable: It has none.
        """
        found = [i.name == name and i.revoked_ms is None for i in self._book.issued]
        if not any(found):
            raise self._unknown(name, now_ms)
        self._book.issued = [
            msgspec.structs.replace(issued, revoked_ms=now_ms) if hit else issued
            for issued, hit in zip(self._book.issued, found, strict=True)
        ]
        self._book.revocations += 1
        self.rotate_key(now_ms)
        return sum(found)

    def rotate_key(self, now_ms: int) -> int:
        """Have the fleet use a new shared key, which only present devices get. Returns its number."""
        number = self._book.keys[-1].number + 1 if self._book.keys else 1
        self._book.keys = [*self._book.keys, new_key(number, now_ms)][-KEYS_MAX:]
        self._hand_out_keys(now_ms)
        return number

    def errand(self, now_ms: int, life: timedelta) -> tuple[bytes, bytes]:
        """Certificate and key of an operator, as PEM, for an errand of the authority itself. The book omits it."""
        key = certificates.make_key()
        operator = Identity(self.fleet, "authority", Role.OPERATOR)
        names = certificates.host_names("authority", ())
        signed = certificates.issue(self._issuer, operator, key.public_key(), names, now_ms, life)
        return signed.public_bytes(PEM), certificates.key_bytes(key)

    # Inside.

    def _hand_out_keys(self, now_ms: int) -> None:
        """Make the notice anew, since there is another key or another device."""
        book = self._book
        book.keys = book.keys or [new_key(1, now_ms)]
        book.notices += 1
        book.notice = self._notice(now_ms).decode()
        self._save(now_ms)

    def _notice(self, now_ms: int, only: str | None = None) -> bytes:
        devices = {
            member.name: certificates.public_key_of(member.pem.encode())[0]
            for member in self.members(now_ms)
            if member.role is Role.DEVICE and only in (None, member.name)
        }
        book, key = self._book, self._issuer.key
        whole = only is None
        return make_notice(key, book.fleet, book.notices, book.keys, devices, whole=whole)

    def _sign(
        self,
        name: str,
        role: Role,
        public_key: PublicKey,
        names: x509.SubjectAlternativeName,
        now_ms: int,
        days: float,
    ) -> Issued:
        member = Identity(self.fleet, name, role)
        life = timedelta(days=days)
        signed = certificates.issue(self._issuer, member, public_key, names, now_ms, life)
        issued = Issued(
            name=name,
            role=role,
            serial=f"{signed.serial_number:x}",
            not_after_ms=int(signed.not_valid_after_utc.timestamp()) * 1000,
            pem=signed.public_bytes(PEM).decode(),
        )
        self._book.issued.append(issued)
        self._save(now_ms)
        return issued

    def _unknown(self, name: str, now_ms: int) -> AuthorityUnusable:
        names = ", ".join(member.name for member in self.members(now_ms)) or "nobody"
        return AuthorityUnusable(f"{name} has no certificate that counts; those who have: {names}")

    def _save(self, now_ms: int) -> None:
        """Write the book, without what nobody would believe any more."""
        issued = [one for one in self._book.issued if one.matters(now_ms)]
        if len(issued) > CERTIFICATES_MAX:
            raise AuthorityUnusable(
                f"an authority keeps at most {CERTIFICATES_MAX} certificates, and {self._directory} has as many; "
                "they leave its book 30 days after they have expired"
            )
        self._book.issued = issued
        content = msgspec.json.encode(self._book)
        write_file(self._directory / "book.json", content, secret=True)


def _check_name(name: str, what: str) -> None:
    if not is_id(name):
        raise AuthorityUnusable(f"{name!r} is no name of {what}; use 1 to 32 of a-z, 0-9 and -")


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    try:
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise AuthorityUnusable(f"{directory} cannot be used: {error.strerror}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AuthorityUnusable(
                f"the authority in {directory} is at work in another process; try again when that is done"
            ) from None
        yield
    finally:
        os.close(lock)
