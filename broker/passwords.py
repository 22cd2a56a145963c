"""Passwords as they are stored: salted, and slow to try.

Decides the function and its cost: scrypt with N = 2^14, r = 8, p = 5 takes 16 MiB and, on a 2-core x86 machine, 160 ms
(measured; a Raspberry Pi is some times slower, not measured). All passwords cost the same, a wrong one and that of
nobody included, so that time says nothing; so a hash of another cost is none here.

Assumes that the caller keeps the cost away from its event loop: `matches` and `hash_password` block, though without the
interpreter's lock. On failure: nothing can fail; what is no hash is seen by `is_hash`, before.

Source: RFC 7914; the cost is one of those that the OWASP Password Storage Cheat Sheet gives as a minimum; the form that
of the PHC string format.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from base64 import b64decode, b64encode
from hmac import compare_digest
from typing import Final

__all__ = ["NOBODY", "hash_password", "is_hash", "matches"]

LOG2_N: Final = 14
R: Final = 8
P: Final = 5
SALT_BYTES: Final = 16
KEY_BYTES: Final = 32
_MEMORY_BYTES_MAX: Final = 32 * 1024 * 1024
"""Twice what it takes: OpenSSL wants a bound, and some room."""
_HEAD: Final = f"$scrypt$ln={LOG2_N},r={R},p={P}$"
_FORM: Final = re.compile(re.escape(_HEAD) + r"[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}\Z")


def hash_password(password: bytes) -> str:
    """What to store of a new password."""
    salt = secrets.token_bytes(SALT_BYTES)
    return _stored(salt, _derive(password, salt))


def is_hash(text: str) -> bool:
    """Whether `hash_password` could have made this."""
    return _FORM.match(text) is not None


def matches(password: bytes, stored: str) -> bool:
    """Whether this is the password that was stored; takes as long either way."""
    salt, key = (_bytes(field) for field in stored.removeprefix(_HEAD).split("$"))
    return compare_digest(_derive(password, salt), key)


def _derive(password: bytes, salt: bytes) -> bytes:
    return hashlib.scrypt(
        password,
        salt=salt,
        n=1 << LOG2_N,
        r=R,
        p=P,
        maxmem=_MEMORY_BYTES_MAX,
        dklen=KEY_BYTES,
    )


def _stored(salt: bytes, key: bytes) -> str:
    salt_text, key_text = (b64encode(part).decode().rstrip("=") for part in (salt, key))
    return f"{_HEAD}{salt_text}${key_text}"


def _bytes(field: str) -> bytes:
    return b64decode(field + "=" * (-len(field) % 4))


NOBODY: Final = _stored(secrets.token_bytes(SALT_BYTES), secrets.token_bytes(KEY_BYTES))
"""To try the password of a user who is not there: it matches none."""
