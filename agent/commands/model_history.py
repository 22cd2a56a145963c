"""What an operator has published, in the operator's identity folder: what a rollback goes back to.

Decides that each manifest is kept as it was signed, a file each, named by site, model and counter, the newest
PUBLISHED_MAX of a model. On failure: `ModelMissing`, with what to do instead.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from agent.errors import ModelMissing
from agent.models.manifest import ManifestInvalid, read_manifest
from broker.errors import SecretUnusable
from broker.secret_file import write_file

if TYPE_CHECKING:
    from pathlib import Path

    from agent.models.manifest import Manifest

__all__ = ["keep", "published"]

FOLDER: Final = "published"
PUBLISHED_MAX: Final = 32
"""At most 7 MB a model; nobody goes back further. Guess."""


def keep(identity: Path, manifest: Manifest, data: bytes) -> None:
    """Remember what was published.

    Raises:
        SecretUnusable: It cannot be written.
    """
    folder = identity / FOLDER
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SecretUnusable(f"{folder} cannot be made: {error.strerror}") from None
    write_file(folder / f"{manifest.site}.{manifest.name}.{manifest.counter:016d}.json", data)
    for old in _files(identity, manifest.site, manifest.name)[:-PUBLISHED_MAX]:
        old.unlink(missing_ok=True)


def published(identity: Path, site: str, name: str) -> list[Manifest]:
    """What was published of a model, the newest last.

    Raises:
        ModelMissing: Nothing was, from here.
    """
    found = []
    for path in _files(identity, site, name):
        with contextlib.suppress(OSError, ManifestInvalid):
            found.append(read_manifest(path.read_bytes()))
    if not found:
        raise ModelMissing(
            f"nothing in {identity / FOLDER} was published as {name} of site {site}; publish an older package by "
            "`flockmq model publish`"
        )
    return found


def _files(identity: Path, site: str, name: str) -> list[Path]:
    return sorted((identity / FOLDER).glob(f"{site}.{name}.*.json"))
