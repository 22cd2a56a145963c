"""docs/conformance.md: no statement is left out, and every test that it names is there."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = (HERE.parent.parent / "docs" / "conformance.md").read_text()
ROWS = re.findall(r"^\| MQTT-([\d.]+)-(\d+) \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)
SECTIONS = {
    "1.5.3": 3, "2.2.2": 2, "2.3.1": 7, "3.1.0": 2, "3.1.2": 24, "3.1.3": 11, "3.1.4": 5, "3.2.0": 1,
    "3.2.2": 6, "3.3.1": 12, "3.3.2": 3, "3.3.4": 1, "3.3.5": 2, "3.6.1": 1, "3.8.1": 1, "3.8.3": 4,
    "3.8.4": 6, "3.9.3": 2, "3.10.1": 1, "3.10.3": 2, "3.10.4": 6, "3.12.4": 1, "3.14.1": 1, "3.14.4": 3,
    "4.1.0": 2, "4.3.1": 1, "4.3.2": 2, "4.3.3": 2, "4.4.0": 1, "4.5.0": 2, "4.6.0": 6, "4.7.1": 3,
    "4.7.2": 1, "4.7.3": 4, "4.8.0": 2, "6.0.0": 4, "7.0.0": 2, "7.1.1": 1, "7.1.2": 1,
}  # fmt: skip
"""How many statements each section of the standard has, by its appendix B."""


def test_every_statement_has_its_line():
    found = defaultdict(list)
    for section, number, _, _ in ROWS:
        found[section].append(int(number))
    assert found == {section: list(range(1, count + 1)) for section, count in SECTIONS.items()}


def test_the_counts_are_right():
    tested = sum(not tests.startswith("No test. ") for _, _, _, tests in ROWS)
    assert f"{len(ROWS)} statements, {tested} of them tested" in PAGE


def _tests(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[1]}")
def test_what_a_line_names_exists(row):
    tests = row[3]
    if tests.startswith("No test. "):
        assert len(tests) > 20
        return
    names = re.findall(r"`([^`]+)::(\w+)`", tests)
    assert names
    for file, name in names:
        path = HERE / file.removeprefix("../")
        if "/" not in file:
            path = HERE / "conformance" / f"test_{file}.py"
        assert f"test_{name}" in _tests(path), f"{file}: {name}"
