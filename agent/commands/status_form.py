"""What `flockmq status` reads of a device's report (`agent/report.py`). What is missing counts as empty."""

from __future__ import annotations

import msgspec

__all__ = [
    "Bridge",
    "Hub",
    "IdentityState",
    "Link",
    "ModelState",
    "Report",
    "SensorState",
    "Worker",
]


class Link(msgspec.Struct, frozen=True):
    """One neighbour with a session."""

    name: str
    rtt_ms: float | None = None
    established: bool = False
    queued_bundles: int = 0
    dropped: int = 0
    bad_frames: int = 0


class ModelState(msgspec.Struct, frozen=True):
    """What a device runs of one model."""

    version: str | None = None
    state: str = ""
    reason: str = ""
    refused: dict[str, int] = {}
    last_refused: str = ""


class Fetching(msgspec.Struct, frozen=True):
    """Bytes of a model on their way."""

    chunks_there: int = 0
    chunks: int = 0
    peers: tuple[str, ...] = ()


class Deltas(msgspec.Struct, frozen=True):
    """What came of deltas."""

    applied: int = 0
    saved_bytes: int = 0
    failed: dict[str, int] = {}
    last_failure: str = ""


class ContentState(msgspec.Struct, frozen=True):
    """The bytes of models, on their way and come."""

    fetching: dict[str, Fetching] = {}
    """By digest."""
    deltas: Deltas = Deltas()


class Worker(msgspec.Struct, frozen=True):
    """The inference worker."""

    inferences: int = 0
    superseded: int = 0
    late: int = 0
    deadline_ms: int = 0
    stale: int = 0
    state_age_max_ms: int = 0
    failed: int = 0
    last_failure: str = ""
    workers_lost: int = 0
    ended: str = ""


class SensorState(msgspec.Struct, frozen=True):
    """The sensor, if it says anything of itself."""

    source: str = ""
    state: str = ""
    last_problem: str = ""
    counters: dict[str, int] = {}
    runs_on: str = ""


class Hub(msgspec.Struct, frozen=True):
    """A third-party broker at which this device meets others."""

    name: str
    connected: bool = False
    last_failure: str = ""
    integrity: str = ""
    peers: dict[str, bool] = {}
    counters: dict[str, int] = {}


class Bridge(msgspec.Struct, frozen=True):
    """A foreign broker whose own clients are joined to the mesh."""

    name: str
    address: str = ""
    state: str = ""
    last_failure: str = ""
    waiting: int = 0
    counters: dict[str, int] = {}


class TagsState(msgspec.Struct, frozen=True):
    """What proves who made a bundle."""

    strength: str = ""
    fleet_key: int = 0
    signers: int = 0


class IdentityState(msgspec.Struct, frozen=True):
    """Who the device is to its fleet, and whom it turned away."""

    fleet: str = ""
    name: str = ""
    standing: str = ""
    days_left: float = 0.0
    revocations: int = 0
    revoked: int = 0
    graced: int = 0
    refused: dict[str, int] = {}
    last_refused: str = ""
    refused_notices: int = 0
    last_refused_notice: str = ""
    tags: TagsState | None = None


class Topology(msgspec.Struct, frozen=True):
    """How a device chooses whom to dial."""

    kind: str = ""
    near: int = 0
    far: int = 0


class Known(msgspec.Struct, frozen=True):
    """A device that could be dialled."""

    source: str = msgspec.field(name="from", default="")
    where: str = ""
    dialled: bool = False
    rtt_ms: float | None = None


class Discovery(msgspec.Struct, frozen=True):
    """How a device finds others, and what came of it."""

    mdns: str = "off"
    malformed: int = 0
    last_malformed: str = ""
    passed_over: int = 0
    no_room: int = 0
    seeds: dict[str, str] = {}


class Report(msgspec.Struct, frozen=True):
    """What is shown of `agent.report`."""

    device: str
    incarnation: int
    uptime_s: float
    site: str | None = None
    """None: a broker without an agent."""
    links: tuple[Link, ...] = ()
    dial_failures: dict[str, str] = {}
    closed_links: dict[str, str] = {}
    refused_tags: dict[str, int] = {}
    refused_messages: dict[str, int] = {}
    last_refused_message: str = ""
    identity: IdentityState | None = None
    """None: no identity, so links are plain MQTT."""
    hubs: tuple[Hub, ...] = ()
    bridges: tuple[Bridge, ...] = ()
    topology: Topology = Topology()
    known: dict[str, Known] = {}
    discovery: Discovery = Discovery()
    peers: dict[str, bool] = {}
    obstacles: int = 0
    sensor: SensorState | None = None
    models: dict[str, ModelState] = {}
    content: ContentState = ContentState()
    runtime: str | None = None
    edge_tpu: str | None = None
    worker: Worker = Worker()
    counters: dict[str, int] = {}
    invalid: dict[str, int] = {}
    last_invalid: str = ""
    last_problem: str = ""
    last_slow_client: str = ""
    last_forbidden: str = ""
    last_login_refused: str = ""
    users: int | None = None
    """Who may come by a password; None: names are not looked at."""
    users_problem: str = ""
    last_loss: str = ""
