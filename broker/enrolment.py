"""How a new device gets its identity: a code that a person carries, and one exchange over TLS.

    authority: `flockmq ca invite lot-3`           new device: `flockmq enroll CODE --at ADDRESS`
    shows a code, and listens
                                    <-- TLS -->    hangs up unless the certificate is the one in the code
                                    <---------     a request for a certificate, and a proof that it knows the code
    signs, or refuses and says why  --------->     stores, and says so

Decides the code: the first bytes of the SHA-256 of a certificate that was made for this invitation, a secret, and a
checksum, so that a slip of the pen costs no try. Both sides are proven by it: the device believes nobody else's
certificate, and the authority signs for nobody who does not know the secret, which never travels: the proof is an HMAC
of the request under it. A code is good for one device, for a few minutes, and for TRIES_MAX wrong proofs. The same
request is answered again, since the first answer may have been lost on its way.

Assumes that nobody else reads the code in these minutes. On failure: `EnrolmentFailed`, or the reason in the answer.
Pure, but for the chance in `make_code`. No password-authenticated exchange is needed, since the secret is long.

Source: RFC 2104 for HMAC.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b32decode, b32encode
from typing import Final, NamedTuple

import msgspec

from broker.errors import EnrolmentFailed

__all__ = [
    "ENROLMENT_PORT",
    "EXCHANGE_S",
    "LINE_BYTES_MAX",
    "TRIES_MAX",
    "Answer",
    "Code",
    "Invitation",
    "Question",
    "fingerprint",
    "make_code",
    "proof",
    "read_code",
]

FINGERPRINT_BYTES: Final = 16
"""Nobody makes a second certificate with the same 128 bits in ten minutes, or ever."""
SECRET_BYTES: Final = 10
"""80 bits, of which TRIES_MAX can be tried."""
CHECK_BYTES: Final = 2
"""One slip of the pen in 65,536 gets past it, and then costs a try."""
GROUP: Final = 5
"""Characters between dashes, as people read them."""
ENROLMENT_PORT: Final = 8884
"""Where an authority listens by default; a device's own port is 8883."""
EXCHANGE_S: Final = 10.0
"""For all of it, and for the handshake before it. A first Pi over a mobile network needs two. Guess."""
LINE_BYTES_MAX: Final = 16 * 1024
"""Question and answer are lines of JSON of at most 3 KB."""
TRIES_MAX: Final = 5
"""Wrong proofs until the code is worth nothing. A person who copies it needs one."""


class Code(NamedTuple):
    """What a person carries."""

    fingerprint: bytes
    """Of the certificate that the authority shows."""
    secret: bytes

    def __str__(self) -> str:
        """For people: base32, in groups."""
        data = self.fingerprint + self.secret
        text = b32encode(data + _check(data)).decode().rstrip("=")
        return "-".join(text[i : i + GROUP] for i in range(0, len(text), GROUP))


class Question(msgspec.Struct, frozen=True):
    """What the new device says."""

    request: str
    """A certificate request, as PEM."""
    proof: str
    """Hexadecimal."""


class Answer(msgspec.Struct, frozen=True):
    """What the authority says; either `refused` or all the rest."""

    refused: str = ""
    """Why not."""
    name: str = ""
    site: str = ""
    seeds: tuple[str, ...] = ()
    """`host:port` of devices that are up."""
    authority: str = ""
    """Its certificate, as PEM."""
    certificate: str = ""
    """The new device's, as PEM."""
    fleet_key: str = ""
    """The notice of the fleet's key for it, as PEM; of who is no device none."""


def make_code(certificate_der: bytes) -> Code:
    """A new code for an authority that shows this certificate."""
    return Code(fingerprint(certificate_der), secrets.token_bytes(SECRET_BYTES))


def read_code(text: str) -> Code:
    """A code as a person typed it.

    Raises:
        EnrolmentFailed: It is none.
    """
    compact = "".join(text.split()).replace("-", "").upper()
    # What people take for each other; base32 has neither 0, 1 nor 8.
    compact = compact.replace("0", "O").replace("1", "I").replace("8", "B")
    try:
        data = b32decode(compact + "=" * (-len(compact) % 8))
    except ValueError:
        data = b""
    body = data[:-CHECK_BYTES]
    if len(body) != FINGERPRINT_BYTES + SECRET_BYTES or _check(body) != data[-CHECK_BYTES:]:
        raise EnrolmentFailed("that is no code, or there is a slip in it; copy all of it anew")
    return Code(body[:FINGERPRINT_BYTES], body[FINGERPRINT_BYTES:])


def fingerprint(certificate_der: bytes) -> bytes:
    """What a code says of a certificate."""
    return hashlib.sha256(certificate_der).digest()[:FINGERPRINT_BYTES]


def proof(code: Code, request: str) -> str:
    """Shows that whoever made a request knows the secret; for this authority and this request only."""
    said = b"flockmq enrolment 1\0" + code.fingerprint + request.encode()
    return hmac.new(code.secret, said, hashlib.sha256).hexdigest()


class Invitation:
    """One code at the authority: until when, for how many tries, and for whom.

    Args:
        code: The code.
        until_s: When it expires, on the caller's monotonic clock.
    """

    def __init__(self, code: Code, until_s: float) -> None:
        self.code = code
        self.until_s = until_s
        self.tries_left = TRIES_MAX
        self._granted = ""

    def check(self, question: Question, now_s: float) -> str:
        """Why a question is refused; empty: it is granted, to this request and no other."""
        if now_s >= self.until_s:
            return "the code has expired; ask for another"
        if not self.tries_left:
            return "the code was tried too often; ask for another"
        if not hmac.compare_digest(proof(self.code, question.request), question.proof):
            self.tries_left -= 1
            return "the code is not right"
        if self._granted not in {"", question.request}:
            return "the code has been used by another device; ask for another"
        self._granted = question.request
        return ""


def _check(data: bytes) -> bytes:
    return hashlib.sha256(b"check" + data).digest()[:CHECK_BYTES]
