"""Retained values converge, deletions included; no device goes back to an older value, and nothing deleted returns.

The versions that the devices of a core held when it was healed say what must win: the greatest of each topic. Nothing
of it but agreement can be asked where a map has evicted something.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.checkers.checker import Checker
from sim.watcher import Death

if TYPE_CHECKING:
    from broker.mesh.events import Changes, Deliver
    from broker.mesh.retained import Entry
    from sim.checkers.evictions import Evictions
    from sim.network import Network

__all__ = ["Retained"]

Version = tuple[int, int, str]


class Retained(Checker):
    """The retained map."""

    promise = "retained values and deletions converge"

    def __init__(self, network: Network, evictions: Evictions) -> None:
        super().__init__()
        self._network = network
        self._evictions = evictions
        self._seen: dict[str, dict[str, Version]] = {}
        self._expected: dict[str, Entry] = {}

    def booted(self, now_ns: int, device: str) -> None:
        """A device begins."""
        self._seen.setdefault(device, {})

    def died(self, now_ns: int, device: str, how: Death) -> None:
        """What a disk lost is not remembered."""
        if how is not Death.KILLED:
            self._seen[device] = {}

    def committed(self, now_ns: int, device: str, changes: Changes) -> None:
        """What gave way to the limits is not remembered."""
        for topic, entry in changes.retained.items():
            if entry is None:
                self._seen[device].pop(topic, None)

    def delivered(self, now_ns: int, device: str, event: Deliver) -> None:
        """What is heard of a topic is newer than what was heard of it before."""
        seen = self._seen[device]
        for row in event.messages:
            if not row.retained:
                continue
            version = (row.rank, row.clock, event.origin)
            before = seen.get(row.topic, (0, 0, ""))
            back = version < before or (version == before and not event.rebuild)
            if back and device not in self._evictions.devices:
                text = f"{row.topic} went from {before} to {version}"
                self.violated(now_ns, device, text)
            seen[row.topic] = version

    def expect(self, core: list[str]) -> None:
        """Note what must win, from what the devices hold now."""
        self._expected = {}
        for name in core:
            for topic, entry in self._network.devices[name].running.retained.items():
                best = self._expected.get(topic)
                if best is None or best[:3] < entry[:3]:
                    self._expected[topic] = entry

    def differing(self, core: list[str]) -> list[str]:
        """Devices whose values are not those of the first."""
        first, *others = [self._network.retained(name) for name in core]
        return [name for name, held in zip(core[1:], others, strict=True) if held != first]

    def finish(self, core: list[str]) -> None:
        """Judge a core that has had its time."""
        now_ns = self._network.now_ns
        for name in self.differing(core):
            self.violated(now_ns, name, f"values differ from those of {core[0]}")
        if not self._evictions.devices.isdisjoint(core):
            return
        for name in core:
            held = dict(self._network.devices[name].running.retained.items())
            for topic, best in self._expected.items():
                entry = held.get(topic)
                if best.payload and (entry is None or entry[:3] < best[:3]):
                    self.violated(now_ns, name, f"{topic} lost its newest value {best[:3]}")
                if (
                    not best.payload
                    and entry is not None
                    and entry.payload
                    and entry[:3] < best[:3]
                ):
                    self.violated(now_ns, name, f"{topic} was deleted at {best[:3]} and is back")
