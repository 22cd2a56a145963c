"""The world: one reducer that turns what a device hears into what it knows.

Theory of operation. Every topic has one register, ordered by (rank, clock, origin), the order of
the broker's retained map. Obstacles are registers too, ranked by their version and kept, removed
ones included, until the latest expiry among their events: before that an older event could still
arrive and would bring back what is gone. Counts and task sets are joined over the registers of all
devices. So the state depends on the set of messages heard and not on their order or number.

    topic class                     kept as       in digest
    status model model-status       register      yes
    count task                      register, joined over devices   yes
    obstacle                        register until expiry           present, unexpired ones
    sensor inference resources link newest        no
    heartbeat                       newest, feeds liveness          no

Decides: what is applied, what is stale, what is invalid. Assumes: the broker has checked who may
write where; clocks are hybrid logical, one integer `wall_ms << 16 | logical`. `now_ns` is monotonic
and only ages and liveness look at it.
On failure: an invalid payload is counted, its reason remembered, and nothing else happens: the
value before it stands, and the next one is applied.
Source: state-based replicated types (Shapiro et al. 2011), one per row of `topics.md`.
"""

from collections.abc import Callable, Iterable
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, Final

import msgspec

from agent.crdt.counters import PnCounter
from agent.crdt.maps import JoinMap, NewestMap
from agent.crdt.orset import OrSet
from agent.crdt.registers import Register
from agent.limits import FRESH_TOPICS_MAX, KEPT_TOPICS_MAX, OBSTACLES_MAX
from agent.liveness import Liveness
from agent.messages import (
    Count,
    Heartbeat,
    Inference,
    Link,
    Message,
    Model,
    ModelStatus,
    Obstacle,
    PayloadInvalid,
    Reading,
    Resources,
    SignedModel,
    Status,
    TaskSet,
    decode,
)
from agent.outcomes import Applied, Invalid, Outcome, Statistics
from agent.replicas import counter_of, task_set_of
from agent.snapshot import Heard, Seen, Snapshot
from agent.view import View
from broker.mesh.clock import LOGICAL_BITS
from broker.topics import TABLE, classify, parse

__all__ = ["Applied", "Invalid", "Outcome", "Statistics", "World"]

_DIGEST_BYTES: Final = 16
"""128 bits: two worlds that differ never show the same by accident."""
_APPLIED: Final = Outcome.APPLIED
"""Bound here: each look into an enumeration costs 70 ns, and this one is taken for every message."""
_PLACES_MAX: Final = 16_384
"""Topics whose place is remembered, about 6 MB. Emptied when full: finding one again costs 3 us."""
_DELETABLE: Final = {row.name for row in TABLE if row.retained}


class _Place(msgspec.Struct, frozen=True, gc=False):
    """Where what is said on a topic belongs; the same for every message on it."""

    name: str
    """The topic's class."""
    ids: dict[str, str]
    key: Any
    """What its class' view has for it: an id, or a tuple of several."""
    pool: NewestMap[Message] | None
    """None: the world does not read it."""
    counts: dict[Outcome, int]
    take: Callable[["_Place", Applied, int], Outcome]
    """What is done with a message on it."""


class World:
    """What one device knows. Not thread-safe; snapshots may go anywhere.

    Args:
        site: The site whose topics it reads.
        device: The device whose world it is.
    """

    def __init__(self, site: str, device: str) -> None:
        self.site = site
        self.device = device
        self.liveness = Liveness()
        """Fed by what is applied; the device adds its own broken links and its loop's lag."""
        self._kept: NewestMap[Message] = NewestMap(KEPT_TOPICS_MAX)
        self._fresh: NewestMap[Message] = NewestMap(FRESH_TOPICS_MAX)
        self._obstacles: NewestMap[Message] = NewestMap(OBSTACLES_MAX)
        self._counters: JoinMap[PnCounter] = JoinMap()
        self._task_sets: JoinMap[OrSet] = JoinMap()
        self._newest_ns: int | None = None
        self._expired_until = -1
        self._evicted = 0
        self._outcomes: dict[str, dict[Outcome, int]] = {}
        self._places: dict[str, _Place] = {}
        self._last_invalid: dict[str, Invalid] = {}
        self._status: View[str, Status] = View()
        self._seen: View[tuple[str, str], Seen] = View()
        self._models: View[str, Model] = View()
        self._counts: View[str, int] = View()
        self._tasks: View[str, frozenset[str]] = View()
        self._model_status: View[tuple[str, str], ModelStatus] = View()
        self._readings: View[tuple[str, str], Heard[Reading]] = View()
        self._inferences: View[tuple[str, str], Heard[Inference]] = View()
        self._resources: View[str, Heard[Resources]] = View()
        self._links: View[tuple[str, str], Heard[Link]] = View()
        self._views: dict[str, View[Any, Any]] = {
            "status": self._status,
            "obstacle": self._seen,
            "model": self._models,
            "model-status": self._model_status,
            "sensor": self._readings,
            "inference": self._inferences,
            "resources": self._resources,
            "link": self._links,
        }
        self._pools: dict[str, NewestMap[Message]] = {
            "obstacle": self._obstacles,
            **dict.fromkeys(("status", "count", "task", "model", "model-status"), self._kept),
            **dict.fromkeys(("heartbeat", "sensor", "inference", "resources", "link"), self._fresh),
        }

    def apply(self, message: Applied, now_ns: int) -> Outcome:
        """Take in one message."""
        return self.apply_batch((message,), now_ns)[0]

    def apply_batch(self, messages: Iterable[Applied], now_ns: int) -> list[Outcome]:
        """Take in messages. Returns what became of each, in their order."""
        places, outcomes = self._places, []
        for message in messages:
            place = places.get(message.topic) or self._place(message.topic)
            outcome = place.take(place, message, now_ns)
            outcomes.append(outcome)
            place.counts[outcome] = place.counts.get(outcome, 0) + 1
            if outcome is _APPLIED and not message.rebuild:
                self._newest_ns = now_ns
        return outcomes

    def expire(self, at_clock: int) -> int:
        """Tell the time, as a hybrid clock; obstacles that expired by then go. Returns how many."""
        self._expired_until = max(self._expired_until, at_clock)
        return self._forget(self._obstacles.pop_until(self._expired_until))

    def counter(self, name: str) -> PnCounter:
        """The counter `name`, joined over all devices: what a writer counts on from."""
        return self._counters.get(name) or PnCounter()

    def task_set(self, task: str) -> OrSet:
        """The task set `task`, joined over all devices: what a writer adds to and removes from."""
        return self._task_sets.get(task) or OrSet()

    def snapshot(self) -> Snapshot:
        """The world as it is now; costs what has changed since the last one."""
        return Snapshot(
            site=self.site,
            device=self.device,
            newest_ns=self._newest_ns,
            patience_factor=self.liveness.factor,
            peers=self.liveness.peers.frozen(),
            status=self._status.frozen(),
            obstacles=self._seen.frozen(),
            models=self._models.frozen(),
            counts=self._counts.frozen(),
            tasks=self._tasks.frozen(),
            model_status=self._model_status.frozen(),
            readings=self._readings.frozen(),
            inferences=self._inferences.frozen(),
            resources=self._resources.frozen(),
            links=self._links.frozen(),
        )

    def digest(self, at_clock: int) -> str:
        """What must agree, as 32 hexadecimal digits: equal on two devices exactly when they agree.

        Covers the retained topics of QoS 1 and up, and the obstacles that are unexpired at
        `at_clock`, a hybrid clock not before the last `expire`. A device that never saw the value
        before an invalid one differs until the next valid one, since its world does.
        """
        state = blake2b(digest_size=_DIGEST_BYTES)
        for topic, entry in self._kept.items():
            if entry.register.value is not None:
                _update(state, topic, entry.register.canonical())
        for topic, entry in self._obstacles.items():
            event = entry.register.value
            present = isinstance(event, Obstacle) and event.state == "present"
            if present and entry.weight[0] > at_clock:
                _update(state, topic, entry.register.canonical())
        return state.hexdigest()

    def statistics(self) -> Statistics:
        """Counts since the start; immutable."""
        return Statistics(
            outcomes=MappingProxyType(
                {name: MappingProxyType(dict(counts)) for name, counts in self._outcomes.items()}
            ),
            last_invalid=MappingProxyType(dict(self._last_invalid)),
            evicted=self._evicted,
            kept_topics=len(self._kept),
            fresh_topics=len(self._fresh),
            obstacles=len(self._obstacles),
        )

    def _place(self, topic: str) -> _Place:
        """Where a topic belongs, found for the first time."""
        name, ids = classify(topic).name, parse(topic)
        pool = self._pools.get(name)
        if pool is not None and ids["site"] != self.site:
            pool = None
        counts = self._outcomes.setdefault(name, {})
        take = self._apply_obstacle if pool is self._obstacles else self._apply
        place = _Place(name, ids, _key(ids) if pool is not None else "", pool, counts, take)
        if len(self._places) >= _PLACES_MAX:
            self._places.clear()
        self._places[topic] = place
        return place

    def _apply_obstacle(self, place: _Place, message: Applied, _: int) -> Outcome:
        """The same as `_apply`; by far the most messages are about obstacles."""
        payload, clock = message.payload, message.clock
        try:
            event = decode("obstacle", payload)
        except PayloadInvalid as error:
            return self._refuse(place, message, error)
        assert isinstance(event, Obstacle)
        until = clock + (event.ttl_ms << LOGICAL_BITS)
        if until <= self._expired_until:
            return Outcome.EXPIRED
        pool, origin = self._obstacles, message.origin
        register: Register[Message] = Register((event.version, clock, origin), payload, event)
        if not pool.put(message.topic, register, (until, clock, origin)):
            return Outcome.STALE
        device, obstacle = place.key
        seen = Seen(device, obstacle, event, clock) if event.state == "present" else None
        self._seen.set(place.key, seen)
        if len(pool) > pool.entries_max:
            self._evicted += self._forget(pool.pop_excess())
        return _APPLIED

    def _apply(self, place: _Place, message: Applied, now_ns: int) -> Outcome:
        pool = place.pool
        if pool is None:
            return Outcome.IGNORED
        try:
            value = _read(place.name, place.ids, message.payload)
        except PayloadInvalid as error:
            return self._refuse(place, message, error)
        stamp = (message.rank, message.clock, message.origin)
        if not pool.put(message.topic, Register(stamp, message.payload, value), stamp):
            return Outcome.STALE
        self._show(place, value, message, now_ns)
        if len(pool) > pool.entries_max:
            self._evicted += self._forget(pool.pop_excess())
        return _APPLIED

    def _refuse(self, place: _Place, message: Applied, error: PayloadInvalid) -> Outcome:
        self._last_invalid[place.name] = Invalid(message.topic, message.origin, str(error))
        return Outcome.INVALID

    def _show(self, place: _Place, value: Message | None, message: Applied, now_ns: int) -> None:
        """Let readers see a value that won; None: its topic was deleted."""
        name, ids = place.name, place.ids
        match value:
            case Heartbeat():
                if not message.rebuild and ids["device"] != self.device:
                    self.liveness.heartbeat(ids["device"], value.incarnation, now_ns)
            case Count():
                self._join_count(ids, counter_of(ids["device"], value))
            case TaskSet():
                self._join_tasks(ids, task_set_of(value))
            case Reading() | Inference() | Resources() | Link():
                self._views[name].set(place.key, Heard(value, now_ns, message.clock))
                if isinstance(value, Link) and value.state == "down":
                    self.liveness.link_lost(ids["neighbour"])
            case SignedModel():
                self._models.set(place.key, value.manifest)
            case None:
                self._hide(name, ids)
            case _:
                self._views[name].set(place.key, value)
                if isinstance(value, Status) and value.state == "down":
                    self.liveness.left(ids["device"], value.incarnation)

    def _hide(self, name: str, ids: dict[str, str]) -> None:
        if name == "count":
            self._join_count(ids, None)
        elif name == "task":
            self._join_tasks(ids, None)
        elif name in self._views:
            self._views[name].set(_key(ids), None)

    def _join_count(self, ids: dict[str, str], replica: PnCounter | None) -> None:
        name = ids["name"]
        self._counters.put(name, ids["device"], replica)
        joined = self._counters.get(name)
        self._counts.set(name, None if joined is None else joined.value)

    def _join_tasks(self, ids: dict[str, str], replica: OrSet | None) -> None:
        task = ids["id"]
        self._task_sets.put(task, ids["device"], replica)
        joined = self._task_sets.get(task)
        self._tasks.set(task, None if joined is None else joined.value)

    def _forget(self, topics: Iterable[str]) -> int:
        count = 0
        for topic in topics:
            self._hide(classify(topic).name, parse(topic))
            count += 1
        return count


def _read(name: str, ids: dict[str, str], payload: bytes) -> Message | None:
    """The message that a payload holds; None for the deletion of a retained topic."""
    if not payload and name in _DELETABLE:
        return None
    value = decode(name, payload)
    named = value.manifest if isinstance(value, SignedModel) else value
    if isinstance(named, Model | ModelStatus | Inference) and named.name != ids["name"]:
        raise PayloadInvalid(f"{name}: name is {named.name}, its topic says {ids['name']}")
    if isinstance(named, Model) and named.site != ids["site"]:
        raise PayloadInvalid(f"{name}: site is {named.site}, its topic says {ids['site']}")
    return value


def _key(ids: dict[str, str]) -> str | tuple[str, ...]:
    """What a view has for the placeholders after the site: one of them, or several."""
    _, *rest = ids.values()
    return rest[0] if len(rest) == 1 else tuple(rest)


def _update(state: blake2b, topic: str, payload: bytes) -> None:
    """Feed one topic; the lengths keep neighbouring fields apart."""
    name = topic.encode()
    state.update(b"%d %d " % (len(name), len(payload)))
    state.update(name)
    state.update(payload)
