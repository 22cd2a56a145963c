"""Folders of models that several tests begin with."""

import pytest

from tests.models.follow import good, make_ill


@pytest.fixture
def models(tmp_path):
    """A folder of packages, with version 1 in it."""
    folder = tmp_path / "models"
    good(folder)
    return folder


@pytest.fixture
def illness(tmp_path, monkeypatch):
    """Where files say what models that fall ill later have."""
    folder = tmp_path / "ill"
    folder.mkdir()
    make_ill(monkeypatch, folder)
    return folder
