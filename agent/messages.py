"""Payloads of the topic contract: one type per class, written by orjson, read by a typed decoder.

Decides: whether a payload is valid for its topic's class. Every field has its unit in its name and
its range in its type; fields that this version does not know are ignored, so newer writers can add.
Assumes: nothing about a payload. NaN, huge numbers, deep nesting, bytes that are no UTF-8 and wrong
types all end the same way.
On failure: `PayloadInvalid` with one line that names the field; the writer gets it too, since an
invalid payload is best found where it is made.
Source: RFC 8259 for JSON; msgspec decodes and validates in one pass.
"""

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
import orjson
from msgspec import Meta

from agent.limits import (
    AT_MS_MAX,
    COUNT_MAX,
    DOTS_MAX,
    PAYLOAD_BYTES_MAX,
    REASON_CHARACTERS_MAX,
    REPLICAS_MAX,
    TASKS_MAX,
)
from broker.model_envelope import ENVELOPE_BYTES_MAX
from broker.topics import COUNTER_MAX, INCARNATION_MAX, REFUTATION_BITS, TTL_MS_MAX

__all__ = [
    "Count",
    "Heartbeat",
    "Inference",
    "Link",
    "Message",
    "Model",
    "ModelState",
    "ModelStatus",
    "Obstacle",
    "PayloadInvalid",
    "Reading",
    "Resources",
    "SignedModel",
    "Status",
    "TaskSet",
    "decode",
    "encode",
]


class PayloadInvalid(ValueError):
    """Raised when a payload is not valid for its topic's class; the text is one line of why."""


# Ranges that several messages share. The pattern ends in \Z since $ would let a newline follow.
Id: TypeAlias = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,32}\Z")]
AtMs: TypeAlias = Annotated[int, Meta(ge=0, le=AT_MS_MAX)]
Incarnation: TypeAlias = Annotated[int, Meta(ge=0, le=INCARNATION_MAX)]
Tally: TypeAlias = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
Version: TypeAlias = Annotated[str, Meta(min_length=1, max_length=32)]
Sha256: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
DurationMs: TypeAlias = Annotated[float, Meta(ge=0, le=3_600_000)]
TraceS: TypeAlias = Annotated[float, Meta(ge=0, le=1e9)]
Vehicles: TypeAlias = Annotated[
    tuple[Annotated[int, Meta(ge=0, le=10_000)], ...], Meta(max_length=8)
]
ModelState: TypeAlias = Literal[
    "missing", "waiting", "held", "watched", "active", "failed", "rolled-back", "refused"
]
Megabytes: TypeAlias = Annotated[float, Meta(ge=0, le=1e9)]


class Message(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What every payload type is."""


class Heartbeat(Message, frozen=True):
    """A device lives."""

    at_ms: AtMs
    """Wall time of the writer, milliseconds since 1970."""
    incarnation: Incarnation
    """The boot that it lives in."""
    uptime_s: Annotated[float, Meta(ge=0, le=1e10)]
    """Seconds since that boot."""
    links: Annotated[int, Meta(ge=0, le=1_000)]
    """Neighbours it is connected to."""
    sequence: Tally
    """Counts its heartbeats in this incarnation."""


class Status(Message, frozen=True):
    """What is known of a device's life, ranked by (incarnation, refutation)."""

    state: Literal["up", "down", "lost"]
    """`down`: it said goodbye. `lost`: a neighbour says so, and the device may refute it."""
    incarnation: Incarnation
    """The boot that this is about."""
    refutation: Annotated[int, Meta(ge=0, lt=2**REFUTATION_BITS)]
    """Counts how often the device denied being lost in this incarnation."""
    at_ms: AtMs
    """Wall time of the writer, milliseconds since 1970."""
    by: Id
    """The device that says it."""


class Obstacle(Message, frozen=True):
    """Something is in the way, or is not any more."""

    kind: Annotated[str, Meta(min_length=1, max_length=32)]
    """What it is, in the observer's words."""
    state: Literal["present", "gone"]
    """`gone` removes it."""
    approach: Annotated[str, Meta(max_length=8)]
    """Which way it lies, in the observer's words; may be empty."""
    distance_m: Annotated[float, Meta(ge=0, le=10_000)]
    """From the observer, metres."""
    version: Annotated[int, Meta(ge=0, le=COUNTER_MAX)]
    """Counts up with every event of this obstacle; the highest wins. Begins above the observer's last boot's."""
    at_ms: AtMs
    """Wall time when it was seen, milliseconds since 1970."""
    ttl_ms: Annotated[int, Meta(ge=1, le=TTL_MS_MAX)]
    """From publish to expiry. The latest expiry among an obstacle's events counts: see topics.md."""


class Count(Message, frozen=True):
    """One device's replica of a counter: all of its incarnations, never less than before."""

    replicas: Annotated[
        dict[Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]{0,9})\Z")], tuple[Tally, Tally]],
        Meta(max_length=REPLICAS_MAX),
    ]
    """By incarnation: sum of increments, sum of decrements."""


Replica: TypeAlias = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,32}:(0|[1-9][0-9]{0,9})\Z")]
Dot: TypeAlias = tuple[Replica, Annotated[int, Meta(ge=1, le=COUNT_MAX)]]


class TaskSet(Message, frozen=True):
    """One device's replica of an observed-remove set of tasks."""

    elements: Annotated[
        dict[
            Annotated[str, Meta(min_length=1, max_length=64)],
            Annotated[tuple[Dot, ...], Meta(min_length=1, max_length=DOTS_MAX)],
        ],
        Meta(max_length=TASKS_MAX),
    ]
    """Task to the dots of its additions; a replica is written `device:incarnation`."""
    context: Annotated[
        dict[Replica, Annotated[int, Meta(ge=1, le=COUNT_MAX)]], Meta(max_length=REPLICAS_MAX)
    ]
    """By replica: how many of its additions this device has seen, removed ones included."""

    def __post_init__(self) -> None:
        """Refuse a dot that its own context has not seen: a join could neither keep nor drop it."""
        for dots in self.elements.values():
            for replica, number in dots:
                if number > self.context.get(replica, 0):
                    raise ValueError(f"dot {replica} {number} is missing from the context")


class Model(Message, frozen=True):
    """What a model's current version is called; `agent.models.manifest` has the rest of its manifest."""

    site: Id
    """Where it counts, as its topic says."""
    name: Id
    """The model, as its topic says."""
    version: Version
    """For people."""
    counter: Annotated[int, Meta(ge=1, le=COUNTER_MAX)]
    """Counts up with every publish; a device never accepts a lower one than it has seen."""


class SignedModel(Message, frozen=True):
    """A manifest in what its signature travels in (`broker.model_envelope`), ranked by its counter."""

    manifest: Model


class ModelStatus(Message, frozen=True):
    """What a device runs of a model."""

    name: Id
    """The model, as its topic says."""
    version: Version
    """The version that this is about."""
    manifest: Sha256
    """Of the bytes of the manifest that this is about, hexadecimal: two of them may have a version in common."""
    sha256: Sha256
    """Of that version's bytes, of the variant for this device, hexadecimal."""
    state: ModelState
    """`missing`: its bytes are not here yet. `waiting`: others try it first. `held`: one of them did not keep it.
    `watched`: it runs, and has to prove itself. `active`: it runs, and has. `failed`: it was tried, and never ran.
    `rolled-back`: it ran, and was taken back. `refused`: its manifest does not count."""
    reason: Annotated[str, Meta(max_length=REASON_CHARACTERS_MAX)]
    """Why it is not active; empty when it is."""
    at_ms: AtMs
    """Wall time of the writer, milliseconds since 1970."""
    running: Version | None
    """The version that runs now; null: none."""
    refused: Annotated[dict[Annotated[str, Meta(max_length=32)], Tally], Meta(max_length=64)]
    """What was not taken up, could not be fetched, failed or was rolled back since the device started, by reason."""


class Resources(Message, frozen=True):
    """What a device uses."""

    cpu_percent: Annotated[float, Meta(ge=0, le=100_000)]
    """Of one core, worker included."""
    rss_mb: Megabytes
    """Resident memory, worker included, in units of 2**20 bytes."""
    loop_lag_ms: DurationMs
    """How late the event loop ran its timers, the worst of the last interval."""
    temperature_c: Annotated[float, Meta(ge=-100, le=200)] | None
    """Of the processor, degrees Celsius; null where there is no sensor."""
    at_ms: AtMs
    """Wall time of the writer, milliseconds since 1970."""


class Inference(Message, frozen=True):
    """What a device's model says."""

    name: Id
    """The model, as its topic says."""
    version: Version
    """The version that said it."""
    tick_s: TraceS
    """Second of the sensor's world that it looked at."""
    horizon_s: Annotated[float, Meta(ge=0, le=86_400)]
    """How far ahead of `tick_s` the forecast is for, in seconds of the sensor's world."""
    forecast: Annotated[tuple[Annotated[float, Meta(ge=-1e6, le=1e6)], ...], Meta(max_length=16)]
    """The model's outputs, in its own units and order."""
    latency_ms: DurationMs
    """From the capture of the reading to the decision."""
    state_age_ms: DurationMs
    """Age of the newest input of the world that it used."""
    at_ms: AtMs
    """Wall time of the writer, milliseconds since 1970."""


class Link(Message, frozen=True):
    """How a device's link to a neighbour is."""

    state: Literal["up", "down"]
    """Whether the session stands."""
    rtt_ms: DurationMs | None
    """Round trip; null while unknown."""
    at_ms: AtMs
    """Wall time of the writer, milliseconds since 1970."""


class Reading(Message, frozen=True):
    """What a junction's camera and signal head tell of one second."""

    tick_s: TraceS
    """Second of the sensor's world."""
    phase: Annotated[int, Meta(ge=0, le=255)]
    """Which signal phase shows."""
    standing: Vehicles
    """Vehicles standing, per approach."""
    vehicles: Vehicles
    """Vehicles in view, per approach."""
    speed_mps: Annotated[tuple[Annotated[float, Meta(ge=0, le=1_000)], ...], Meta(max_length=8)]
    """Their mean speed, per approach, metres per second."""
    at_ms: AtMs
    """Wall time of the writer, milliseconds since 1970."""


_TYPES: Final[dict[str, type[Message]]] = {
    "heartbeat": Heartbeat,
    "status": Status,
    "obstacle": Obstacle,
    "count": Count,
    "task": TaskSet,
    "model": SignedModel,
    "model-status": ModelStatus,
    "resources": Resources,
    "sensor": Reading,
    "inference": Inference,
    "link": Link,
}
_NAMES: Final = {kind: name for name, kind in _TYPES.items()}
_READERS: Final = {name: msgspec.json.Decoder(kind).decode for name, kind in _TYPES.items()}


def decode(class_name: str, payload: bytes) -> Message:
    """Read and validate a payload.

    Args:
        class_name: The topic class, `broker.topics.TopicClass.name`.
        payload: As it was published.

    Raises:
        PayloadInvalid: It is not valid for that class.
        KeyError: The class has no typed payload (calls, chunks and everything outside of flock/).
    """
    read = _READERS[class_name]
    bytes_max = ENVELOPE_BYTES_MAX if class_name == "model" else PAYLOAD_BYTES_MAX
    if len(payload) > bytes_max:
        raise PayloadInvalid(f"{class_name}: {len(payload)} bytes; send at most {bytes_max}")
    try:
        if not payload.isascii():
            payload.decode()  # msgspec does not look at the text of fields that it skips
        return read(payload)
    except UnicodeDecodeError:
        raise PayloadInvalid(f"{class_name}: not UTF-8; send JSON in UTF-8") from None
    except msgspec.MsgspecError as error:
        raise PayloadInvalid(f"{class_name}: {_one_line(str(error))}") from None
    except RecursionError:
        raise PayloadInvalid(f"{class_name}: nested too deep; send a flat object") from None


def encode(message: Message) -> bytes:
    """The JSON payload of a message.

    Raises:
        PayloadInvalid: The message is outside its own ranges, which is a defect of its writer.
    """
    try:
        # A copy: what orjson gives keeps the page that it was written into for as long as it lives (measured: 4 KB).
        payload = bytes(memoryview(orjson.dumps(message, default=msgspec.structs.asdict)))
    except TypeError as error:  # numpy's numbers, say, from a sensor of one's own
        raise PayloadInvalid(f"{_NAMES[type(message)]}: {_one_line(str(error))}") from None
    decode(_NAMES[type(message)], payload)
    return payload


def _one_line(text: str) -> str:
    return " ".join(text.split())[:REASON_CHARACTERS_MAX]
