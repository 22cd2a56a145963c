"""`flockmq status`: what a device thinks of its links, peers and models."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agent.commands.client import NoDevice, connect
from agent.commands.serve import NODE_TOPIC
from agent.device import STATUS_TOPIC

__all__ = ["render", "status"]

WAIT_S: Final = 3.0
"""A device shows itself every second."""


async def status(host: str, port: int, *, as_json: bool) -> None:
    """Print the newest report of the device at an address.

    Raises:
        NoDevice: There is no broker, or it is not flockmq's.
    """
    report = await _fetch(host, port)
    if as_json:
        sys.stdout.write(orjson.dumps(report).decode() + "\n")
    else:
        render(report, Console(highlight=False))


async def _fetch(host: str, port: int) -> dict[str, Any]:
    async with connect(host, port) as client:
        await client.subscribe([(STATUS_TOPIC, 1), (NODE_TOPIC, 1)])
        try:
            async with asyncio.timeout(WAIT_S):
                async for message in client.messages:
                    report: dict[str, Any] = orjson.loads(bytes(message.payload))
                    return report
        except TimeoutError:
            pass
    raise NoDevice(
        f"the broker on {host}:{port} shows no {STATUS_TOPIC} within {WAIT_S:.0f} s; "
        "is it a flockmq device?"
    )


def render(report: dict[str, Any], console: Console) -> None:
    """Print a report for people."""
    agent = "site" in report
    console.print(
        f"[bold]{report['device']}[/bold]"
        + (f" of site {report['site']}" if agent else ", a broker without an agent")
        + f", boot {report['incarnation']}, up {report['uptime_s']:.0f} s"
    )
    console.print(_links(report))
    if agent:
        _render_agent(report, console)
    counters = report["counters"]
    console.print("counted: " + ", ".join(f"{name} {counters[name]}" for name in sorted(counters)))
    if report["last_problem"]:
        console.print(f"[yellow]last problem:[/yellow] {escape(report['last_problem'])}")


def _links(report: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("link", "state", "round trip", "queued", "dropped", "bad frames"):
        table.add_column(column)
    for link in report["links"]:
        rtt = "-" if link["rtt_ms"] is None else f"{link['rtt_ms']:.2f} ms"
        state = "[green]up[/green]" if link["established"] else "[yellow]greeting[/yellow]"
        numbers = (link["queued_bundles"], link["dropped"], link["bad_frames"])
        table.add_row(link["name"], state, rtt, *map(str, numbers))
    for name, reason in report["dial_failures"].items():
        table.add_row(name, "[red]down[/red]", escape(reason))
    return table


def _render_agent(report: dict[str, Any], console: Console) -> None:
    alive = [name for name, lives in report["peers"].items() if lives]
    silent = [name for name, lives in report["peers"].items() if not lives]
    console.print(f"peers alive: {', '.join(alive) or 'none'}")
    if silent:
        console.print(f"[red]peers silent:[/red] {', '.join(silent)}")
    console.print(f"obstacles known: {report['obstacles']}")
    for name, model in report["models"].items():
        version = model["version"] or "none"
        console.print(
            f"model {name}: version {version}, {model['state']} {escape(model['reason'])}"
        )
    if report["runtime"]:
        worker = report["worker"]
        console.print(
            f"inference: {report['runtime']}, {worker['inferences']} done, {worker['failed']} failed, "
            f"{worker['workers_lost']} workers lost"
        )
    for name, count in report["invalid"].items():
        console.print(f"[yellow]invalid {name} payloads: {count}[/yellow]")
    if report["last_invalid"]:
        console.print(f"[yellow]the last:[/yellow] {escape(report['last_invalid'])}")
