"""The live table: one row a device, and below it what goes on and how to look inside.

Decides what is shown and how it fits: from WIDE_COLUMNS on, a device's links stand in one line,
below that one under the other. Latencies are of the last ten seconds, 50th and 99th percentile.
Assumes at least 80 columns. On failure: what is not known is a dot; a device that is down says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from agent.demo.plan import CUT_OFF, DEVICES, KILLED
from agent.demo.scenario import Act

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from agent.demo.figures import Recent
    from agent.demo.ledger import Fault
    from agent.demo.recorder import Recorder
    from agent.demo.scenario import Step

__all__ = ["Board", "look_inside", "render"]

WIDE_COLUMNS: Final = 110
UNKNOWN: Final = "·"
PERCENTS: Final = (50, 99)
FAULTS_SHOWN: Final = 3
"""The latest: as many as fit in a line of 80 columns."""
COMING: Final = {
    Act.KILL: f"{KILLED} will be killed",
    Act.START_AGAIN: f"{KILLED} starts again",
    Act.NEW_MODEL: "a new model version",
    Act.CUT: "a cut in two halves",
    Act.HEAL: "the end of the cut",
}


@dataclass(slots=True)
class Board:
    """What there is to show.

    Attributes:
        port: Of the device that people watch.
        recorder: What was told.
        reports: By device that lives: what it says of itself.
        began_ns: When all were linked; None: not yet.
        fault: The kind of the fault that goes on.
        killed: Who is down.
        coming: The next step, if there is one.
    """

    port: int
    recorder: Recorder
    reports: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    began_ns: int | None = None
    fault: str | None = None
    killed: frozenset[str] = frozenset()
    coming: Step | None = None


def look_inside(port: int) -> str:
    """The command that shows what devices say."""
    return f"mosquitto_sub -p {port} -t 'flock/v1/+/obstacle/#' -v"


def render(board: Board, now_ns: int, columns: int) -> RenderableType:
    """The table for a terminal of so many columns."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("device", no_wrap=True, style="bold")
    table.add_column("links\nms", no_wrap=True)
    for head in ("alive", "obst.", "model"):
        table.add_column(f"{head}\n", justify="right", no_wrap=True)
    table.add_column("forecast\nn e s w", justify="right", no_wrap=True)
    table.add_column("obstacle\nto state", justify="right", no_wrap=True)
    table.add_column("capture to\ndecision", justify="right", no_wrap=True)
    for name in DEVICES:
        report = board.reports.get(name)
        if report is None:
            down = name in board.killed
            table.add_row(name, Text("killed", "bold red") if down else Text("starts", "dim"))
        else:
            table.add_row(name, *_cells(name, report, board.recorder, now_ns, columns))
    return Group(_title(board, now_ns), table, *_footer(board, now_ns))


def _cells(
    name: str, report: Mapping[str, Any], recorder: Recorder, now_ns: int, columns: int
) -> list[Text | str]:
    peers = report["peers"]
    alive = sum(map(bool, peers.values()))
    models = list(report["models"].values())
    version = models[0]["version"] if models else None
    forecast = report["forecast"]
    return [
        _links(report["links"], columns),
        Text(f"{alive}/{len(peers)}", style="" if alive == len(peers) else "bold red"),
        str(report["obstacles"]),
        UNKNOWN if version is None else f"v{version}",
        UNKNOWN if forecast is None else " ".join(f"{value:.0f}" for value in forecast),
        _latency(recorder.recent_applied[name], now_ns),
        _latency(recorder.recent_decided[name], now_ns),
    ]


def _links(links: list[Mapping[str, Any]], columns: int) -> Text:
    text = Text()
    for link in sorted(links, key=lambda link: str(link["name"])):
        if text:
            text.append("  " if columns >= WIDE_COLUMNS else "\n")
        rtt_ms = link["rtt_ms"]
        text.append(link["name"], style="" if link["established"] else "red")
        text.append(f" {UNKNOWN:>4}" if rtt_ms is None else f" {rtt_ms:4.1f}", style="cyan")
    return text or Text("none", style="bold red")


def _latency(recent: Recent, now_ns: int) -> str:
    values = recent.percentiles_ms(now_ns, *PERCENTS)
    if values is None:
        return UNKNOWN
    return "/".join(f"{value:.0f}" if value >= 100 else f"{value:.1f}" for value in values)


def _title(board: Board, now_ns: int) -> Text:
    title = Text("flockmq", style="bold")
    title.append("  five devices, a broker each, one mesh", style="not bold")
    if board.began_ns is not None:
        title.append(f"  {(now_ns - board.began_ns) / 1e9:.0f} s", style="not bold cyan")
    return title


def _footer(board: Board, now_ns: int) -> list[Text]:
    lines = [Text.assemble("now    ", _now(board, now_ns))]
    faults = board.recorder.ledger.faults
    if board.began_ns is not None and faults:
        past = "   ".join(_past(board, fault, board.began_ns) for fault in faults[-FAULTS_SHOWN:])
        lines.append(Text.assemble("faults ", past))
    lines += [
        Text.assemble(
            "look   ", (look_inside(board.port), "green"), "   end  ", ("Ctrl-C", "green")
        ),
        Text("       p50 / p99 of 10 s in ms; forecast: vehicles standing in 30 s", "dim"),
    ]
    return lines


def _now(board: Board, now_ns: int) -> tuple[str, str]:
    if board.began_ns is None:
        return "devices start and find each other", "cyan"
    if board.killed:
        were = "was" if len(board.killed) == 1 else "were"
        return f"{', '.join(sorted(board.killed))} {were} killed and will come back", "bold red"
    if board.fault == "cut":
        sides = (sorted(CUT_OFF), sorted(set(DEVICES) - CUT_OFF))
        return "cut in two: " + " | ".join(" ".join(side) for side in sides), "bold red"
    if board.coming is not None:
        due_s = max(0.0, board.coming.at_s - (now_ns - board.began_ns) / 1e9)
        return f"all is well; {COMING[board.coming.act]} in {due_s:.0f} s", "green"
    return "all is well", "green"


def _past(board: Board, fault: Fault, began_ns: int) -> str:
    at_s = (fault.window.begin_ns - began_ns) / 1e9
    healed_ms = board.recorder.ledger.healed_ms(fault)
    ended = UNKNOWN if healed_ms is None else f"healed in {healed_ms:.0f} ms"
    return f"{fault.kind} at {at_s:.0f} s: {ended}"
