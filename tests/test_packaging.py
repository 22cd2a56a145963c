"""What is handed on as a source distribution."""

import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOT_HANDED_ON = {".ci", ".gitignore"}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout")
def test_a_source_distribution_has_all_that_is_kept_here():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    kept = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    top = {path.partition("/")[0] for path in kept} - NOT_HANDED_ON
    assert sorted(included) == sorted(f"/{name}" for name in top)
