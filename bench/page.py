"""Writes what `--json` printed into `docs/bench.md`: `python -m bench.page chain.json fleet.json ...`.

A table stands between the marks `<!-- NAME -->` and `<!-- /NAME -->` of the page; what is between them is replaced, the
prose around stays. The latencies of `chain` become a picture, one line a system.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.result import text

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["main", "table"]

DOCS: Final = Path(__file__).parent.parent / "docs"
PAGE: Final = DOCS / "bench.md"
_POINT: Final = re.compile(r"(p50|p99)_ms_(\d+)")


def table(result: dict[str, Any]) -> str:
    """Systems and figures in Markdown, then the ratios, how busy the machine was, and what went wrong."""
    systems: dict[str, dict[str, Any]] = result["systems"]
    figures = list(dict.fromkeys(key for row in systems.values() for key in row))
    lines = _rows(
        ["", *figures],
        [[name, *(text(row.get(f)) for f in figures)] for name, row in systems.items()],
    )
    if len(figures) > len(systems):
        lines = _rows(
            ["", *systems], [[f, *(text(row.get(f)) for row in systems.values())] for f in figures]
        )
    ratios = [[f"`{name}`", text(value)] for name, value in result["ratios"].items()]
    lines += ["", *_rows(["ratio", "value"], ratios)]
    lines += ["", f"Load average before it began: {text(result['machine'].get('load_before'))}."]
    lines += ["", *(f"Problem: {problem}." for problem in result["problems"])]
    return "\n".join(lines).strip()


def _rows(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    marks = "|".join(["---"] + ["---:"] * (len(head) - 1))
    return [f"| {' | '.join(head)} |", f"|{marks}|", *(f"| {' | '.join(row)} |" for row in rows)]


def _machine(result: dict[str, Any]) -> str:
    return "\n".join(_rows(["fact", "value"], [[k, text(v)] for k, v in result["machine"].items()]))


def _replace(page: str, name: str, body: str) -> str:
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if start not in page:
        return page
    before, _, rest = page.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}\n\n{body}\n\n{end}{after}"


def draw(result: dict[str, Any], path: Path) -> None:
    """Latency against load, median and 99th percentile, per system."""
    import matplotlib as mpl  # noqa: PLC0415 - an optional extra

    mpl.use("svg")
    import matplotlib.pyplot as plt  # noqa: PLC0415 - after the choice of what draws

    mpl.rcParams["svg.hashsalt"] = "flockmq"
    figure, panes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    for pane, percent in zip(panes, ("p50", "p99"), strict=True):
        for name, row in result["systems"].items():
            points = sorted(
                (int(match[2]), value)
                for key, value in row.items()
                if (match := _POINT.fullmatch(key)) and match[1] == percent
            )
            if points:
                pane.plot(*zip(*points, strict=True), marker="o", label=name)
        pane.set(title=f"{percent} of publish to reduced", xscale="log", yscale="log")
        pane.set_xlabel("updates per second")
        pane.grid(visible=True, which="both", alpha=0.3)
    panes[0].set_ylabel("ms")
    panes[1].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    """Put the results that the command line names into the page."""
    page = PAGE.read_text()
    for path in map(Path, sys.argv[1:]):
        data = path.read_text()
        if not data:
            continue  # it could not run, and has said why
        result = json.loads(data)
        page = _replace(page, result["name"], table(result))
        if result["name"] == "chain":
            page = _replace(page, "machine", _machine(result))
            draw(result, DOCS / "bench-latency.svg")
    PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
