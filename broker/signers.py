"""Whose signatures a device can check: the certificates of devices whose bundles have come, its own among them.

Decides which certificates are taken: a device's of this fleet, signed by its authority; of two for one key the one that
holds longer. Bounded, and stored, so that after a restart they vouch for what is held. The beginning of a certificate
is not looked at: it is renewed for the same key, and a Raspberry Pi may begin in 1970.

Assumes the certificate of the fleet's authority. On failure: `TagInvalid`, and nothing has changed; what was stored and
does not hold by now is left out, and asked for again.
"""

from __future__ import annotations

import contextlib
import ssl
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from broker.certificates import key_number, member_of, public_key_of
from broker.errors import SecretUnusable
from broker.identity import DAY_MS, GRACE_DAYS, CertificateInvalid, Role
from broker.identity_folder import AUTHORITY_FILE, CERTIFICATE_FILE, SIGNERS_FILE
from broker.mesh.clock import LOGICAL_BITS
from broker.mesh.tags import TagInvalid
from broker.secret_file import write_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker.certificates import PublicKey

__all__ = ["SIGNERS_MAX", "Signer", "Signers"]

_PEM_END: Final = "-----END CERTIFICATE-----"
SIGNERS_MAX: Final = 2_048
"""Certificates of origins that are remembered, at about 2 KB; beyond it the one not used for longest is asked for
again."""


class Signer(NamedTuple):
    """What a certificate says of the device that signs with its key."""

    name: str
    serial: int
    public_key: PublicKey
    until: int
    """The first stamp for which it does not count, its grace included."""
    der: bytes


class Signers:
    """Those that one device knows, by the numbers of their keys.

    Args:
        directory: The folder of its identity.
        fleet: Its fleet.

    Raises:
        TagInvalid: Its own certificate is no device's of this fleet.
    """

    def __init__(self, directory: Path, fleet: str) -> None:
        self._directory = directory
        self._fleet = fleet
        self._authority = (directory / AUTHORITY_FILE).read_bytes()
        self._known: OrderedDict[int, Signer] = OrderedDict()
        self._asked_again: set[int] = set()
        """Keys whose certificates have expired, and were asked for again."""
        self._unsaved = False
        own = (directory / CERTIFICATE_FILE).read_text()
        self.own = self.learn(ssl.PEM_cert_to_DER_cert(own))
        """The number of this device's own key."""
        self._recall()

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[int]:
        return iter(self._known)

    def get(self, number: int) -> Signer | None:
        """The signer with this key, if its certificate is known."""
        return self._known.get(number)

    def names(self) -> list[str]:
        """Whose certificates are known."""
        return sorted({signer.name for signer in self._known.values()})

    def used(self, number: int) -> None:
        """A signature of this key was good: it is remembered for longer than those that were not needed since."""
        self._known.move_to_end(number)

    def ask_again(self, number: int) -> bool:
        """Whether to ask for a newer certificate of a key whose own has expired: once."""
        if number in self._asked_again:
            return False
        self._asked_again.add(number)
        return True

    def learn(self, certificate: bytes) -> int:
        """Believe a certificate, as DER, from now on; returns the number of its key.

        Raises:
            TagInvalid: It is no device's of this fleet.
        """
        try:
            member, public_key = member_of(certificate, self._authority)
        except CertificateInvalid as error:
            raise TagInvalid(str(error)) from None
        fleet, name, role = member.identity
        if fleet != self._fleet or role is not Role.DEVICE:
            raise TagInvalid(f"it is that of {role} {name} of fleet {fleet}")
        number = key_number(public_key)
        until = member.not_after_ms + GRACE_DAYS * DAY_MS << LOGICAL_BITS
        known = self._known.get(number)
        if known is not None and known.until >= until:
            return number
        self._asked_again.discard(number)
        self._unsaved = True
        self._known[number] = Signer(name, member.serial, public_key, until, certificate)
        if len(self._known) > SIGNERS_MAX:
            oldest = next(other for other in self._known if other != self.own)
            del self._known[oldest]
            self._asked_again.discard(oldest)
        return number

    def hear(self, pem: bytes) -> bool:
        """Take a renewed certificate of somebody whose bundles come. False: nobody's.

        Raises:
            CertificateInvalid: It does not hold.
        """
        try:
            der = ssl.PEM_cert_to_DER_cert(pem.decode())
            number = key_number(public_key_of(pem)[0])
            if number not in self._known or self._known[number].der == der:
                return False
            self.learn(der)
        except (TagInvalid, ValueError) as error:
            raise CertificateInvalid(str(error)) from None
        return True

    def take_unsaved(self) -> bytes | None:
        """What is to be stored, for `save`: the certificates of others; None: there are no new ones."""
        if not self._unsaved:
            return None
        self._unsaved = False
        others = [known.der for number, known in self._known.items() if number != self.own]
        return "".join(map(ssl.DER_cert_to_PEM_cert, others)).encode()

    def save(self, pem: bytes) -> None:
        """Store what `take_unsaved` gave. Blocks for as long as the disk takes.

        Raises:
            SecretUnusable: It cannot be stored; it is given again.
        """
        try:
            write_file(self._directory / SIGNERS_FILE, pem)
        except SecretUnusable:
            self._unsaved = True
            raise

    def _recall(self) -> None:
        """Take up what was stored."""
        path = self._directory / SIGNERS_FILE
        text = path.read_text(errors="replace") if path.exists() else ""
        for pem in text.split(_PEM_END)[:-1]:
            with contextlib.suppress(TagInvalid, ValueError):
                self.learn(ssl.PEM_cert_to_DER_cert(pem.strip() + _PEM_END))
        self._unsaved = False
