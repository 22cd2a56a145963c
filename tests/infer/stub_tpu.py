"""An Edge TPU that is none, for the folders of tests whose conftest takes it in: a delegate built from C."""

import shutil
import subprocess
from pathlib import Path

import pytest

from agent.infer.edgetpu import EdgeTpu


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The path of a stand-in for libedgetpu, built here from C."""
    if shutil.which("cc") is None:
        # A Pi need not have one, and everything else can be tested there.
        pytest.skip("no C compiler here, so there is no stand-in for libedgetpu: apt install gcc")
    built = tmp_path_factory.mktemp("edgetpu") / "libedgetpu_stub.so"
    source = Path(__file__).with_name("edgetpu_stub.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", built, source], check=True)
    return str(built)


@pytest.fixture
def tpu(library, tmp_path, monkeypatch):
    """An Edge TPU, and the folder that says what is wrong with it."""
    folder = tmp_path / "tpu"
    folder.mkdir()
    monkeypatch.setenv("FLOCKMQ_STUB_TPU", str(folder))
    return EdgeTpu(library), folder
