"""The independent book-keeping: what was acknowledged, who has it, how late, how often.

Theory of operation. A device lives one or several lives; a kill ends one, a start begins the next.
Per obstacle event the book holds when it was published and acknowledged, and per device and life
when it came, as news or as memory (`rebuild`). All questions are answered from that:

    missing      acknowledged, and another device has it in none of its lives
    expired      those of the missing whose time is over, so they will not come any more
    duplicated   came as news to a device that had had it as news, whichever life
    healed       acknowledged before a fault was over: when the last device had it in the life that
                 it then lived, its own events excepted, since a device knows those
    latency      published to applied as news, for pairs never apart in between; the others: late

Records of one device come in order; those of different devices do not. So nothing that depends on
several devices is decided before LAG_NS have passed.

Decides nothing else and does no I/O; times are monotonic nanoseconds. Assumes that an event's key
is never used twice. Events are forgotten some time after they have expired; what was missing then
stays counted. On failure: what was never acknowledged is owed to nobody and counted by nobody.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from agent.demo.figures import Histogram
from agent.demo.windows import Links, Window

__all__ = ["Fault", "Ledger"]

LAG_NS: Final = 2_000_000_000
"""Records are read every 20 ms; a device that is starved of processor may tell a second late."""
FORGET_NS: Final = 30_000_000_000
"""After an event's expiry: longer than any fault of the demo."""


@dataclass(slots=True)
class _Event:
    origin: str
    seen_ns: int
    published_ns: int | None = None
    acknowledged_ns: int | None = None
    news: dict[str, int] = field(default_factory=dict)
    known: dict[tuple[str, int], int] = field(default_factory=dict)


@dataclass(slots=True)
class Fault:
    """A fault and how it ended.

    Attributes:
        kind: `kill` or `cut`.
        window: Who was apart when.
        lives: The life that each device lived when it was over.
        healed_ns: When everybody had everything; None: not yet.
    """

    kind: str
    window: Window
    lives: dict[str, int] = field(default_factory=dict)
    healed_ns: int | None = None


class Ledger:
    """The book of one run.

    Args:
        devices: All of the fleet.
        ttl_ns: How long an event lives.
    """

    def __init__(self, devices: tuple[str, ...], ttl_ns: int) -> None:
        self.links = Links()
        self.faults: list[Fault] = []
        self.latency = Histogram()
        self.late = Histogram()
        self.published = self.delivered = self.duplicated = self.rebuilt = 0
        self._devices = devices
        self._ttl_ns = ttl_ns
        self._events: dict[str, _Event] = {}
        self._lives = dict.fromkeys(devices, 0)
        self._unjudged: deque[tuple[str, str, int]] = deque()  # key, device, applied_ns
        self._missing_forgotten = 0
        self._alone = Window(frozenset(), 0)

    # What is told.

    def link_changed(self, device: str, peer: str, at_ns: int, *, up: bool) -> None:
        """One end of a link is up, or down."""
        self.links.changed(device, peer, at_ns, up=up)
        for fault in self.faults:
            fault.window.look(self.links)

    def linked(self, at_ns: int) -> None:
        """All links are up for the first time; before, no pair counts as connected."""
        self._alone.end_ns = self._alone.joined_ns = at_ns

    def acknowledged(self, key: str, origin: str, published_ns: int, acknowledged_ns: int) -> None:
        """An origin has its acknowledgement."""
        event = self._event(key, origin, published_ns)
        if event.acknowledged_ns is None:
            self.published += 1
            event.published_ns, event.acknowledged_ns = published_ns, acknowledged_ns

    def applied(self, device: str, key: str, origin: str, at_ns: int, *, rebuild: bool) -> None:
        """A device that is not the origin has taken an event in."""
        event = self._event(key, origin, at_ns)
        event.known.setdefault((device, self._lives[device]), at_ns)
        if rebuild:
            self.rebuilt += 1
        elif device in event.news:
            self.duplicated += 1
        else:
            event.news[device] = at_ns
            self.delivered += 1
            self._unjudged.append((key, device, at_ns))

    def killed(self, device: str, at_ns: int) -> Fault:
        """A device's life has ended."""
        self.links.forget(device)
        return self._begin("kill", frozenset({device}), at_ns)

    def cut(self, group: frozenset[str], at_ns: int) -> Fault:
        """The fleet is about to be parted into a group and the rest."""
        return self._begin("cut", group, at_ns)

    def over(self, fault: Fault, at_ns: int) -> None:
        """A cut is over, or the next life of a killed device begins."""
        if fault.kind == "kill":
            for device in fault.window.group:
                self._lives[device] += 1
        fault.lives = dict(self._lives)
        fault.window.end_ns = at_ns
        fault.window.look(self.links)

    # What is asked.

    def settle(self, now_ns: int) -> list[Fault]:
        """Decide what enough time has passed for; call about once a second. Returns the faults found healed."""
        healed = self._decide(now_ns - LAG_NS)
        self._forget(now_ns - self._ttl_ns - FORGET_NS)
        return healed

    def finish(self, now_ns: int) -> None:
        """Decide everything: all records are in."""
        self._decide(now_ns)

    def published_ns(self, key: str) -> int | None:
        """When an event was published; None: its origin has not told of it."""
        event = self._events.get(key)
        return None if event is None else event.published_ns

    def missing(self) -> int:
        """How many acknowledged events are owed to how many devices, added up."""
        return self._missing_forgotten + sum(map(self._owed, self._events.values()))

    def expired(self, now_ns: int) -> int:
        """How many of the missing will not come any more."""
        over = (
            event
            for event in self._events.values()
            if event.published_ns is not None and event.published_ns + self._ttl_ns <= now_ns
        )
        return self._missing_forgotten + sum(map(self._owed, over))

    def healed_ms(self, fault: Fault) -> float | None:
        """How long it took after a fault was over; None: it is not over, or was not healed."""
        if fault.healed_ns is None or fault.window.end_ns is None:
            return None
        return (fault.healed_ns - fault.window.end_ns) / 1e6

    # Inside.

    def _decide(self, before_ns: int) -> list[Fault]:
        while self._unjudged and self._unjudged[0][2] <= before_ns:
            self._judge(*self._unjudged.popleft())
        open_faults = [fault for fault in self.faults if fault.healed_ns is None]
        for fault in open_faults:
            over_ns = fault.window.end_ns
            if over_ns is not None and over_ns <= before_ns:
                fault.healed_ns = self._healed_ns(fault, over_ns)
        return [fault for fault in open_faults if fault.healed_ns is not None]

    def _event(self, key: str, origin: str, at_ns: int) -> _Event:
        event = self._events.get(key)
        if event is None:
            event = self._events[key] = _Event(origin, at_ns)
        return event

    def _begin(self, kind: str, group: frozenset[str], at_ns: int) -> Fault:
        fault = Fault(kind, Window(group, at_ns))
        self.faults.append(fault)
        return fault

    def _judge(self, key: str, device: str, applied_ns: int) -> None:
        event = self._events.get(key)
        if event is None or event.published_ns is None:
            return  # never acknowledged, so nobody knows when it was published
        windows = [self._alone, *(fault.window for fault in self.faults)]
        apart = any(
            window.kept_apart(event.origin, device, event.published_ns, applied_ns)
            for window in windows
        )
        (self.late if apart else self.latency).add(applied_ns - event.published_ns)

    def _healed_ns(self, fault: Fault, over_ns: int) -> int | None:
        """When every device had everything that was acknowledged before the fault was over."""
        healed_ns = over_ns
        for event in self._events.values():
            acknowledged_ns, published_ns = event.acknowledged_ns, event.published_ns
            if acknowledged_ns is None or published_ns is None or acknowledged_ns > over_ns:
                continue
            if published_ns + self._ttl_ns <= over_ns + LAG_NS:
                continue  # it had expired, or did before anybody could have brought it
            for device in self._devices:
                if device != event.origin:
                    known_ns = event.known.get((device, fault.lives[device]))
                    if known_ns is None:
                        return None
                    healed_ns = max(healed_ns, known_ns)
        return healed_ns

    def _owed(self, event: _Event) -> int:
        if event.acknowledged_ns is None:
            return 0
        have = {device for device, _ in event.known}
        return sum(device != event.origin and device not in have for device in self._devices)

    def _forget(self, seen_before_ns: int) -> None:
        """Drop events that expired long ago; they stand in the order in which they were seen."""
        if any(fault.window.end_ns is None for fault in self.faults):
            return
        while self._events:
            key, event = next(iter(self._events.items()))
            if event.seen_ns >= seen_before_ns:
                return
            self._missing_forgotten += self._owed(event)
            del self._events[key]
