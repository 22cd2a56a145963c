"""`flockmq status`: what a device thinks of its links, peers and models.

Decides nothing: shows the report that the device keeps on a retained topic of its own broker. Assumes little of it,
as anyone on the device may write there and another version may write other fields: what is missing counts as empty.
On failure: `NoDevice`, when nothing answers, or nothing of flockmq's does.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec
from rich.markup import escape
from rich.table import Table

from agent.commands.client import connect
from agent.commands.status_form import Report
from agent.commands.tables import console_for_tables
from agent.commands.text import count_of, printable, say
from agent.errors import NoDevice
from agent.report import NODE_TOPIC, STATUS_TOPIC
from broker.identity import RENEW_DAYS

if TYPE_CHECKING:
    from rich.console import Console

    from agent.commands.client import Login, Secured
    from agent.commands.status_form import (
        Bridge,
        ContentState,
        Hub,
        IdentityState,
        SensorState,
        Worker,
    )

__all__ = ["render", "status"]

WAIT_S: Final = 3.0
"""A device shows itself every second."""
HOW: Final = {"configured": "configuration", "seed": "asking a seed", "mdns": "mDNS"}


async def status(
    host: str, port: int, secured: Secured | None, login: Login | None, *, as_json: bool
) -> None:
    """Print the newest report of the device at an address.

    Raises:
        NoDevice: There is no broker, it is not flockmq's, or it speaks for another device.
    """
    payload = await _fetch(host, port, secured, login)
    try:
        report = msgspec.json.decode(payload, type=Report)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise NoDevice(
            f"what the broker on {host}:{port} shows is no report of a device: {error}; "
            "does another program write there?"
        ) from None
    if secured is not None and secured.name != report.device:
        raise NoDevice(
            f"{secured.name} answers on {host}:{port}, by its certificate, and shows a report of {report.device}; "
            "does another program write there?"
        )
    if as_json:
        say(payload.decode())
    else:
        render(report, console_for_tables())


async def _fetch(host: str, port: int, secured: Secured | None, login: Login | None) -> bytes:
    async with connect(host, port, secured, login) as client:
        await client.subscribe([(STATUS_TOPIC, 1), (NODE_TOPIC, 1)])
        try:
            async with asyncio.timeout(WAIT_S):
                async for message in client.messages:
                    return bytes(message.payload)
        except TimeoutError:
            pass
    raise NoDevice(
        f"the broker on {host}:{port} shows no {STATUS_TOPIC} within {WAIT_S:.0f} s, so it is not flockmq's; "
        "say where the device listens with --host and --port"
    )


def render(report: Report, console: Console) -> None:
    """Print a report for people."""
    kind = (
        ", a broker without an agent" if report.site is None else f" of site {_text(report.site)}"
    )
    console.print(
        f"[bold]{_text(report.device)}[/bold]{kind}, "
        f"incarnation {report.incarnation}, up {report.uptime_s:.0f} s"
    )
    if report.identity is not None:
        _render_identity(report.identity, console)
    else:
        console.print(
            "[yellow]no identity:[/yellow] bundles carry no tag, so whoever reaches this device's ports, or relays "
            "for it, can alter and invent messages; `flockmq enroll` gives it one"
        )
    if report.users is not None:
        console.print(f"users: {report.users} may come by a password")
    if report.users_problem:
        console.print(f"[red]nobody is let in by a password:[/red] {_text(report.users_problem)}")
    if report.refused_tags:
        console.print(
            "[yellow]bundles whose tags do not count here:[/yellow]" + _counted(report.refused_tags)
        )
    if report.refused_messages:
        console.print(
            "[yellow]messages on topics that are not their origin's to write:[/yellow]"
            f"{_counted(report.refused_messages)}, the last: {_text(report.last_refused_message)}"
        )
    if report.links or report.dial_failures:
        console.print(_links(report))
    else:
        console.print("no links")
    for name, reason in report.closed_links.items():
        console.print(f"[yellow]closed the link to {_text(name)}:[/yellow] {_text(reason)}")
    for hub in report.hubs:
        console.print(_hub(hub))
    for bridge in report.bridges:
        console.print(_bridge(bridge))
    if report.site is not None:
        _render_agent(report, console)
    _render_counters(report, console)
    if report.last_problem:
        console.print(f"[yellow]last problem:[/yellow] {_text(report.last_problem)}")


def _render_counters(report: Report, console: Console) -> None:
    """What was counted, and the last of each kind that somebody should look at."""
    counted = [f"{_text(name)} {n}" for name, n in sorted(report.counters.items()) if n]
    console.print(f"counted: {', '.join(counted) or 'nothing yet'}")
    if report.last_loss:
        times = report.counters.get("lost_for_good", 1)
        console.print(
            f"[red]lost for good {times} times, the last:[/red] {_text(report.last_loss)}"
        )
    if report.last_forbidden:
        times = report.counters.get("clients_forbidden", 1)
        console.print(
            f"[yellow]publishes on topics that are not the client's to write: {times}, the last:[/yellow] "
            + _text(report.last_forbidden)
        )
    if report.last_login_refused:
        refused, put_off = (
            report.counters.get(f"clients_logins_{name}", 0) for name in ("refused", "put_off")
        )
        console.print(
            f"[yellow]not let in by a password: {refused} refused, {put_off} put off, the last:[/yellow] "
            + _text(report.last_login_refused)
        )
    if report.last_slow_client:
        times = report.counters.get("clients_slow_consumers", 1)
        console.print(
            f"[yellow]MQTT clients cut off since they read too slowly: {times}, the last:[/yellow] "
            + _text(report.last_slow_client)
        )


def _render_identity(identity: IdentityState, console: Console) -> None:
    soon = identity.standing != "good" or identity.days_left < RENEW_DAYS
    colour = "yellow" if soon else "green"
    console.print(
        f"identity: {_text(identity.name)} of fleet {_text(identity.fleet)}, certificate "
        f"[{colour}]{_text(identity.standing)}, {identity.days_left:.0f} days left[/{colour}]; "
        f"{identity.revoked} revoked by list {identity.revocations}"
    )
    if identity.tags is not None:
        tags = identity.tags
        key = (
            f"fleet key {tags.fleet_key}" if tags.fleet_key else "no fleet key yet, so it signs all"
        )
        console.print(
            f"tags: {_text(tags.strength)}, {key}, {count_of(tags.signers, 'other signer')} known"
        )
    if identity.graced:
        console.print(
            f"[yellow]let in on expired certificates in their grace:[/yellow] {identity.graced}"
        )
    if identity.refused:
        counted = ", ".join(f"{_text(why)} {n}" for why, n in identity.refused.items())
        console.print(f"[yellow]not let in:[/yellow] {counted}")
        console.print(f"[yellow]the last:[/yellow] {_text(identity.last_refused)}")
    if identity.refused_notices:
        console.print(
            f"[yellow]certificates and lists that do not hold:[/yellow] {identity.refused_notices}, "
            f"the last: {_text(identity.last_refused_notice)}"
        )


def _links(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("link", "state", "round trip", "queued", "dropped", "bad frames"):
        table.add_column(column)
    for link in report.links:
        rtt = "-" if link.rtt_ms is None else f"{link.rtt_ms:.2f} ms"
        state = "[green]up[/green]" if link.established else "[yellow]greeting[/yellow]"
        numbers = (link.queued_bundles, link.dropped, link.bad_frames)
        table.add_row(_text(link.name), state, rtt, *map(str, numbers))
    for name, reason in report.dial_failures.items():
        table.add_row(_text(name), "[red]down[/red]", _text(reason))
    return table


def _hub(hub: Hub) -> str:
    parts = [f"hub {_text(hub.name)}:"]
    if hub.connected:
        met = ", ".join(_text(peer) for peer, there in hub.peers.items() if there)
        parts.append(f"[green]connected[/green], serves the links to {met or 'nobody'}")
    else:
        parts.append(f"[red]away[/red], {_text(hub.last_failure)}")
    if hub.integrity == "none":
        parts.append("[yellow](integrity: none)[/yellow]")
    return " ".join(parts) + _counted(hub.counters)


def _bridge(bridge: Bridge) -> str:
    colour = {"active": "green", "standby": "yellow"}.get(bridge.state, "red")
    text = f"bridge {_text(bridge.name)} to {_text(bridge.address)}: [{colour}]{_text(bridge.state)}[/{colour}]"
    if bridge.last_failure:
        text += f", {_text(bridge.last_failure)}"
    if bridge.waiting:
        text += f", {bridge.waiting} waiting"
    return text + _counted(bridge.counters)


def _counted(counters: dict[str, int]) -> str:
    counted = ", ".join(f"{_text(name)} {count}" for name, count in counters.items())
    return f" ({counted})" if counted else ""


def _render_neighbourhood(report: Report, console: Console) -> None:
    topology, discovery = report.topology, report.discovery
    size = f", {topology.near} near and {topology.far} far" if topology.kind == "nearest" else ""
    console.print(f"topology: {_text(topology.kind)}{size}")
    for source in sorted({known.source for known in report.known.values()}):
        names = sorted(
            _text(name) + ("" if known.dialled else " (not dialled)")
            for name, known in report.known.items()
            if known.source == source
        )
        console.print(f"known by {HOW.get(source, _text(source))}: {', '.join(names)}")
    for seed, said in discovery.seeds.items():
        console.print(f"seed {_text(seed)}: {_text(said)}")
    if discovery.mdns != "off":
        console.print(f"mDNS: {_text(discovery.mdns)}")
    if discovery.malformed or discovery.passed_over or discovery.no_room:
        console.print(
            f"[yellow]announcements:[/yellow] {discovery.malformed} malformed, "
            f"{discovery.passed_over} passed over, {discovery.no_room} found no room"
        )
    if discovery.last_malformed:
        console.print(f"[yellow]the last:[/yellow] {_text(discovery.last_malformed)}")


def _render_agent(report: Report, console: Console) -> None:
    _render_neighbourhood(report, console)
    alive = [_text(name) for name, lives in report.peers.items() if lives]
    silent = [_text(name) for name, lives in report.peers.items() if not lives]
    console.print(f"peers alive: {', '.join(alive) or 'none'}")
    if silent:
        console.print(f"[red]peers silent:[/red] {', '.join(silent)}")
    console.print(f"obstacles known: {report.obstacles}")
    if report.sensor is not None:
        _render_sensor(report.sensor, console)
    for name, model in report.models.items():
        version, state = _text(model.version or "none"), _text(model.state)
        reason = f", {_text(model.reason)}" if model.reason else ""
        console.print(f"model {_text(name)}: version {version}, {state}{reason}")
        if model.refused:
            console.print(
                f"[yellow]versions of {_text(name)} that were not taken up or kept:[/yellow]{_counted(model.refused)}, "
                f"the last: {_text(model.last_refused)}"
            )
    _render_content(report.content, console)
    if report.runtime:
        console.print(_worker(report.runtime, report.worker))
        if report.edge_tpu:
            console.print(f"no Edge TPU in use: {_text(report.edge_tpu)}")
    if report.worker.ended:
        console.print(
            f"[red]inference has ended by a defect:[/red] {_text(report.worker.ended)}; restart the device, and send "
            "what its log says of it to who maintains it"
        )
    for name, count in report.invalid.items():
        console.print(f"[yellow]invalid {_text(name)} payloads: {count}[/yellow]")
    if report.last_invalid:
        console.print(f"[yellow]the last:[/yellow] {_text(report.last_invalid)}")


def _render_content(content: ContentState, console: Console) -> None:
    """The bytes of models on their way, and what came of deltas."""
    for sha256, fetching in content.fetching.items():
        peers = ", ".join(map(_text, fetching.peers)) or "nobody yet"
        console.print(
            f"fetching {_text(sha256[:12])}: {fetching.chunks_there} of {fetching.chunks} chunks, from {peers}"
        )
    deltas = content.deltas
    if deltas.applied:
        console.print(f"deltas: {deltas.applied} applied, {deltas.saved_bytes:,} bytes saved")
    if deltas.failed:
        last = f", the last: {_text(deltas.last_failure)}" if deltas.last_failure else ""
        console.print(
            f"[yellow]full files where there was a delta:[/yellow]{_counted(deltas.failed)}{last}"
        )


def _render_sensor(sensor: SensorState, console: Console) -> None:
    colour = "green" if sensor.state == "delivering" else "yellow"
    console.print(
        f"sensor {_text(sensor.source)}: [{colour}]{_text(sensor.state)}[/{colour}]"
        + _counted(sensor.counters)
    )
    if sensor.runs_on:
        console.print(f"its model runs on {_text(sensor.runs_on)}")
    if sensor.last_problem:
        console.print(f"[yellow]its last problem:[/yellow] {_text(sensor.last_problem)}")


def _worker(runtime: str, worker: Worker) -> str:
    text = (
        f"inference: {_text(runtime)}, {worker.inferences} done, {worker.superseded} readings superseded, "
        f"{worker.late} later than {worker.deadline_ms} ms, {worker.stale} on state older than "
        f"{worker.state_age_max_ms} ms, {worker.failed} failed, "
        f"{worker.workers_lost} workers lost"
    )
    if worker.last_failure:
        text += f"\n[yellow]the last that gave no decision:[/yellow] {_text(worker.last_failure)}"
    return text


def _text(text: str) -> str:
    return escape(printable(text))
