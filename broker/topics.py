"""The topic contract as data: what each topic promises, and how a publish is placed.

Decides: for a published topic its class, and from the class QoS, retained, route, priority,
lifetime and rank. The table below and the one in `topics.md` are the same by test.
Assumes: names of topics were checked where they entered; those of programs in this process are, by `place`.
On failure: nothing here judges a payload. One that cannot be read is placed with safe defaults,
since validation belongs to its reader; a topic outside the contract travels as plain MQTT.
Source: MQTT 3.1.1 section 4.7 for names and filters; Sparkplug B for class before device.
"""

import re
from enum import IntEnum, StrEnum
from typing import Annotated, Final, NamedTuple, TypeAlias

import msgspec

from broker.topic_names import Id, check_topic_name, is_id

__all__ = [
    "CALL_DEADLINE_MS",
    "COUNTER_MAX",
    "INCARNATION_MAX",
    "REFUTATION_BITS",
    "TABLE",
    "TTL_MS_MAX",
    "UNREADABLE_TTL_MS",
    "Lifetime",
    "Placement",
    "Priority",
    "Rank",
    "Route",
    "TopicClass",
    "classify",
    "parse",
    "place",
    "status_rank",
]


class Route(StrEnum):
    """How a message leaves its device."""

    TREE = "tree"
    """Along the origin's spreading tree, to every device."""
    FLOOD = "flood"
    """On every link at once, to every device; the fastest path wins."""
    UNICAST = "unicast"
    """To the one device that the topic names."""
    LOCAL = "local"
    """Nowhere: it stays on its device."""
    LINK = "link"
    """Between two neighbours, the link's own; the mesh never sees it."""


class Priority(IntEnum):
    """Which lane a message takes; the lower number goes first."""

    CONTROL = 0
    URGENT = 1
    NORMAL = 2
    TELEMETRY = 3
    BULK = 4


class Lifetime(StrEnum):
    """Where a lifetime that the table does not know comes from."""

    PAYLOAD = "the event's own ttl"
    """The payload's `ttl_ms`."""
    CALLER = "call's deadline"
    """Whoever makes the call states it, else CALL_DEADLINE_MS; `place` says 0."""


class Rank(StrEnum):
    """What orders retained values of a topic before their clock does."""

    NONE = "none"
    COUNTER = "counter"
    """A model manifest's `counter`."""
    INCARNATION = "incarnation"
    """A status' incarnation and refutation: see `status_rank`."""


class TopicClass(NamedTuple):
    """One row of the contract."""

    name: str
    """The class, as code names it."""
    pattern: str
    """The topic with its placeholders, as users read it."""
    qos: int | None
    """0, 1 or 2; None: as published."""
    retained: bool | None
    """None: as published."""
    route: Route
    priority: Priority
    lifetime_ms: int | Lifetime
    """From publish to expiry; 0: it does not expire."""
    rank: Rank
    written_by: str
    merged_as: str
    """How readers make one state of what several wrote."""


class Placement(NamedTuple):
    """How one publish travels."""

    qos: int
    retained: bool
    route: Route
    priority: Priority
    lifetime_ms: int
    """From publish to expiry; 0: none."""
    rank: int
    """0 .. 2**63 - 1. Retained values are ordered by (rank, clock, origin)."""


TTL_MS_MAX: Final = 3_600_000
"""An hour. What holds for longer belongs in a retained topic, which has no lifetime."""

UNREADABLE_TTL_MS: Final = 10_000
"""Of an obstacle event without a readable ttl: long enough to reach the readers who count it as
invalid, short enough not to be carried about."""

CALL_DEADLINE_MS: Final = 10_000
"""Of a call, reply or chunk whose publisher states none, as MQTT clients cannot."""

COUNTER_MAX: Final = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly."""

INCARNATION_MAX: Final = 2**32 - 1
"""A boot every second for 136 years."""

REFUTATION_BITS: Final = 24
"""A refutation every second for half a year within one boot. 32 + 24 bits stay below 2**63, so the
rank of a status fits the signed integers of SQLite."""

_Row: TypeAlias = tuple[
    str, int | None, bool | None, Route, Priority, int | Lifetime, Rank, str, str
]
_TREE, _FLOOD, _UNICAST = Route.TREE, Route.FLOOD, Route.UNICAST
_CONTROL, _URGENT, _NORMAL = Priority.CONTROL, Priority.URGENT, Priority.NORMAL
_TELEMETRY, _BULK = Priority.TELEMETRY, Priority.BULK
_PAYLOAD, _CALLER = Lifetime.PAYLOAD, Lifetime.CALLER
_UNRANKED, _DEVICE = Rank.NONE, "that device"

# Topic, QoS, retained, route, priority, lifetime in ms, rank, written by, merged as.
# fmt: off
_FLOCK_ROWS: Final[tuple[_Row, ...]] = (
    ("heartbeat/{device}", 0, False, _TREE, _TELEMETRY, 3_000, _UNRANKED, _DEVICE, "newest"),
    ("status/{device}", 1, True, _TREE, _CONTROL, 0, Rank.INCARNATION,
     "that device; `lost` by a neighbour", "register, ranked by (incarnation, refutation)"),
    ("obstacle/{device}/{id}", 1, False, _FLOOD, _URGENT, _PAYLOAD, _UNRANKED,
     _DEVICE, "set with removal, per observer"),
    ("count/{device}/{name}", 1, True, _TREE, _NORMAL, 0, _UNRANKED,
     _DEVICE, "PN-counter, one replica per device and incarnation"),
    ("task/{device}/{id}", 1, True, _TREE, _NORMAL, 0, _UNRANKED,
     "that device: its replica's dots and context", "observed-remove set, joined over devices"),
    ("model/{name}", 1, True, _TREE, _CONTROL, 0, Rank.COUNTER,
     "role operator", "register, ranked by the manifest's counter"),
    ("model-status/{device}/{name}", 1, True, _TREE, _NORMAL, 0, _UNRANKED, _DEVICE, "newest"),
    ("resources/{device}", 0, False, _TREE, _TELEMETRY, 10_000, _UNRANKED, _DEVICE, "newest"),
    ("sensor/{device}/{name}", 0, False, _TREE, _TELEMETRY, 3_000, _UNRANKED, _DEVICE, "newest"),
    ("inference/{device}/{name}", 0, False, _TREE, _TELEMETRY, 1_000, _UNRANKED,
     _DEVICE, "newest"),
    ("link/{device}/{neighbour}", 0, True, _TREE, _TELEMETRY, 0, _UNRANKED, _DEVICE, "newest"),
    ("bridge/{device}/{name}", 0, False, _TREE, _TELEMETRY, 3_000, _UNRANKED, _DEVICE, "newest"),
    ("certificate/{device}", 1, True, _TREE, _CONTROL, 0, _UNRANKED,
     "role operator", "the latest to expire, if the authority signed it"),
    ("revocation/{fleet}", 1, True, _TREE, _CONTROL, 0, _UNRANKED,
     "role operator; whoever knows a newer list",
     "the list with the highest number, if the authority signed it"),
    ("fleet-key/{fleet}", 1, True, _TREE, _CONTROL, 0, _UNRANKED,
     "role operator; whoever knows a newer notice",
     "the notice with the highest number, if the authority signed it"),
    ("call/{to}/{service}/{from}/{id}", 1, False, _UNICAST, _NORMAL, _CALLER, _UNRANKED,
     "`from`", ""),
    ("reply/{to}/{from}/{id}", 1, False, _UNICAST, _NORMAL, _CALLER, _UNRANKED, "`from`", ""),
    ("chunk/{to}/{from}/{id}", 1, False, _UNICAST, _BULK, _CALLER, _UNRANKED,
     "`from`, binary", ""),
)
_LOCAL, _FRAME, _ANNOUNCEMENT, _OTHER = (
    TopicClass("local", "local/#", None, None, Route.LOCAL, _NORMAL, 0, _UNRANKED,
               "anyone on the device", ""),
    TopicClass("frame", "mesh/v1/{to}/{from}", 0, False, Route.LINK, _CONTROL, 0, _UNRANKED,  # noqa: FBT003 - a row of a table
               "link's own", "never shown to the mesh"),
    TopicClass("announcement", "mesh/v1/{device}", 0, False, Route.LINK, _CONTROL, 0, _UNRANKED,  # noqa: FBT003 - a row of a table
               "that device, at a hub", "never shown to the mesh"),
    TopicClass("other", "anything else", None, None, _TREE, _NORMAL, 0, _UNRANKED,
               "by ACL", "MQTT"),
)
# fmt: on

_FLOCK: Final = {
    name: TopicClass(name, "flock/v1/{site}/" + row[0], *row[1:])
    for row in _FLOCK_ROWS
    for name in (row[0].partition("/")[0],)
}
TABLE: Final = (*_FLOCK.values(), _LOCAL, _FRAME, _ANNOUNCEMENT, _OTHER)
"""The contract, in the order of `topics.md`."""

_PLACEHOLDER: Final = re.compile(r"\{([a-z]+)\}")
_PLACEHOLDERS: Final = {row.name: tuple(_PLACEHOLDER.findall(row.pattern)) for row in TABLE}
_TOPIC_CHARACTERS_MAX: Final = 200
"""No contract topic is longer (five ids of at most 32), so longer ones need no cache."""

_CACHE_TOPICS_MAX: Final = 8_192
"""About 2 MB when full of contract topics. Emptied when full: refilling costs 1 us per topic."""
_classes: Final[dict[str, TopicClass]] = {}


def classify(topic: str) -> TopicClass:
    """The row that `topic` falls under; `other` if none does.

    Topics that begin with `$` are the broker's own and count as `local`: they stay on the device.
    """
    known = _classes.get(topic)
    if known is not None:
        return known
    row = _classify(topic)
    if len(topic) <= _TOPIC_CHARACTERS_MAX:
        if len(_classes) >= _CACHE_TOPICS_MAX:
            _classes.clear()
        _classes[topic] = row
    return row


def _classify(topic: str) -> TopicClass:
    levels = topic.split("/")
    first = levels[0]
    if first == "flock":
        if len(levels) < 5 or levels[1] != "v1" or levels[3] not in _FLOCK:
            return _OTHER
        row = _FLOCK[levels[3]]
        ids = [levels[2], *levels[4:]]
        count = len(_PLACEHOLDERS[row.name])
    elif first == "mesh":
        if len(levels) not in {3, 4} or levels[1] != "v1":
            return _OTHER
        row, ids = _FRAME if len(levels) == 4 else _ANNOUNCEMENT, levels[2:]
        count = len(_PLACEHOLDERS[row.name])
    else:
        return _LOCAL if first == "local" or first.startswith("$") else _OTHER
    return row if len(ids) == count and all(map(is_id, ids)) else _OTHER


def parse(topic: str) -> dict[str, str]:
    """What stands in `topic` for the placeholders of its class' pattern, in their order.

    Empty for `local`, `other` and every topic outside the contract.
    """
    row = classify(topic)
    names = _PLACEHOLDERS[row.name]
    if not names:
        return {}
    levels = topic.split("/")
    ids = levels[2:] if row.route is Route.LINK else [levels[2], *levels[4:]]
    return dict(zip(names, ids, strict=True))


class _Ttl(msgspec.Struct):
    ttl_ms: Annotated[int, msgspec.Meta(ge=1, le=TTL_MS_MAX)]


class _Manifest(msgspec.Struct):
    """Of a manifest that readers will take; one that they will not must not outrank one that they do."""

    site: Id
    name: Id
    version: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    counter: Annotated[int, msgspec.Meta(ge=1, le=COUNTER_MAX)]


class _Model(msgspec.Struct):
    manifest: _Manifest


class _Incarnation(msgspec.Struct):
    incarnation: Annotated[int, msgspec.Meta(ge=0, le=INCARNATION_MAX)]
    refutation: Annotated[int, msgspec.Meta(ge=0, lt=2**REFUTATION_BITS)]


_read_ttl: Final = msgspec.json.Decoder(_Ttl).decode
_read_model: Final = msgspec.json.Decoder(_Model).decode
_read_incarnation: Final = msgspec.json.Decoder(_Incarnation).decode


def status_rank(incarnation: int, refutation: int) -> int:
    """(incarnation, refutation) as one integer of the same order, below 2**56."""
    return incarnation << REFUTATION_BITS | refutation


def place(topic: str, payload: bytes, qos: int, retained: bool) -> Placement:  # noqa: FBT001 - by position, for speed
    """How a publish travels; of contract topics the table decides QoS and retained.

    Never raises for a payload: an unreadable lifetime is the table's default, an unreadable rank 0.
    An empty payload says that a retained value is deleted and carries no rank of its own: the mesh
    gives a deletion the rank of the value that it deletes, or it could not win.

    Raises:
        TopicError: It is no topic name.
    """
    row = _classes.get(topic) or _checked(topic)
    fixed = _FIXED.get(row.name)
    if fixed is not None:
        return fixed
    if row.lifetime_ms is _PAYLOAD:
        return _place_by_ttl(row, payload)
    if row.qos is None or row.retained is None:
        return Placement(qos, retained, row.route, row.priority, 0, 0)
    rank = 0
    try:
        if row.rank is Rank.COUNTER:
            rank = _counter(topic, payload)
        else:
            status = _read_incarnation(payload)
            rank = status_rank(status.incarnation, status.refutation)
    except (ValueError, RecursionError):
        pass  # msgspec's errors are ValueErrors, bad UTF-8 too; very deep nesting is a recursion
    return Placement(row.qos, row.retained, row.route, row.priority, 0, rank)


def _checked(topic: str) -> TopicClass:
    """The class of a topic on which nothing was said before."""
    check_topic_name(topic)
    return classify(topic)


def _counter(topic: str, payload: bytes) -> int:
    """A manifest's counter; 0 where it is for another topic."""
    manifest, ids = _read_model(payload).manifest, parse(topic)
    fits = (manifest.site, manifest.name) == (ids["site"], ids["name"])
    return manifest.counter if fits else 0


def _place_by_ttl(row: TopicClass, payload: bytes) -> Placement:
    """Of a class whose lifetime stands in the payload; a fleet uses few lifetimes, so placements are shared."""
    try:
        ttl_ms = _read_ttl(payload).ttl_ms
    except (ValueError, RecursionError):
        ttl_ms = UNREADABLE_TTL_MS
    by_ttl = _by_ttl[row.name]
    placed = by_ttl.get(ttl_ms)
    if placed is None:
        assert row.qos is not None
        assert row.retained is not None
        placed = Placement(row.qos, row.retained, row.route, row.priority, ttl_ms, 0)
        if len(by_ttl) >= _TTLS_MAX:
            by_ttl.clear()
        by_ttl[ttl_ms] = placed
    return placed


_TTLS_MAX: Final = 256
"""About 40 KB. Emptied when full: making one again costs 0.3 us."""
_by_ttl: Final[dict[str, dict[int, Placement]]] = {
    row.name: {} for row in TABLE if row.lifetime_ms is _PAYLOAD
}

_FIXED: Final = {
    row.name: Placement(row.qos, row.retained, row.route, row.priority, lifetime_ms, 0)
    for row in TABLE
    for lifetime_ms in (0 if row.lifetime_ms is Lifetime.CALLER else row.lifetime_ms,)
    if row.qos is not None and row.retained is not None
    if row.rank is Rank.NONE and not isinstance(lifetime_ms, Lifetime)
}
"""Of the classes whose payload has no say: one placement for every message."""
