"""Reads and writes secrets (keys, passwords) in files that only their owner may read.

Decides that a file which others can read is no secret, and that one is never written to a place where others could read
it, not even for a moment. On failure: `SecretUnusable`, with the way out. The secret itself never stands in a message.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, Final

from broker.errors import SecretMissing, SecretUnusable
from broker.journal import sync_directory

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_private", "read_secret", "write_file"]

SECRET_BYTES_MAX: Final = 4096
"""Nobody's key is longer; a wrong path may name anything."""


def read_secret(path: Path, what: str, *, bytes_min: int = 1) -> bytes:
    """The file's bytes, without white space at the end.

    Args:
        path: The file; mode 0600 or less.
        what: What it is, for messages.
        bytes_min: It must be at least this long.

    Raises:
        SecretUnusable: It is not there, others may read it, or it is too short or too long.
    """
    secret = read_private(path, what, bytes_max=SECRET_BYTES_MAX).rstrip()
    if len(secret) < bytes_min:
        raise SecretUnusable(
            f"the {what} {path} has {len(secret)} bytes, wanted are {bytes_min} to {SECRET_BYTES_MAX}; "
            f"`head -c 32 /dev/urandom | base64 > {path}` makes a good one"
        )
    return secret


def read_private(path: Path, what: str, *, bytes_max: int) -> bytes:
    """The bytes of a file that nobody but its owner may read.

    Raises:
        SecretMissing: It is not there.
        SecretUnusable: It cannot be read, others may read it, or it is too long.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(bytes_max + 1)
    except FileNotFoundError as error:
        raise SecretMissing(f"the {what} {path} cannot be read: {error.strerror}") from None
    except OSError as error:
        raise SecretUnusable(f"the {what} {path} cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise SecretUnusable(
            f"the {what} {path} has mode {mode:04o}, so others may use it; run `chmod 600 {path}`"
        )
    if len(content) > bytes_max:
        raise SecretUnusable(
            f"the {what} {path} has more than {bytes_max} bytes; is it another file?"
        )
    return content


def write_file(path: Path, content: bytes, *, secret: bool = False) -> None:
    """Put a file in the place of the one that is there, all of it or nothing, also when the power goes.

    Written by root it stays with its owner, who is to go on reading it.

    Args:
        path: The file.
        content: Its bytes.
        secret: Mode 0600, from the first byte on; else 0644.

    Raises:
        SecretUnusable: It cannot be written.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
        mode = 0o600 if secret else 0o644
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            if os.geteuid() == 0:
                with contextlib.suppress(FileNotFoundError):
                    owner = path.stat()
                    os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync_directory(path.parent)  # else the old one may be back when the power comes back
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise SecretUnusable(f"{path} cannot be written: {error.strerror}") from None
