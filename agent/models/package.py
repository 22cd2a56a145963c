"""A version of a model in a folder: `package.json`, and a file for each variant. What `flockmq model pack` writes.

`package.json` has the draft of the manifest and the name of each variant's file. Decides nothing but where things
stand. Assumes nothing of the folder. On failure: `ModelMissing`, with what is wrong and where.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from agent.errors import ModelMissing
from agent.infer.kinds import Kind
from agent.models.content import sha256_of
from agent.models.manifest import MANIFEST_BYTES_MAX, Draft

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PACKAGE_FILE", "Package", "read_package", "write_package"]

PACKAGE_FILE: Final = "package.json"


class _Listed(msgspec.Struct, frozen=True):
    """What `package.json` holds."""

    files: dict[Kind, Annotated[str, Meta(pattern=r"^[\w-][\w.-]{0,127}\Z")]]
    draft: Draft


class Package(msgspec.Struct, frozen=True):
    """A version in a folder."""

    draft: Draft
    paths: dict[Kind, Path]
    """The file of each variant."""

    def read(self, kind: Kind) -> bytes:
        """The bytes of a variant, checked.

        Raises:
            ModelMissing: They are not there, or are others.
        """
        variant = self.draft.variant(kind)
        path = self.paths[kind]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelMissing(f"{path}: {error.strerror}") from None
        if variant is None or sha256_of(data) != variant.content.sha256:
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
    paths = {kind: directory / name for kind, name in listed.files.items()}
    if set(paths) != {variant.kind for variant in listed.draft.variants}:
        raise ModelMissing(f"{path} does not name one file for each variant; pack it anew")
    for there in paths.values():
        if not there.is_file():
            raise ModelMissing(f"{path} names {there.name}, which is not beside it; put it there")
    return Package(listed.draft, paths)


def write_package(directory: Path, draft: Draft, contents: dict[Kind, bytes]) -> None:
    """Write the folder of a version.

    Raises:
        ModelMissing: It cannot be written.
    """
    suffixes: dict[Kind, str] = {
        Kind.TFLITE: ".tflite",
        Kind.EDGETPU: "_edgetpu.tflite",
        Kind.ONNX: ".onnx",
    }
    files = {kind: f"{draft.name}{suffixes[kind]}" for kind in contents}
    listed = msgspec.json.encode(_Listed(files, draft))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for kind, name in files.items():
            (directory / name).write_bytes(contents[kind])
        (directory / PACKAGE_FILE).write_bytes(msgspec.json.format(listed, indent=1) + b"\n")
    except OSError as error:
        raise ModelMissing(f"{directory} cannot be written: {error.strerror}") from None
