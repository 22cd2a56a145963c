"""What a run says at the end: for people, and as JSON whose every part but `wall` depends on the options alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from sim.mix import kinds_of

if TYPE_CHECKING:
    from sim.story import Options, Result

__all__ = ["as_json", "as_text", "command"]

DIARY_SHOWN: Final = 25
VIOLATIONS_SHOWN: Final = 10


def command(options: Options) -> str:
    """The command line that tells this story again."""
    return (
        f"python -m sim --seed {options.seed} --nodes {options.nodes} --seconds {options.seconds:g}"
        f" --faults {options.faults or 'none'} --degree {options.degree} --rate {options.rate:g}"
        + (" --plain" if options.plain else "")
        + (f" --plant {options.plant}" if options.plant else "")
    )


def as_json(result: Result, wall: dict[str, Any]) -> dict[str, Any]:
    """A result as JSON."""
    return {
        "options": asdict(result.options),
        "faults": kinds_of(result.mix),
        "mix": result.mix.as_dict(),
        "timeline": result.timeline,
        "figures": result.figures,
        "stable_ms": result.stable_ms,
        "counts": result.counts,
        "violations": [row._asdict() for row in result.violations],
        "again": command(result.options),
        "wall": wall,
    }


def as_text(result: Result, wall: dict[str, Any]) -> str:
    """A result in plain lines; with violations, the story that led to the first of them."""
    figures, kinds = result.figures, ", ".join(kinds_of(result.mix))
    lines = [
        f"seed {result.options.seed}: {result.options.nodes} devices, faults: {kinds or 'none'}",
        f"published {figures['published']}, acknowledged {figures['acknowledged']}",
        f"{figures['frames']} frames, converged after {figures['converged_ms']} ms",
        f"until all had heard a kept message, ms: {result.stable_ms or 'none was heard by all'}",
        f"timeline {result.timeline}, {wall['seconds']} s on this machine",
    ]
    if result.violations:
        first_ms = result.violations[0].at_ms
        lines.append("what happened before the first violation:")
        before = [row for row in result.diary if row[0] <= first_ms]
        lines += [f"  {at_ms:>8} ms  {text}" for at_ms, text in before[-DIARY_SHOWN:]]
        lines.append(f"{len(result.violations)} violations:")
        for row in result.violations[:VIOLATIONS_SHOWN]:
            lines.append(f"  {row.at_ms:>8} ms  {row.device}: {row.promise}: {row.text}")
        lines.append(f"again: {command(result.options)}")
    return "\n".join(lines)
