"""A version of a model in a folder, as `flockmq model pack` writes it.

`package.json` has the draft of the manifest and the name of the file of each variant and delta. Decides nothing but
where things stand, and that `package.json` is written last, so that half a folder is none. Assumes nothing of the
folder. On failure: `ModelMissing`, with what is wrong and where.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from agent.errors import ModelMissing
from agent.infer.kinds import Kind
from agent.messages import Sha256
from agent.models.content import sha256_of
from agent.models.manifest import MANIFEST_BYTES_MAX, Draft

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["PACKAGE_FILE", "Package", "read_package", "write_package"]

PACKAGE_FILE: Final = "package.json"
_FileName: TypeAlias = Annotated[str, Meta(pattern=r"^[\w-][\w.-]{0,127}\Z")]
_DeltaFiles: TypeAlias = dict[Sha256, _FileName]
_SUFFIXES: Final[dict[Kind, str]] = {
    Kind.TFLITE: ".tflite",
    Kind.EDGETPU: "_edgetpu.tflite",
    Kind.ONNX: ".onnx",
}


class _Listed(msgspec.Struct, frozen=True):
    """What `package.json` holds."""

    files: dict[Kind, _FileName]
    draft: Draft
    deltas: _DeltaFiles = {}
    """By the delta's own digest."""


class Package(msgspec.Struct, frozen=True):
    """A version in a folder."""

    draft: Draft
    paths: dict[Kind, Path]
    """The file of each variant."""
    files: dict[str, Path]
    """The file of each variant and of each delta, by digest."""
    folder: Path

    def read(self, kind: Kind) -> bytes:
        """The bytes of a variant, checked.

        Raises:
            ModelMissing: They are not there, or are others.
        """
        variant = self.draft.variant(kind)
        assert variant is not None, "a package has a file for each variant"
        return self.read_content(variant.content.sha256)

    def read_content(self, sha256: str) -> bytes:
        """The bytes of a variant or a delta, checked.

        Raises:
            ModelMissing: They are not there, or are others.
        """
        path = self.files[sha256]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelMissing(f"{path}: {error.strerror}") from None
        if sha256_of(data) != sha256:
            raise ModelMissing(
                f"{path} is not what {PACKAGE_FILE} says; pack the version anew with `flockmq model pack`"
            )
        return data


def read_package(directory: Path) -> Package:
    """The version in a folder.

    Raises:
        ModelMissing: There is none, or a file is missing.
    """
    path = directory / PACKAGE_FILE
    try:
        with path.open("rb") as file:
            data = file.read(2 * MANIFEST_BYTES_MAX)
        listed = msgspec.json.decode(data, type=_Listed)
    except OSError as error:
        raise ModelMissing(
            f"{path} cannot be read: {error.strerror}; `flockmq model pack` writes such a folder"
        ) from None
    except ValueError as error:  # msgspec's errors are ValueErrors
        raise ModelMissing(f"{path} is no package of a model: {error}") from None
    variants = {variant.kind: variant.content.sha256 for variant in listed.draft.variants}
    if set(listed.files) != set(variants):
        raise ModelMissing(f"{path} does not name one file for each variant; pack it anew")
    if set(listed.deltas) != {delta.content.sha256 for delta in listed.draft.deltas}:
        raise ModelMissing(f"{path} does not name one file for each delta; pack it anew")
    paths = {kind: directory / name for kind, name in listed.files.items()}
    files = {variants[kind]: each for kind, each in paths.items()}
    files |= {sha256: directory / name for sha256, name in listed.deltas.items()}
    for there in files.values():
        if not there.is_file():
            raise ModelMissing(f"{path} names {there.name}, which is not beside it; put it there")
    return Package(listed.draft, paths, files, directory)


def write_package(
    directory: Path,
    draft: Draft,
    contents: Mapping[Kind, bytes],
    deltas: Mapping[str, bytes] | None = None,
) -> None:
    """Write the folder of a version.

    Args:
        directory: Where; made if it is missing.
        draft: The version.
        contents: The bytes of each variant.
        deltas: Those of each delta, by digest.

    Raises:
        ModelMissing: It cannot be written.
    """
    names = {kind: f"{draft.name}{_SUFFIXES[kind]}" for kind in contents}
    delta_names = {sha256: f"from-{_base(draft, sha256)}.delta" for sha256 in deltas or {}}
    listed = msgspec.json.encode(_Listed(names, draft, delta_names))
    files = [(name, contents[kind]) for kind, name in names.items()]
    files += [(name, (deltas or {})[sha256]) for sha256, name in delta_names.items()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / PACKAGE_FILE).unlink(missing_ok=True)
        for name, data in files:
            (directory / name).write_bytes(data)
        (directory / PACKAGE_FILE).write_bytes(msgspec.json.format(listed, indent=1) + b"\n")
    except OSError as error:
        raise ModelMissing(f"{directory} cannot be written: {error.strerror}") from None


def _base(draft: Draft, sha256: str) -> str:
    """The beginning of the base's digest, for the name of a delta's file."""
    return next(delta.base for delta in draft.deltas if delta.content.sha256 == sha256)[:12]
