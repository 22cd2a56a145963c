"""Integrity tags of bundles: who made a bundle, so that no relay can alter or invent one.

Decides the two kinds (docs/protocol.md has their bytes). `mac` is HMAC-SHA256 under the fleet's shared key: it keeps
out whoever is no device of the fleet, and damage; any device could forge it, since all have the key. `signed` is
the origin's own signature, by the key of its certificate: it keeps out every relay, too. Lanes that carry authority
(control) are signed always, the others as `Strength` says. A device that has no fleet key yet signs everything.

A signature counts where the certificate (`signers.py`) names the origin, is not revoked, and had not expired, its grace
included, at the bundle's own stamp: what was logged holds against what counted then. A fleet key counts from its number
on, and OVERLAP_MS past the next one's beginning, by the same stamp.

Assumes the folder of an identity (`trust.py` has verified it). On failure: a `Fault`, and nothing of the bundle counts.

Measured here: HMAC-SHA256 2.1 us, keyed BLAKE2b 0.7, SHA-256 of 8 KB 6.9, to sign by P-256 18 and to verify 61, by
Ed25519 26 and 68. So the key of the certificate signs, and no second one has to be vouched for.

Source: RFC 2104, FIPS 186-5.
"""

from __future__ import annotations

from hashlib import sha256
from hmac import compare_digest, digest
from typing import TYPE_CHECKING, Final, NamedTuple

from cryptography.exceptions import InvalidSignature

from broker.certificates import SIGNATURE, public_key_of, read_key
from broker.fleet_key import OVERLAP_MS, Notice, read_notice
from broker.identity import CertificateInvalid
from broker.identity_folder import (
    AUTHORITY_FILE,
    FLEET_KEY_FILE,
    KEY_FILE,
)
from broker.mesh.clock import LOGICAL_BITS
from broker.mesh.tags import CONTROL_LANES, Fault
from broker.model_trust import ModelTrust
from broker.permissions import OriginPermissions, carries_authority
from broker.secret_file import read_secret, write_file
from broker.signers import Signers
from broker.strength import Strength

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from broker.mesh.bundle import Header, Message
    from broker.mesh.tags import Ruling

__all__ = ["FleetSeals", "SealStatistics", "mac_tag", "signed_bytes"]

MAC: Final = 1
SIGNED: Final = 2
_DIGEST_BYTES: Final = 32
_MAC_BYTES: Final = 16
"""Half of HMAC-SHA256, as RFC 2104 allows: nobody guesses 128 bits."""
_MAC_COVERED: Final = 4 + _DIGEST_BYTES
_MAC_TAG: Final = _MAC_COVERED + _MAC_BYTES
_SIGN_COVERED: Final = 8 + _DIGEST_BYTES
_MAC_KIND: Final = bytes((MAC,))
_SIGNED: Final = b"flockmq bundle 1\0" + bytes((SIGNED,))
"""Before all that is signed: the same key makes signatures in TLS."""
_FOREVER: Final = 1 << 63
_UNTAGGED: Final = Fault(
    "it has no tag; has its device, or the neighbour, an identity?", blamed=True
)
_UNKNOWN_KIND: Final = Fault("its tag is of a kind that this device does not know")
_UNSIGNED: Final = Fault("its lane needs a signature", blamed=True)
_BAD_TAG: Final = Fault("its tag does not hold", blamed=True)
_BAD_BODY: Final = Fault("its body is not the one that was tagged", blamed=True)
_IMPOSTOR: Final = Fault("it is signed by somebody else", blamed=True)
_UNKNOWN_KEY: Final = Fault("under a fleet key that this device does not have")
_OLD_KEY: Final = Fault("under a fleet key that was out of use by then")
_EXPIRED: Final = Fault("its certificate had expired")
_REVOKED: Final = Fault("its certificate is revoked")


class SealStatistics(NamedTuple):
    """What there is to say of a device's tags."""

    strength: str
    fleet_key: int
    """Number of the newest; 0: this device has none, and signs everything."""
    signers: int
    """Certificates of others that are known."""


class _MacKey(NamedTuple):
    secret: bytes
    until: int
    """The first stamp for which it does not count."""


def mac_tag(number: bytes, secret: bytes, covered: bytes, body: bytes) -> bytes:
    """A tag of kind MAC: the key's number (4 bytes), the body's digest, and the code over both and the header."""
    tag = number + sha256(body).digest()
    return tag + digest(secret, covered + _MAC_KIND + tag, "sha256")[:_MAC_BYTES]


def signed_bytes(covered: bytes, tag: bytes) -> bytes:
    """What the signature of a tag of kind SIGNED is over; `tag`: what stands before it there."""
    return b"".join((_SIGNED, covered, tag))


class FleetSeals:
    """Makes and checks the tags of one device (`broker.mesh.tags.Seals`).

    Args:
        directory: The folder of its identity.
        fleet: Its fleet.
        name: Its name.
        revoked: Tells the serial numbers of certificates that count no more.
        strength: What tags the lanes that carry no authority.

    Raises:
        CertificateInvalid: What is in the folder does not fit together.
        SecretUnusable: Others may read the key.
    """

    def __init__(
        self,
        directory: Path,
        fleet: str,
        name: str,
        revoked: Callable[[], Collection[int]],
        strength: Strength,
    ) -> None:
        self._directory = directory
        self._fleet = fleet
        self._name = name
        self._revoked = revoked
        self._strength = strength
        self._own_key = read_key(read_secret(directory / KEY_FILE, "key of this device"))
        self._authority = (directory / AUTHORITY_FILE).read_bytes()
        self.signers = Signers(directory, fleet)
        """Whose signatures it can check."""
        self.models = ModelTrust(fleet, self._authority, revoked)
        """Whose manifests of models count."""
        self._permissions = OriginPermissions(self.models.believes)
        self._keys: dict[bytes, _MacKey] = {}
        """By number, as it travels."""
        self._key_number = b""
        """Of the one in use; empty: there is none."""
        self._secret = b""
        self._notice = Notice(0, whole=False, keys=())
        self._notice_pem = b""
        self._own_number = self.signers.own.to_bytes(8, "big")
        path = directory / FLEET_KEY_FILE
        if path.exists():
            self._use(path.read_bytes())

    # For the mesh.

    def seal(self, lane: int, covered: bytes, body: bytes) -> tuple[int, bytes]:
        """Kind and bytes of the tag of an own bundle."""
        if self._macs(lane):
            return MAC, mac_tag(self._key_number, self._secret, covered, body)
        tag = self._own_number + sha256(body).digest()
        return SIGNED, tag + self._own_key.sign(signed_bytes(covered, tag), SIGNATURE)

    def is_current(self, header: Header) -> bool:
        """Whether an own bundle's tag is one that would be made today."""
        if self._macs(header.lane):
            return header.tag_kind == MAC and header.tag[:4] == self._key_number
        return header.tag_kind == SIGNED and header.tag[:8] == self._own_number

    def check(self, header: Header, covered: bytes, body: bytes) -> Fault | None:
        """What is wrong with a bundle that came."""
        kind, tag = header.tag_kind, header.tag
        if kind == SIGNED:
            return self._check_signature(header, covered, body)
        if kind != MAC:
            return _UNTAGGED if kind == 0 else _UNKNOWN_KIND
        if self.proves(header.lane):
            return _UNSIGNED
        if len(tag) != _MAC_TAG:
            return _BAD_TAG
        key = self._keys.get(tag[:4])
        if key is None:
            return _UNKNOWN_KEY
        if body and sha256(body).digest() != tag[4:_MAC_COVERED]:
            return _BAD_BODY
        made = digest(key.secret, covered + _MAC_KIND + tag[:_MAC_COVERED], "sha256")
        if not compare_digest(made[:_MAC_BYTES], tag[_MAC_COVERED:]):
            return _BAD_TAG
        return None if header.clock < key.until else _OLD_KEY

    def _check_signature(self, header: Header, covered: bytes, body: bytes) -> Fault | None:
        tag = header.tag
        if len(tag) <= _SIGN_COVERED:
            return _BAD_TAG
        number = int.from_bytes(tag[:8], "big")
        signer = self.signers.get(number)
        if signer is None:
            return (
                Fault("its certificate is not known yet", signer=number)
                if 0 < number < _FOREVER
                else _BAD_TAG
            )
        if header.clock >= signer.until:
            if not self.signers.ask_again(number):
                return _EXPIRED
            return Fault("its certificate had expired; there may be a newer one", signer=number)
        if signer.name != header.origin:
            return _IMPOSTOR
        if signer.serial in self._revoked():
            return _REVOKED
        if body and sha256(body).digest() != tag[8:_SIGN_COVERED]:
            return _BAD_BODY
        try:
            said = signed_bytes(covered, tag[:_SIGN_COVERED])
            signer.public_key.verify(tag[_SIGN_COVERED:], said, SIGNATURE)
        except InvalidSignature:
            return _BAD_TAG
        self.signers.used(number)
        return None

    def rule(self, header: Header, messages: list[Message]) -> Ruling | None:
        """What of a genuine bundle does not count; None: all of it does."""
        return self._permissions.rule(header.origin, header.lane, messages)

    def may_say(self, origin: str, topic: str, payload: bytes, rank: int) -> bool:
        """Whether a retained value may be its origin's."""
        return self._permissions.may_say(origin, topic, payload, rank)

    @property
    def grounds(self) -> object:
        """What verdicts rest on besides a message: who is revoked."""
        return self._revoked()

    def proves(self, lane: int) -> bool:
        """Whether tags of a lane are believed only where nobody but the origin can make them."""
        return lane < CONTROL_LANES or self._strength is Strength.SIGNED

    def carries_authority(self, topic: str) -> bool:
        """Whether what is said on a topic is believed only with the tag of a control lane."""
        return carries_authority(topic)

    def needs_proof(self, topic: str) -> bool:
        """Whether a retained value that a neighbour gives is believed only in the bundle of its origin."""
        return self._strength is Strength.SIGNED or carries_authority(topic)

    def certificate(self, signer: int) -> bytes | None:
        """The certificate of a key, to be handed on; None: it is not known."""
        known = self.signers.get(signer)
        return None if known is None else known.der

    def learn(self, certificate: bytes) -> int:
        """Believe a certificate from now on; returns its key.

        Raises:
            TagInvalid: It is no device's of this fleet.
        """
        return self.signers.learn(certificate)

    # For the device.

    def adopt_key(self, pem: bytes) -> bool:
        """Use the fleet keys of a notice from now on. False if it is not newer than the one that is known.

        Raises:
            CertificateInvalid: The authority has not signed it, or it holds no key for this device.
            SecretUnusable: It cannot be stored.
        """
        if pem == self._notice_pem or not self._use(pem):
            return False
        write_file(self._directory / FLEET_KEY_FILE, pem, secret=True)
        return True

    @property
    def notice_pem(self) -> bytes:
        """The newest notice of the fleet's key that is for all devices; empty: none is known."""
        return self._notice_pem if self._notice.whole else b""

    def statistics(self) -> SealStatistics:
        """What there is to say to people."""
        newest = self._notice.keys[-1].number if self._notice.keys else 0
        return SealStatistics(self._strength.value, newest, len(self.signers) - 1)

    def _macs(self, lane: int) -> bool:
        """Whether own bundles of a lane are tagged under the fleet's key."""
        return lane >= CONTROL_LANES and self._strength is Strength.MAC and bool(self._key_number)

    def _use(self, pem: bytes) -> bool:
        authority, _ = public_key_of(self._authority)
        notice = read_notice(pem, authority, self._fleet, self._name, self._own_key)
        known = (self._notice.number, self._notice.whole)
        if (notice.number, notice.whole) <= known:
            return False
        if not notice.keys:
            raise CertificateInvalid(f"it holds no key for {self._name}")
        self._notice, self._notice_pem = notice, pem
        ends = [key.from_ms + OVERLAP_MS << LOGICAL_BITS for key in notice.keys[1:]]
        self._keys = {
            key.number.to_bytes(4, "big"): _MacKey(key.secret, until)
            for key, until in zip(notice.keys, [*ends, _FOREVER], strict=True)
        }
        self._secret = notice.keys[-1].secret
        self._key_number = notice.keys[-1].number.to_bytes(4, "big")
        return True
