"""What a benchmark found, as JSON and as a table.

Decides the one shape that all benchmarks share: `{name, machine, systems: {system: {figure: value}}, ratios: {figure:
value}}`. A figure that could not be measured is text that says why; a benchmark whose messages were lost says so in
`problems`, and the command then ends with status 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.machine import facts

__all__ = ["Figure", "Result", "show", "text"]

Figure = float | int | str | bool | None
"""Units stand in the figure's name; text says why there is no number."""


@dataclass(slots=True)
class Result:
    """One run of one benchmark."""

    name: str
    systems: dict[str, dict[str, Figure]] = field(default_factory=dict)
    ratios: dict[str, Figure] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """What went wrong, as sentences: lost messages, a wrong order, a peer that failed."""
    machine: dict[str, Figure] = field(default_factory=facts)

    def add(self, system: str, **figures: Figure) -> None:
        """Add figures of a system."""
        self.systems.setdefault(system, {}).update(figures)

    def json(self) -> dict[str, Any]:
        """The shape that `--json` prints."""
        return {
            "name": self.name,
            "machine": self.machine,
            "systems": self.systems,
            "ratios": self.ratios,
            "problems": self.problems,
        }


def text(value: Figure) -> str:
    """A figure for people: three digits, or the number whole where it is large."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def show(result: Result, console: Console) -> None:
    """Print a result for people: systems and figures, whichever are more as rows; the ratios below."""
    figures = list(dict.fromkeys(key for row in result.systems.values() for key in row))
    cells = {
        (name, figure): text(value)
        for name, row in result.systems.items()
        for figure, value in row.items()
    }
    rows, columns = list(result.systems), figures
    if len(columns) > len(rows):
        rows, columns = columns, rows
        cells = {(figure, name): text for (name, figure), text in cells.items()}
    table = Table(title=result.name, title_justify="left")
    table.add_column("", overflow="fold")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right", overflow="fold")
    for row in rows:
        table.add_row(row, *(cells.get((row, column), "") for column in columns))
    parts: list[RenderableType] = [table]
    if result.ratios:
        ratios = Table("ratio", "value")
        for figure, value in result.ratios.items():
            ratios.add_row(figure, text(value))
        parts.append(ratios)
    parts += [Text(problem, style="red") for problem in result.problems]
    console.print(Group(*parts))
