"""Packages as commands name them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agent.commands.paths import is_there
from agent.models.package import read_package
from agent.models.shipped import ModelFiles

if TYPE_CHECKING:
    from agent.models.package import Package

__all__ = ["package_named"]


def package_named(name: str) -> Package:
    """A package by its folder, or by its name among those that ship.

    Raises:
        ModelMissing: It is not there.
        ModelUnusable: It is none.
    """
    path = Path(name)
    if path.name == name and not is_there(path):
        for package in ModelFiles().packages:
            if name == f"{package.draft.name}-{package.draft.version}":
                return package
    return read_package(path)
