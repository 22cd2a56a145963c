"""The model files on this device, by digest.

A directory holds `models.json` (name, version, counter, file, sha256, size_bytes of each) beside the files. By default
it is the one that ships with flockmq.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from agent.errors import ModelMissing
from agent.messages import Model
from agent.models.limits import MODEL_BYTES_MAX

__all__ = ["ModelFiles"]


class _Row(msgspec.Struct, frozen=True):
    name: str
    version: str
    counter: int
    file: Annotated[str, Meta(pattern=r"^[\w.-]+\Z")]
    sha256: str
    size_bytes: Annotated[int, Meta(ge=1, le=MODEL_BYTES_MAX)]


class ModelFiles:
    """The models of one directory.

    Args:
        directory: Where they are; None: those that ship.

    Raises:
        ModelMissing: There is no readable `models.json`.
    """

    def __init__(self, directory: str | None = None) -> None:
        self._directory = (
            Path(directory) if directory else Path(str(files("agent") / "data" / "models"))
        )
        self._rows = self._read_index()

    def _read_index(self) -> dict[str, _Row]:
        index = self._directory / "models.json"
        try:
            rows = msgspec.json.decode(index.read_bytes(), type=list[_Row])
        except OSError as error:
            raise ModelMissing(
                f"{index} cannot be read ({error.strerror}); set directory in [model] to a folder with models"
            ) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ModelMissing(f"{index} is not a list of models: {error}") from None
        for row in rows:
            if not (self._directory / row.file).is_file():
                raise ModelMissing(
                    f"{index} names {row.file}, which is not beside it; put it there, or remove its entry"
                )
        return {row.sha256: row for row in rows}

    def manifest(self, name: str, version: str | None = None) -> Model:
        """What an operator publishes of a version; without one, of the lowest counter.

        Raises:
            ModelMissing: There is no such model or version here.
        """
        rows = [row for row in self._rows.values() if row.name == name]
        if version is not None:
            rows = [row for row in rows if row.version == version]
        if not rows:
            raise ModelMissing(f"no version {version or 'at all'} of {name} in {self._directory}")
        row = min(rows, key=lambda one: one.counter)
        return Model(
            name=row.name,
            version=row.version,
            counter=row.counter,
            sha256=row.sha256,
            size_bytes=row.size_bytes,
        )

    def read(self, sha256: str) -> bytes:
        """The bytes of a model.

        Raises:
            ModelMissing: It is not on this device.
        """
        if sha256 not in self._rows:
            self._rows = self._read_index()  # somebody may have put it there meanwhile
        row = self._rows.get(sha256)
        if row is None:
            raise ModelMissing(f"no model with digest {sha256[:12]} in {self._directory}")
        try:
            return (self._directory / row.file).read_bytes()
        except OSError as error:
            raise ModelMissing(f"{self._directory / row.file}: {error.strerror}") from None
