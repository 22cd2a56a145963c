"""`flockmq watch`: a subscriber for people. Time, age of what was said, topic, payload."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import orjson
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from agent.commands.client import connect

if TYPE_CHECKING:
    import aiomqtt

__all__ = ["line", "watch"]

BYTES_SHOWN_MAX: Final = 64
"""Of a payload that is not text."""
OLD_MS: Final = 1_000
"""From here on an age is shown in seconds, and in yellow."""


async def watch(host: str, port: int, topic_filter: str, count: int | None) -> None:
    """Print messages as they come, for ever or `count` of them.

    Raises:
        NoDevice: There is no broker.
    """
    console = Console(soft_wrap=True, highlight=False)
    async with connect(host, port) as client:
        await client.subscribe(topic_filter, qos=1)
        left = count
        async for message in client.messages:
            console.print(line(message, time.time_ns() // 1_000_000))
            if left is not None:
                left -= 1
                if not left:
                    return


def line(message: aiomqtt.Message, now_ms: int) -> Text:
    """A message as a line."""
    payload = bytes(message.payload)
    at = datetime.fromtimestamp(now_ms / 1000).astimezone()
    age, shown = _age_and_text(payload, now_ms)
    mark = " retained" if message.retain else ""
    return Text.from_markup(
        f"[dim]{at:%H:%M:%S}.{now_ms % 1000:03d}[/dim] {age} "
        f"[cyan]{escape(str(message.topic))}[/cyan][dim]{mark}[/dim] {escape(shown)}"
    )


def _age_and_text(payload: bytes, now_ms: int) -> tuple[str, str]:
    if not payload:
        return "       ", "(empty: deleted)"
    try:
        value: Any = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return "       ", _as_text(payload)
    if not isinstance(value, dict) or not isinstance(value.get("at_ms"), int):
        return "       ", payload.decode()
    age_ms = now_ms - value.pop("at_ms")
    shown = orjson.dumps(value).decode()
    if abs(age_ms) < OLD_MS:
        return f"[green]{age_ms:4d} ms[/green]", shown
    return f"[yellow]{age_ms / 1000:5.0f} s[/yellow]", shown


def _as_text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        more = "…" if len(payload) > BYTES_SHOWN_MAX else ""
        return f"{len(payload)} bytes: {payload[:BYTES_SHOWN_MAX].hex(' ')}{more}"
