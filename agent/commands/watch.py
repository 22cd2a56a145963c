"""`flockmq watch`: a subscriber for people. Time, age of what was said, topic, payload.

Decides what a line shows: the age by the payload's own `at_ms`, and whether the payload is valid for its topic. Both
clocks must be right for the age to be; one of the future is shown as negative. Assumes nothing of a payload: what is
not text is shown as bytes, what would move the cursor as an escape. A terminal gets the beginning of what is long, a
pipe all of it. On failure: `NoDevice`.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import orjson
from rich.console import Console
from rich.text import Text

from agent.commands.client import connect
from agent.commands.text import printable
from agent.messages import PayloadInvalid, decode
from broker.topics import classify

if TYPE_CHECKING:
    import aiomqtt

    from agent.commands.client import Login, Secured

__all__ = ["line", "watch"]

BYTES_SHOWN_MAX: Final = 64
"""Of a payload that is not text."""
CHARACTERS_SHOWN_MAX: Final = 500
"""On a terminal: five lines of one with a hundred columns. A manifest has three thousand."""
OLD_MS: Final = 1_000
"""From here on an age is shown in seconds, and in yellow."""
NO_AGE: Final = " " * 7


async def watch(
    host: str,
    port: int,
    secured: Secured | None,
    login: Login | None,
    topic_filter: str,
    count: int | None,
) -> None:
    """Print messages as they come, for ever or `count` of them.

    Raises:
        NoDevice: There is no broker.
    """
    console = Console(soft_wrap=True, highlight=False)
    characters_max = CHARACTERS_SHOWN_MAX if console.is_terminal else None
    async with connect(host, port, secured, login) as client:
        await client.subscribe(topic_filter, qos=1)
        left = count
        async for message in client.messages:
            console.print(line(message, time.time_ns() // 1_000_000, characters_max))
            if left is not None:
                left -= 1
                if not left:
                    return


def line(message: aiomqtt.Message, now_ms: int, characters_max: int | None) -> Text:
    """A message as a line; of its payload at most so many characters, None: all of them."""
    payload, topic = bytes(message.payload), str(message.topic)
    at = datetime.fromtimestamp(now_ms / 1000).astimezone()
    age, shown = _age_and_text(payload, now_ms)
    left_out = len(shown[characters_max:]) if characters_max else 0
    text = Text.assemble(
        (f"{at:%H:%M:%S}.{now_ms % 1000:03d}", "dim"), " ", age, " ", (printable(topic), "cyan"),
        (" retained" if message.retain else "", "dim"), " ", printable(shown[:characters_max]),
        (f"… and {left_out:,} characters more" if left_out else "", "dim"),
    )  # fmt: skip
    problem = _problem(topic, payload)
    if problem:
        text.append(f"  unreadable: {printable(problem)}", "red")
    return text


def _problem(topic: str, payload: bytes) -> str:
    """Why a payload is not valid for its topic; empty if it is, or if any payload is."""
    if payload:
        try:
            decode(classify(topic).name, payload)
        except PayloadInvalid as error:
            return str(error)
        except KeyError:
            pass  # no typed payload: calls, chunks and everything outside of the contract
    return ""


def _age_and_text(payload: bytes, now_ms: int) -> tuple[Text, str]:
    if not payload:
        return Text(NO_AGE), "(empty: deleted)"
    try:
        value: Any = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return Text(NO_AGE), _as_text(payload)
    if not isinstance(value, dict):
        return Text(NO_AGE), payload.decode()
    at_ms = value.get("at_ms")
    if type(at_ms) is not int:
        return Text(NO_AGE), _compact(value, payload)
    del value["at_ms"]
    age_ms = now_ms - at_ms
    shown = _compact(value, payload)
    if abs(age_ms) < OLD_MS:
        return Text(f"{age_ms:4d} ms", "green"), shown
    return Text(f"{age_ms / 1000:5.0f} s", "yellow"), shown


def _compact(value: dict[str, Any], payload: bytes) -> str:
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # it reads what is nested deeper than it writes
        return payload.decode()


def _as_text(payload: bytes) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        more = "…" if len(payload) > BYTES_SHOWN_MAX else ""
        return f"{len(payload)} bytes: {payload[:BYTES_SHOWN_MAX].hex(' ')}{more}"
