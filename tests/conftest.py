"""What all tests share: hypothesis draws the same examples in every run, on every machine."""

import io
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("flockmq", derandomize=True, deadline=None, database=None)
settings.load_profile("flockmq")


@pytest.fixture
def call(monkeypatch, capsys):
    """Calls the program within this process, which takes a tenth of the time: its exit status and what it said."""
    from agent.cli import main  # noqa: PLC0415 - few tests call it
    from tests.program import Told  # noqa: PLC0415 - as above

    def called(*arguments, given=""):
        monkeypatch.setattr("sys.argv", ["flockmq", *map(str, arguments)])
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        with pytest.raises(SystemExit) as ended:
            main()
        return Told(ended.value.code, *capsys.readouterr())

    return called


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The path of a stand-in for libedgetpu, built here from C."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here")
    built = tmp_path_factory.mktemp("edgetpu") / "libedgetpu_stub.so"
    source = Path(__file__).parent / "infer" / "edgetpu_stub.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", built, source], check=True)
    return str(built)


@pytest.fixture
def tpu(library, tmp_path, monkeypatch):
    """An Edge TPU, and the folder that says what is wrong with it."""
    from agent.infer.edgetpu import EdgeTpu  # noqa: PLC0415 - few tests have one

    folder = tmp_path / "tpu"
    folder.mkdir()
    monkeypatch.setenv("FLOCKMQ_STUB_TPU", str(folder))
    return EdgeTpu(library), folder
