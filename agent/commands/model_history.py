"""What an operator has published, in the operator's identity folder: what a rollback goes back to.

Decides that each manifest is kept as it was signed, a file each, named by site, model and counter, the newest
PUBLISHED_MAX of a model; and beside it the name of the folder from which it was published, which may be gone. On
failure: `ModelMissing`, with what to do instead.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.errors import ModelMissing
from agent.models.manifest import ManifestInvalid, read_manifest
from broker.errors import SecretUnusable
from broker.secret_file import write_file

if TYPE_CHECKING:
    from agent.models.manifest import Manifest

__all__ = ["Published", "keep", "published"]

FOLDER: Final = "published"
FROM: Final = ".from"
PUBLISHED_MAX: Final = 32
"""At most 7 MB a model; nobody goes back further. Guess."""


class Published(NamedTuple):
    """What was published once."""

    manifest: Manifest
    folder: Path | None
    """Where its package was; None: that is not known."""


def keep(identity: Path, manifest: Manifest, data: bytes, package: Path | None) -> None:
    """Remember what was published, and from which folder.

    Raises:
        SecretUnusable: It cannot be written.
    """
    folder = identity / FOLDER
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SecretUnusable(f"{folder} cannot be made: {error.strerror}") from None
    file = folder / f"{manifest.site}.{manifest.name}.{manifest.counter:016d}.json"
    if package is not None:
        write_file(file.with_suffix(FROM), str(package.absolute()).encode())
    write_file(file, data)
    for old in _files(identity, manifest.site, manifest.name)[:-PUBLISHED_MAX]:
        old.unlink(missing_ok=True)
        old.with_suffix(FROM).unlink(missing_ok=True)


def published(identity: Path, site: str, name: str) -> list[Published]:
    """What was published of a model, the newest last.

    Raises:
        ModelMissing: Nothing was, from here.
    """
    found = []
    for path in _files(identity, site, name):
        with contextlib.suppress(OSError, ManifestInvalid):
            found.append(Published(read_manifest(path.read_bytes()), _folder(path)))
    if not found:
        raise ModelMissing(
            f"nothing in {identity / FOLDER} was published as {name} of site {site}; publish an older package by "
            "`flockmq model publish`"
        )
    return found


def _folder(path: Path) -> Path | None:
    """From where a manifest was published."""
    try:
        return Path(path.with_suffix(FROM).read_text())
    except (OSError, ValueError):
        return None


def _files(identity: Path, site: str, name: str) -> list[Path]:
    return sorted((identity / FOLDER).glob(f"{site}.{name}.*.json"))
