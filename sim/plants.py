"""Known bugs, planted on purpose: each must be caught by a checker, or the checkers are worth nothing.

Each plant breaks one thing that the promises stand on, by putting another function into the place of one of the
mesh's for the length of a run. What stands here is what a plausible mistake would look like.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from broker.mesh import log, outbox
from broker.mesh.dialogue import Dialogue
from broker.mesh.holes import Search
from broker.mesh.intake import Intake
from broker.mesh.log import Log
from broker.mesh.mesh import Mesh
from broker.mesh.repair import Repair
from broker.mesh.retained import RetainedMap
from broker.mesh.streams import KeptStream
from broker.mesh.unicast import Unicast
from broker.mesh.vector import Vector
from broker.mesh.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from broker.mesh.events import Changes
    from broker.mesh.log import Stored
    from broker.mesh.retained import Entry

__all__ = ["PLANTS", "Plant", "planted"]


class Plant(NamedTuple):
    """One bug."""

    says: str
    faults: str
    """Which faults bring it to light."""
    owner: Any
    name: str
    make: Callable[[Any], Any]
    """From what stands there to what takes its place."""
    rate: float = 30.0
    """Publishes a second that bring it to light."""


def _memory_as_news(original: Any) -> Any:
    def bug(self: Intake, stored: Stored, now_ns: int, *, rebuild: bool = False) -> None:
        del rebuild
        original(self, stored, now_ns)

    return bug


def _forgotten_clear(original: Any) -> Any:
    def bug(self: RetainedMap, topic: str, entry: Entry) -> bool:
        taken: bool = original(self, topic, entry)
        if taken and not entry.payload:
            self.drop(topic)
        return taken

    return bug


def _older_wins(original: Any) -> Any:
    def bug(self: RetainedMap, topic: str, entry: Entry) -> bool:
        present = self.get(topic)
        if present is not None and entry[:3] < present[:3]:
            self.drop(topic)
        return bool(original(self, topic, entry))

    return bug


def _positions_unstored(original: Any) -> Any:
    def bug(self: Mesh) -> Changes:
        changes: Changes = original(self)
        changes.passed = {}
        return changes

    return bug


def _own_forgotten(original: Any) -> Any:
    def bug(self: Mesh) -> Changes:
        changes: Changes = original(self)
        for own in changes.own:
            changes.own_held[own.lane] = own.position
        return changes

    return bug


def _out_of_order(original: Any) -> Any:
    def bug(self: KeptStream) -> list[Stored]:
        passed: list[Stored] = original(self)
        return passed + [self._take(position) for position in sorted(self.waiting)]

    return bug


def _raises(original: Any) -> Any:
    def bug(self: Repair, *arguments: Any, **options: Any) -> Any:
        if len(self._streams) > 20:
            raise KeyError("a stream that is not there")
        return original(self, *arguments, **options)

    return bug


def _gives(make: Callable[[], Any]) -> Callable[[Any], Any]:
    return lambda _original: lambda *_arguments, **_options: make()


def _nothing() -> None:
    """What a step gives that does nothing."""


def _number(value: int) -> Callable[[Any], int]:
    return lambda _: value


PLANTS: Final = {
    "memory-as-news": Plant(
        "what comes back after a boot is handed on as news",
        "restart", Intake, "_pass", _memory_as_news,
    ),
    "positions-unstored": Plant(
        "what was delivered is not stored, so a boot hears it again",
        "restart", Mesh, "take_changes", _positions_unstored,
    ),
    "own-forgotten": Plant(
        "own bundles leave the disk before a neighbour holds them",
        "restart,partition", Mesh, "take_changes", _own_forgotten, 200.0,
    ),
    "digest-unsent": Plant(
        "digests are never sent, so what a link lost is never asked for",
        "partition", Vector, "digests", _gives(list),
    ),
    "deaf-to-wants": Plant(
        "what a neighbour asks for is not looked up",
        "partition,hub", Log, "between", _gives(list),
    ),
    "hasty-gap": Plant(
        "a hole is given up before anybody was asked",
        "hub", Search, "able", _gives(list),
    ),
    "asks-nobody": Plant(
        "a hole is seen, and nobody is asked for what would fill it",
        "partition", Repair, "_ask", _gives(_nothing),
    ),
    "out-of-order": Plant(
        "what waits behind a hole is delivered before it",
        "hub", KeptStream, "advance", _out_of_order,
    ),
    "sequence-reused": Plant(
        "a device that lost its disk does not go above the incarnation that neighbours know",
        "restart", Dialogue, "_raise_incarnation", _gives(_nothing),
    ),
    "forgotten-clear": Plant(
        "a deletion leaves nothing behind that an older value could lose against",
        "partition,latency", RetainedMap, "merge", _forgotten_clear,
    ),
    "older-wins": Plant(
        "whatever comes last is the retained value",
        "latency", RetainedMap, "merge", _older_wins,
    ),
    "boundless-queue": Plant(
        "the queue to a neighbour that does not read grows without end",
        "tight,clog,burst", outbox, "OUTBOX_BUNDLES_MAX", _number(1 << 30),
    ),
    "boundless-log": Plant(
        "the log never lets go of anything",
        "tight,burst", log, "LOG_BUNDLES_MAX", _number(1 << 30),
    ),
    "copies-untold": Plant(
        "a copy of a call is not told from the call",
        "hub", Unicast, "_window", _gives(Window),
    ),
    "raises": Plant(
        "a digest of a stream that is not known raises",
        "latency", Repair, "note_behind", _raises,
    ),
}  # fmt: skip


@contextmanager
def planted(plant: Plant | None) -> Iterator[None]:
    """Run with a bug, or with none."""
    with ExitStack() as stack:
        if plant is not None:
            original = getattr(plant.owner, plant.name)
            stack.callback(setattr, plant.owner, plant.name, original)
            setattr(plant.owner, plant.name, plant.make(original))
        yield
