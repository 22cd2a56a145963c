"""The models in a folder on this device, by digest: packages, one folder each (`package.py`).

By default it is the folder that ships with flockmq. It is read again when something is asked for that was not there.
"""

from __future__ import annotations

import logging
from importlib.resources import files
from pathlib import Path

from agent.errors import ModelMissing
from agent.models.package import PACKAGE_FILE, Package, read_package

__all__ = ["ModelFiles"]

logger = logging.getLogger(__name__)


class ModelFiles:
    """The models of one folder.

    Args:
        directory: Where they are; None: those that ship.

    Raises:
        ModelMissing: It holds no package, or one that cannot be used.
    """

    def __init__(self, directory: str | None = None) -> None:
        self._directory = (
            Path(directory) if directory else Path(str(files("agent") / "data" / "models"))
        )
        self._contents = self._look()

    def _look(self) -> dict[str, Package]:
        found = sorted(self._directory.glob(f"*/{PACKAGE_FILE}"))
        if not found:
            raise ModelMissing(
                f"{self._directory} holds no folder that `flockmq model pack` has written; make one there, or set "
                "directory in [model] to where one is"
            )
        self.packages = [read_package(path.parent) for path in found]
        return {sha256: package for package in self.packages for sha256 in package.files}

    def package(self, name: str, version: str) -> Package:
        """A version that is here.

        Raises:
            ModelMissing: It is not.
        """
        for package in self.packages:
            if (package.draft.name, package.draft.version) == (name, version):
                return package
        raise ModelMissing(f"no version {version} of {name} in {self._directory}")

    def holds(self, sha256: str) -> bool:
        """Whether the bytes of a variant or a delta are here."""
        if sha256 not in self._contents:
            try:
                self._contents = self._look()  # somebody may have put it there meanwhile
            except ModelMissing as error:
                logger.warning("packages are passed over: %s", error)
        return sha256 in self._contents

    def read(self, sha256: str) -> bytes:
        """The bytes of a variant or a delta, checked.

        Raises:
            ModelMissing: They are not on this device.
        """
        if not self.holds(sha256):
            raise ModelMissing(f"no model with digest {sha256[:12]} in {self._directory}")
        return self._contents[sha256].read_content(sha256)
