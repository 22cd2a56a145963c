"""The page of figures: its tables come from results, and the prose around them stays."""

import json

from bench import page
from bench.__main__ import NAMES

RESULT = {
    "name": "chain",
    "machine": {"cores": 2},
    "systems": {"a": {"p50_ms_200": 0.5, "p50_ms_2000": 0.75}, "b": {"missing": "not here"}},
    "ratios": {"a_vs_b": None, "lost": 0},
    "problems": ["a: one was lost"],
}


def test_a_table_shows_every_figure_and_every_problem():
    shown = page.table(RESULT)
    for cell in ("p50_ms_200", "0.5", "not here", "`lost`", "Problem: a: one was lost."):
        assert cell in shown


def test_a_result_replaces_the_last_one_and_leaves_the_prose(tmp_path, monkeypatch):
    target = tmp_path / "bench.md"
    target.write_text("Before.\n\n<!-- chain -->\nold\n<!-- /chain -->\n\nAfter.\n")
    monkeypatch.setattr(page, "PAGE", target)
    monkeypatch.setattr(page, "draw", lambda *_: None)
    result = tmp_path / "chain.json"
    result.write_text(json.dumps(RESULT))
    monkeypatch.setattr("sys.argv", ["page", str(result)])
    assert page.main() == 0
    assert page.main() == 0
    text = target.read_text()
    assert text.startswith("Before.")
    assert text.endswith("\n\nAfter.\n")
    assert "old" not in text
    assert text.count("p50_ms_2000") == 1


def test_the_page_has_a_place_for_every_benchmark():
    text = page.PAGE.read_text()
    for name in ("machine", *NAMES):
        assert f"<!-- {name} -->" in text
        assert f"<!-- /{name} -->" in text
