"""The folder with a device's identity.

`ca.pem`: whom it trusts; `own.pem`: its certificate; `own.key`: its key; `fleet-key.pem`: the key that all devices of
the fleet share, wrapped for it; `signers.pem`: certificates of others whose bundles came; `model.key`: an operator's
key for manifests of models.

Decides the names and modes of the files, and the order in which they are written: the key before the certificate that
needs it. On failure: `SecretUnusable`, with the way out, and of a new folder nothing is left.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from broker.errors import SecretUnusable
from broker.secret_file import write_file

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "AUTHORITY_FILE",
    "CERTIFICATE_FILE",
    "FLEET_KEY_FILE",
    "KEY_FILE",
    "MODEL_KEY_FILE",
    "REVOKED_FILE",
    "SIGNERS_FILE",
    "write_identity",
]

AUTHORITY_FILE: Final = "ca.pem"
CERTIFICATE_FILE: Final = "own.pem"
KEY_FILE: Final = "own.key"
REVOKED_FILE: Final = "revoked.json"
FLEET_KEY_FILE: Final = "fleet-key.pem"
SIGNERS_FILE: Final = "signers.pem"
MODEL_KEY_FILE: Final = "model.key"
SECRET_FILES: Final = (KEY_FILE, FLEET_KEY_FILE)


def write_identity(
    directory: Path, authority: bytes, certificate: bytes, key: bytes, fleet_key: bytes = b""
) -> None:
    """Write the folder of a new member, all of it or nothing.

    Args:
        directory: Made if it is missing.
        authority: Certificate of the fleet's authority, as PEM.
        certificate: The member's, as PEM.
        key: The member's, as PEM.
        fleet_key: The notice of the fleet's key for a device, as PEM; empty: it is none, or hears it from the mesh.

    Raises:
        SecretUnusable: Something cannot be written.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SecretUnusable(f"{directory} cannot be made: {error.strerror}") from None
    files = [(KEY_FILE, key), (AUTHORITY_FILE, authority), (CERTIFICATE_FILE, certificate)]
    if fleet_key:
        files.insert(2, (FLEET_KEY_FILE, fleet_key))
    try:
        for name, content in files:
            write_file(directory / name, content, secret=name in SECRET_FILES)
    except SecretUnusable:
        for name, _ in files:
            (directory / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            directory.rmdir()  # something else is in it
        raise
