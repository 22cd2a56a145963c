"""`flockmq model list` and `status`: shows what the fleet is to run, and what each device runs."""

from __future__ import annotations

import asyncio
from typing import Final

from rich.markup import escape
from rich.table import Table

from agent.commands.model_fleet import At, ask
from agent.commands.model_standing import read_standing
from agent.commands.model_wait import wait_for
from agent.commands.tables import console_for_tables
from agent.commands.text import printable, say
from agent.errors import ModelUnusable
from agent.messages import ModelStatus, PayloadInvalid, decode
from agent.models.manifest import ManifestInvalid
from broker.identity import DAY_MS
from broker.model_envelope import SealBroken
from broker.topics import parse
from broker.wall_clock import wall_ms

__all__ = ["list_models", "status"]

MODELS: Final = "flock/v1/+/model/+"
STATUSES: Final = "flock/v1/+/model-status/+/+"


def list_models(at: At) -> None:
    """Show the versions that the fleet is to run.

    Raises:
        NoDevice: No device answers.
    """
    told = asyncio.run(ask(at, [MODELS]))
    table = Table("model", "version", "counter", "signed by", "expires in", "variants", box=None)
    for topic, payload in sorted(told.values.items()):
        name = printable(parse(topic).get("name", topic))
        try:
            manifest, operator = read_standing(payload, topic, at.identity)
        except (SealBroken, ManifestInvalid) as error:
            table.add_row(name, "[red]unusable[/red]", "", escape(printable(str(error))))
            continue
        days = (manifest.expires_ms - wall_ms()) / DAY_MS
        sizes = ", ".join(f"{v.kind} {v.content.size_bytes:,} bytes" for v in manifest.variants)
        left = f"{days:.0f} days" if days > 0 else "[red]expired[/red]"
        version = escape(printable(manifest.version))
        table.add_row(name, version, str(manifest.counter), escape(operator), left, sizes)
    _show(table, "no models: an operator publishes one by `flockmq model publish`")


def status(at: At, name: str | None, devices: int = 0, wait_s: float = 0.0) -> None:
    """Show what each device runs, when so many of them run the version that stands.

    Raises:
        NoDevice: No device answers.
        ModelUnusable: Too few run it in time.
    """
    if devices:
        if name is None:
            raise ModelUnusable("--wait needs the name of the model that is waited for")
        asyncio.run(wait_for(at, name, devices, wait_s))
    told = asyncio.run(ask(at, [STATUSES]))
    table = Table("device", "model", "runs", "last change", "state", "", box=None)
    for topic, payload in sorted(told.values.items()):
        ids = parse(topic)
        try:
            said = decode("model-status", payload)
        except PayloadInvalid:
            continue
        if not isinstance(said, ModelStatus) or (name is not None and said.name != name):
            continue
        refused = (f"refused: {count} {reason}" for reason, count in said.refused.items())
        running = said.running or ("none" if said.state != "active" else said.version)
        state = said.state if said.state == "active" else f"[yellow]{said.state}[/yellow]"
        texts = (running, said.version)
        table.add_row(
            ids["device"], said.name, *(escape(printable(text)) for text in texts), state,
            escape(printable("; ".join(filter(None, (said.reason, *refused))))),
        )  # fmt: skip
    _show(table, "no device has said what it runs")


def _show(table: Table, nothing: str) -> None:
    if table.row_count:
        console_for_tables().print(table)
    else:
        say(nothing)
