"""A log that others can write to has an end a minute, and says what it left out."""

import logging
import os
import re

import pytest

from agent.commands import serve
from agent.log_pace import LINES_MAX, WINDOW_S, LogPace


@pytest.fixture
def log():
    """A logger, its lines, and a clock to be put forward."""

    class Lines(logging.Handler):
        def emit(self, record):
            said.append(record.getMessage())

    said, clock = [], [100.0]
    handler = Lines()
    handler.addFilter(LogPace(lambda: clock[0]))
    logger = logging.getLogger("test of log pace")
    logger.addHandler(handler)
    yield logger, said, clock
    logger.removeHandler(handler)


def test_of_each_kind_of_line_there_are_so_many_a_minute(log):
    logger, said, clock = log

    def flood(count):
        for number in range(count):
            logger.warning("stranger %d", number)

    flood(LINES_MAX + 1_000)
    logger.warning("another kind")
    assert said == [f"stranger {number}" for number in range(LINES_MAX)] + ["another kind"]
    clock[0] += WINDOW_S
    flood(2)
    assert said[-2:] == ["stranger 0 (1000 lines like it were left out)", "stranger 1"]


def test_errors_are_always_written(log):
    logger, said, _ = log
    for _ in range(LINES_MAX * 2):
        logger.error("the disk is full")
    assert len(said) == LINES_MAX * 2


def test_a_device_logs_at_this_pace(monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    serve.set_up_logging()
    assert [type(one) for handler in root.handlers for one in handler.filters] == [LogPace]


def test_only_lines_for_the_journal_bear_no_time(monkeypatch, tmp_path):
    root = logging.getLogger()
    with (tmp_path / "journal").open("w") as journal:
        monkeypatch.setattr("sys.stderr", journal)
        file = os.fstat(journal.fileno())
        for stream, form in (
            (f"{file.st_dev}:{file.st_ino}", r"WARNING here\n"),
            (f"{file.st_dev}:{file.st_ino + 1}", r"\d{4}-.* WARNING here\n"),
        ):
            monkeypatch.setenv("JOURNAL_STREAM", stream)
            monkeypatch.setattr(root, "handlers", [])
            serve.set_up_logging()
            root.warning("here")
            line = (tmp_path / "journal").read_text().splitlines(keepends=True)[-1]
            assert re.fullmatch(form, line)
