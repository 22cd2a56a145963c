"""What all tests share: hypothesis draws the same examples in every run, on every machine."""

import io

import pytest
from hypothesis import settings

from agent.cli import main
from tests.program import Told

settings.register_profile("flockmq", derandomize=True, deadline=None, database=None)
settings.load_profile("flockmq")


@pytest.fixture
def call(monkeypatch, capsys):
    """Calls the program within this process, which takes a tenth of the time: its exit status and what it said."""

    def called(*arguments, given=""):
        monkeypatch.setattr("sys.argv", ["flockmq", *map(str, arguments)])
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        with pytest.raises(SystemExit) as ended:
            main()
        return Told(ended.value.code, *capsys.readouterr())

    return called
