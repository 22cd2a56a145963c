"""Links between simulated devices: sessions that come and go, and frames on their way.

Decides when a session begins and ends, and what becomes of each frame. A link is two `Path`s; a side that sees its link
go down tells the other as a socket would, if the way is free, and dials again. That a device has a turn is known here,
and not what it does in it.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Final
from zlib import crc32

from broker.mesh.limits import MS
from sim.path import Path
from sim.randomness import stream
from sim.virtual_time import VirtualTime

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.mesh.mesh import Mesh
    from sim.device import Device
    from sim.path import Conditions

__all__ = ["Edge", "Links"]

Edge = tuple[str, str]

REDIAL_MS: Final = 100
"""A dialler's first pause; real ones back off, which would only make a simulation longer."""
EVENTS_MAX: Final = 20_000
"""In a virtual second, and so many more for each device: beyond it nothing will ever come to rest. Guess."""
EVENTS_PER_DEVICE_MAX: Final = 2_000


class Links(VirtualTime, abc.ABC):
    """All links of one simulation.

    Args:
        devices: By name.
        edges: Who is linked with whom, once `connect` is called.
        seed: The seed of everything that is drawn.
        conditions: Of all paths that have none of their own.
        grain_ms: Frames arrive at multiples of it; 0: whenever they do.
    """

    def __init__(
        self,
        devices: dict[str, Device],
        edges: Iterable[Edge],
        seed: int,
        conditions: Conditions,
        grain_ms: float,
    ) -> None:
        super().__init__(EVENTS_MAX + EVENTS_PER_DEVICE_MAX * len(devices))
        self.devices = devices
        self.edges: list[Edge] = [_edge(*edge) for edge in edges]
        self.seed = seed
        self.conditions = conditions
        self._grain_ns = int(grain_ms * MS)
        self.cut: set[Edge] = set()
        """Links that cannot be dialled."""
        self.frames = 0
        self.frame_bytes = 0
        self.reach_changed_ns = self.now_ns
        """When a link last came or went."""
        self._sessions: dict[Edge, int] = {}

    @abc.abstractmethod
    def turn(self, name: str) -> None:
        """Have a device end a turn: something was changed."""

    def _turn_of(self, what: tuple[str, Mesh]) -> None:
        """A turn that an event made necessary, if the device still runs."""
        name, mesh = what
        self.devices[name].turn_ns = -1
        if self.devices[name].mesh is mesh:
            self.turn(name)

    # What is set for all paths that have no conditions of their own.

    @property
    def loss(self) -> float:
        """Probability that a frame is lost."""
        return self.conditions.loss

    @loss.setter
    def loss(self, value: float) -> None:
        self.conditions.loss = value

    # Sessions.

    @property
    def up(self) -> list[Edge]:
        """Links that both sides hold for up, in order."""
        return [edge for edge in sorted(self._sessions) if self._is_up(edge)]

    def connect(self, edge: Edge) -> None:
        """Begin a session, if both devices run and there is none."""
        a, b = edge
        if self._is_up(edge) or not (self.devices[a].mesh and self.devices[b].mesh):
            return
        paths = self.path(a, b), self.path(b, a)
        if any(path.blocked for path in paths):
            self.after(REDIAL_MS, self._redial, edge)
            return
        session = self._sessions[edge] = self._sessions.get(edge, 0) + 1
        for path in paths:
            path.open(session)
            self.devices[path.source].running.link_up(path.target, self.now_ns)
        self.reach_changed_ns = self.now_ns
        self.note(f"up {a} {b}")
        self.turn(a)
        self.turn(b)

    def disconnect(self, edge: Edge) -> None:
        """End a session; both sides know at once."""
        for path in (self.path(*edge), self.path(*edge[::-1])):
            self._side_down(path)

    def partition(self, edges: Iterable[Edge]) -> None:
        """Cut links: their sessions end, and they cannot be dialled."""
        for edge in edges:
            self.cut.add(edge)
            self.disconnect(edge)

    def heal(self) -> None:
        """Mend all links that were cut."""
        cut, self.cut = self.cut, set()
        for edge in sorted(cut):
            self.connect(edge)

    def block(self, source: str, target: str, *, blocked: bool) -> None:
        """Let nothing arrive from `source` at `target`, and nobody knows; or let it arrive again."""
        path = self.path(source, target)
        path.blocked = blocked
        self.note(f"blocked {source} {target} {blocked}")
        if not blocked:
            self._schedule(path)

    def clog(self, source: str, target: str, until_ns: int) -> None:
        """Let nothing arrive before `until_ns`."""
        self.path(source, target).clogged_until_ns = until_ns

    def trickle(self, source: str, target: str, until_ns: int, pause_ns: int) -> None:
        """Let a frame arrive only after this pause, until then."""
        path = self.path(source, target)
        path.trickle_until_ns, path.trickle_ns = until_ns, pause_ns

    def path(self, source: str, target: str) -> Path:
        """One direction of a link."""
        paths = self.devices[source].paths
        path = paths.get(target)
        if path is None:
            random = stream(self.seed, f"path {source} {target}")
            path = paths[target] = Path(source, target, self.conditions, random)
        return path

    def _is_up(self, edge: Edge) -> bool:
        one, other = self.path(*edge), self.path(*edge[::-1])
        return one.up and other.up and one.session == other.session

    def _side_down(self, path: Path) -> None:
        if path.up:
            path.up = False
            self.reach_changed_ns = self.now_ns
            path.queue.clear()
            path.under_way_bytes = 0
            mesh = self.devices[path.source].mesh
            if mesh is not None:
                mesh.link_down(path.target, self.now_ns)
                self.at(self.now_ns, self._turn_of, (path.source, mesh))
            self.note(f"down {path.source} {path.target}")

    def _close(self, path: Path) -> None:
        """A device closes its side; the other hears of it if the way is free."""
        session = path.session
        self._side_down(path)
        if not path.blocked:
            self.at(self.now_ns + path.delay_ns(), self._closed, (path, session))
        self.after(REDIAL_MS, self._redial, _edge(path.source, path.target))

    def _closed(self, what: tuple[Path, int]) -> None:
        path, session = what
        back = self.path(path.target, path.source)
        if back.up and back.session == session:
            self._side_down(back)
            self.after(REDIAL_MS, self._redial, _edge(path.source, path.target))

    def _redial(self, edge: Edge) -> None:
        if edge not in self.cut:
            self.connect(edge)

    def _device_gone(self, device: Device, *, silent: bool) -> None:
        """A device has ended. Its neighbours see their sockets close, unless it was `silent`."""
        name = device.name
        for other, path in device.paths.items():
            was_up, path.up = path.up, False
            self.reach_changed_ns = self.now_ns
            back = self.path(other, name)
            if was_up and back.up and not silent:
                self._side_down(back)
                self.after(REDIAL_MS, self._redial, _edge(name, other))

    # Frames.

    def _send(self, path: Path, mesh: Mesh) -> None:
        room = path.room_bytes()
        if room <= 0:
            path.starved = True
        frames = mesh.frames_to_send(path.target, max(room, 0), self.now_ns)
        if not frames:
            return
        conditions = path.conditions
        for frame in frames:
            self.frames += 1
            self.frame_bytes += len(frame)
            at_ns = self.now_ns + path.delay_ns()
            if self._grain_ns:
                at_ns += -at_ns % self._grain_ns
            if conditions.loss and path.random.random() < conditions.loss:
                continue
            if conditions.reorder and path.random.random() < conditions.reorder:
                self.at(at_ns, self._stray, (path, path.session, frame))
            else:
                path.add(frame, at_ns)
            if conditions.duplicate and path.random.random() < conditions.duplicate:
                self.at(at_ns + path.delay_ns(), self._stray, (path, path.session, frame))
        self._schedule(path)

    def _schedule(self, path: Path) -> None:
        if path.queue and not path.head_due and not path.blocked:
            path.head_due = True
            self.at(path.queue[0][0], self._arrive, path)

    def _arrive(self, path: Path) -> None:
        path.head_due = False
        if not path.queue or path.blocked:
            return
        due_ns = max(path.queue[0][0], path.clogged_until_ns)
        if due_ns > self.now_ns:
            path.head_due = True
            self.at(due_ns, self._arrive, path)
            return
        frame = path.take(self.now_ns)
        self._schedule(path)
        self._receive(path, frame)
        if path.starved and path.up and self.devices[path.source].mesh is not None:
            path.starved = False
            self.turn(path.source)

    def _stray(self, what: tuple[Path, int, bytes]) -> None:
        path, session, frame = what
        if session == path.session and not path.blocked:
            self._receive(path, frame)

    def _receive(self, path: Path, frame: bytes) -> None:
        back = self.path(path.target, path.source)
        mesh = self.devices[path.target].mesh
        if mesh is None or not back.up or back.session != path.session:
            return
        self.note_bytes(b"%d" % crc32(frame))
        mesh.receive(path.source, frame, self.now_ns)
        device = self.devices[path.target]
        if not self._grain_ns:
            self.turn(path.target)
        elif device.turn_ns != self.now_ns:
            device.turn_ns = self.now_ns
            self.at(self.now_ns, self._turn_of, (path.target, mesh))


def _edge(a: str, b: str) -> Edge:
    return (a, b) if a < b else (b, a)
