"""What a device's process and its watcher write to each other, one line at a time.

A device writes lines that hold a JSON array of records, as many as one turn of its loop brought;
a record is an array that begins with its tag. The watcher writes one JSON object per command; its
`number` comes back in the answer.

Decides the format only. Assumes both sides are of the same version: they are of one program.
On failure: a line that does not read is a `LineInvalid`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from broker.errors import FlockmqError

__all__ = [
    "Active",
    "Answer",
    "Applied",
    "Clock",
    "Command",
    "Decided",
    "Digest",
    "Failed",
    "Judged",
    "LineInvalid",
    "LinkChanged",
    "PublishModel",
    "Published",
    "Ready",
    "Record",
    "Report",
    "Restore",
    "Silence",
    "Stop",
    "StopSensors",
    "read_command",
    "read_records",
    "write_command",
    "write_records",
]


class LineInvalid(FlockmqError):
    """A line is not what the other side writes."""


class _Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a device tells; all times are monotonic nanoseconds, the same clock in all processes."""


class Published(_Record, frozen=True, tag="p"):
    """An obstacle event of its own was acknowledged."""

    key: str
    published_ns: int
    acknowledged_ns: int


class Applied(_Record, frozen=True, tag="a"):
    """Another device's obstacle event is in its world."""

    origin: str
    key: str
    applied_ns: int
    rebuild: bool


class Decided(_Record, frozen=True, tag="d"):
    """An inference is done."""

    at_ns: int
    latency_ns: int


class Judged(_Record, frozen=True, tag="j"):
    """A forecast was held against what came: sums of absolute errors."""

    error: float
    persistence_error: float
    values: int


class Active(_Record, frozen=True, tag="m"):
    """A model version is in use from now on."""

    name: str
    version: str
    sha256: str


class LinkChanged(_Record, frozen=True, tag="l"):
    """A link is up, or down."""

    peer: str
    up: bool
    at_ns: int


class Ready(_Record, frozen=True, tag="r"):
    """The device has started."""

    at_ns: int


class Failed(_Record, frozen=True, tag="x"):
    """The device cannot start, for the person who started it."""

    reason: str


class Answer(_Record, frozen=True, tag="n", gc=True):
    """A command was carried out, or could not be."""

    number: int
    at_ns: int
    value: Any
    problem: str | None


Record = Published | Applied | Decided | Judged | Active | LinkChanged | Ready | Failed | Answer


class _Command(msgspec.Struct, frozen=True, kw_only=True, tag_field="cmd", gc=False):
    """What a device is told."""

    number: int = 0
    """Comes back in the answer."""


class Silence(_Command, frozen=True, tag="silence"):
    """Neither hear nor reach these neighbours."""

    peers: tuple[str, ...]


class Restore(_Command, frozen=True, tag="restore"):
    """Hear all neighbours again."""


class PublishModel(_Command, frozen=True, tag="publish_model"):
    """Make a version the fleet's current one."""

    signed: str
    """Its manifest, as it travels."""


class StopSensors(_Command, frozen=True, tag="stop_sensors"):
    """Observe nothing any more."""


class Report(_Command, frozen=True, tag="report"):
    """Answer with the device's report."""


class Clock(_Command, frozen=True, tag="clock"):
    """Answer with the hybrid clock's present."""


class Digest(_Command, frozen=True, tag="digest"):
    """Answer with the digest of the world at a hybrid clock."""

    clock: int


class Stop(_Command, frozen=True, tag="stop"):
    """End."""


Command = Silence | Restore | PublishModel | StopSensors | Report | Clock | Digest | Stop

_encode = msgspec.json.Encoder().encode
_decode_records = msgspec.json.Decoder(list[Record]).decode
_commands: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)


def write_records(records: list[Record]) -> bytes:
    """One line."""
    return _encode(records) + b"\n"


def read_records(line: bytes) -> list[Record]:
    """The records of a line.

    Raises:
        LineInvalid: It is not a line of records.
    """
    try:
        return _decode_records(line)
    except msgspec.MsgspecError as error:
        raise LineInvalid(f"not a line of records: {error}") from None


def write_command(command: Command) -> bytes:
    """One line."""
    return _encode(command) + b"\n"


def read_command(line: bytes) -> Command:
    """The command of a line.

    Raises:
        LineInvalid: It is not a command.
    """
    try:
        return _commands.decode(line)
    except msgspec.MsgspecError as error:
        raise LineInvalid(f"not a command: {error}") from None
