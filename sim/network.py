"""A fleet of meshes on virtual time: real cores, a heap of events, no clock and no socket.

Decides when what happens, and plays the driver of every device: after each event a device seals, sends, commits and
delivers, in that order. Each device has a `Disk`, so a restart is what it is on a real device: what was not committed
is gone. Each link is two `Path`s; a side that sees its link go down tells the other as a socket would, if the way is
free, and dials again.

Assumes nothing of the mesh but its verbs. Everything is ordered by (time, serial), so a seed tells one story.
"""

from __future__ import annotations

import heapq
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from broker.mesh.events import CloseLink, Deliver, Gap, Misbehaved, Undelivered
from broker.mesh.limits import MS
from broker.mesh.mesh import Mesh
from sim.device import NEVER_NS, Device
from sim.disk import Disk
from sim.path import Conditions, Path
from sim.randomness import stream
from sim.watcher import Death, Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker.mesh.tags import Seals

__all__ = ["WALL_MS", "Edge", "Network"]

Edge = tuple[str, str]

WALL_MS: Final = 1_700_000_000_000
"""What a right clock shows at the beginning."""
START_NS: Final = 1_000 * MS
REDIAL_MS: Final = 100
"""A dialler's first pause; real ones back off, which would only make a simulation longer."""
CHECKPOINT_MS: Final = 5_000
"""As the store's."""
EVENTS_MAX: Final = 20_000
"""In a virtual second, and so many more for each device: beyond it nothing will ever come to rest. Guess."""
EVENTS_PER_DEVICE_MAX: Final = 2_000


class Network:
    """Devices, links and virtual time.

    Args:
        names: The devices; all of them boot at once.
        edges: Who is linked with whom.
        seed: The seed of everything that is drawn.
        loss: Probability that a frame is lost on any path that has no conditions of its own.
        reorder: Whether frames overtake each other on such a path.
        latency_ms: Least and mean latency of such a path.
        incarnation_max: Devices without memory begin at an incarnation drawn up to this, as a store does.
        grain_ms: Frames arrive at multiples of it, and all that arrive at one moment are one turn of their device, as
            in a busy event loop; 0: each is a turn of its own.
        recording: Whether devices keep all that they hear, for tests that look at it.
        watchers: Who is told what happens.
        seals: Who makes and checks a device's integrity tags, by its name; None: nobody.
    """

    def __init__(
        self,
        names: Iterable[str],
        edges: Iterable[Edge],
        seed: int = 0,
        *,
        loss: float = 0.0,
        reorder: bool = False,
        latency_ms: tuple[float, float] = (1, 3),
        incarnation_max: int = 1,
        grain_ms: float = 0,
        recording: bool = True,
        watchers: Iterable[Watcher] = (),
        seals: Callable[[str], Seals] | None = None,
    ) -> None:
        self.seed = seed
        self.random = stream(seed, "network")
        self.now_ns = START_NS
        least_ms, mean_ms = latency_ms
        self.conditions = Conditions(
            least_ms, mean_ms - least_ms, loss=loss, reorder=0.5 if reorder else 0.0
        )
        self.recording = recording
        self._grain_ns = int(grain_ms * MS)
        self.watchers = list(watchers)
        self._seals = seals
        self.devices = {name: Device(name) for name in names}
        for name, device in self.devices.items():
            random = stream(seed, f"disk {name}")
            device.disk = Disk(random.randint(1, incarnation_max))
        self.edges: list[Edge] = [_edge(*edge) for edge in edges]
        self.cut: set[Edge] = set()
        """Links that cannot be dialled."""
        self.frames = 0
        self.frame_bytes = 0
        self.reach_changed_ns = self.now_ns
        """When a link last came or went."""
        self._heap: list[tuple[int, int, Callable[[Any], None], Any]] = []
        self._serial = 0
        self._sessions: dict[Edge, int] = {}
        self._second_ends_ns = 0
        self._events_left = 0
        self._timeline = blake2b(digest_size=16)
        for name in self.devices:
            self.boot(name)
        for edge in self.edges:
            self.connect(edge)

    # What is set for all paths that have no conditions of their own.

    @property
    def loss(self) -> float:
        """Probability that a frame is lost."""
        return self.conditions.loss

    @loss.setter
    def loss(self, value: float) -> None:
        self.conditions.loss = value

    # Devices.

    def boot(self, name: str) -> None:
        """Start a device from what its disk gives back."""
        device = self.devices[name]
        device.boots += 1
        device.timer_ns = NEVER_NS
        device.checkpoint_ns = self.now_ns + CHECKPOINT_MS * MS
        for watcher in self.watchers:
            watcher.booted(self.now_ns, name)
        mesh = device.mesh = Mesh(
            name,
            stream(self.seed, f"mesh {name} {device.boots}"),
            now_ns=self.now_ns,
            wall_ms=self.wall_ms(device),
            restored=device.disk.boot(),
            seals=self._seals(name) if self._seals is not None else None,
        )
        mesh.set_wall_clock(self.wall_ms(device), self.now_ns, synchronised=device.synchronised)
        self.note(f"boot {name}")
        self.turn(name)

    def wall_ms(self, device: Device) -> int:
        """What a device's wall clock shows."""
        return max(WALL_MS + self.now_ns // MS + device.wall_skew_ms, 0)

    def set_wall_clock(self, name: str, *, skew_ms: int, synchronised: bool) -> None:
        """Put a device's wall clock wrong, or right."""
        device = self.devices[name]
        device.wall_skew_ms, device.synchronised = skew_ms, synchronised
        if device.mesh is not None:
            device.mesh.set_wall_clock(self.wall_ms(device), self.now_ns, synchronised=synchronised)

    def kill(
        self, name: str, *, disk_lost: bool = False, how: Death | None = None, silent: bool = False
    ) -> None:
        """End a device. Neighbours see their sockets close, unless it is `silent`."""
        device = self.devices[name]
        how = how or (Death.DISK if disk_lost else Death.KILLED)
        for watcher in self.watchers:
            watcher.dying(name)
        device.mesh, device.doomed, device.forgetful = None, None, False
        if how is Death.DISK:
            device.disk = Disk(self.random.randrange(1, 1 << 24))
        elif how is Death.POWER:
            device.disk.cut_power()
        self.note(f"{how} {name}")
        for watcher in self.watchers:
            watcher.died(self.now_ns, name, how)
        for other, path in device.paths.items():
            was_up, path.up = path.up, False
            self.reach_changed_ns = self.now_ns
            back = self.path(other, name)
            if was_up and back.up and not silent:
                self._side_down(back)
                self._later(REDIAL_MS, self._redial, _edge(name, other))

    def restart(self, name: str) -> None:
        """Boot a device and dial its neighbours."""
        self.boot(name)
        for edge in self.edges:
            if name in edge and edge not in self.cut:
                self.connect(edge)

    def publish(self, name: str, topic: str, payload: bytes, **options: Any) -> int:
        """Publish in a turn of its own. Options are those of `Mesh.publish`."""
        clock = self.devices[name].running.publish(topic, payload, self.now_ns, **options)
        self.turn(name)
        return clock

    # Links.

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
            self._later(REDIAL_MS, self._redial, edge)
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
            self._push(self.now_ns + path.delay_ns(), self._closed, (path, session))
        self._later(REDIAL_MS, self._redial, _edge(path.source, path.target))

    def _closed(self, what: tuple[Path, int]) -> None:
        path, session = what
        back = self.path(path.target, path.source)
        if back.up and back.session == session:
            self._side_down(back)
            self._later(REDIAL_MS, self._redial, _edge(path.source, path.target))

    def _redial(self, edge: Edge) -> None:
        if edge not in self.cut:
            self.connect(edge)

    # Time.

    def note(self, text: str) -> None:
        """Put something into the timeline."""
        self._timeline.update(b"%d %s\n" % (self.now_ns, text.encode()))

    def timeline(self) -> str:
        """A hash over all that happened and when."""
        return self._timeline.copy().hexdigest()

    def at(self, at_ns: int, action: Callable[[Any], None], argument: Any = None) -> None:
        """Have something happen at a moment."""
        self._push(max(at_ns, self.now_ns), action, argument)

    def run(self, ms: float) -> None:
        """Let `ms` virtual milliseconds pass."""
        self.run_until(self.now_ns + int(ms * MS))

    def run_until(self, end_ns: int) -> None:
        """Let virtual time pass up to a moment."""
        heap = self._heap
        while heap and heap[0][0] <= end_ns:
            self.now_ns, _, action, argument = heapq.heappop(heap)
            if self.now_ns >= self._second_ends_ns:
                self._second_ends_ns = self.now_ns + 1_000 * MS
                self._events_left = EVENTS_MAX + EVENTS_PER_DEVICE_MAX * len(self.devices)
            self._events_left -= 1
            if not self._events_left:
                raise RuntimeError("the devices talk without end")
            action(argument)
        self.now_ns = end_ns

    def turn(self, name: str) -> None:
        """What a driver does at the end of a turn."""
        device = self.devices[name]
        mesh = device.running
        mesh.seal(self.now_ns)
        if mesh.stores_first:
            self._commit(device, mesh)
        for path in device.paths.values():
            if path.up:
                self._send(path, mesh)
        if device.forgetful and device.doomed is not None:
            self.kill(name, how=device.doomed, silent=True)  # what is under way arrives
            return
        self._commit(device, mesh)
        if self.now_ns >= device.checkpoint_ns:
            device.checkpoint_ns = self.now_ns + CHECKPOINT_MS * MS
            device.disk.checkpoint()
            for watcher in self.watchers:
                watcher.checkpointed(name)
        if device.doomed is not None:
            self._die_half_way(device, device.doomed)
            return
        while (event := mesh.next_event()) is not None:
            self._event(device, event)
        due_ns = mesh.next_timer()
        if due_ns < device.timer_ns:
            device.timer_ns = due_ns
            self._push(max(due_ns, self.now_ns), self._timer, (device, device.boots, due_ns))

    def _commit(self, device: Device, mesh: Mesh) -> None:
        changes = mesh.take_changes()
        if changes:
            device.disk.commit(changes)
            for watcher in self.watchers:
                watcher.committed(self.now_ns, device.name, changes)

    def _die_half_way(self, device: Device, how: Death) -> None:
        """After the commit, before anybody hears of it: the worst moment there is."""
        while (event := device.running.next_event()) is not None:
            if isinstance(event, Deliver):
                for watcher in self.watchers:
                    watcher.unheard(device.name, event)
        self.kill(device.name, how=how)

    def _turn_of(self, what: tuple[str, Mesh]) -> None:
        """A turn that an event made necessary, if the device still runs."""
        name, mesh = what
        self.devices[name].turn_ns = -1
        if self.devices[name].mesh is mesh:
            self.turn(name)

    def _event(self, device: Device, event: object) -> None:
        match event:
            case Deliver(origin, _, messages, rebuild):
                if self.recording:
                    device.heard += [
                        (origin, m.clock, m.topic, m.payload, rebuild) for m in messages
                    ]
                for watcher in self.watchers:
                    watcher.delivered(self.now_ns, device.name, event)
                self.note(f"heard {device.name} {origin} {messages[-1].clock} {rebuild}")
            case Gap():
                device.gaps.append(event)
                for watcher in self.watchers:
                    watcher.lost(self.now_ns, device.name, event)
                self.note(f"gap {device.name} {event}")
            case Undelivered():
                device.undelivered.append(event)
                self.note(f"undelivered {device.name} {event}")
            case Misbehaved():
                device.bad.append(event)
            case CloseLink(peer):
                path = self.path(device.name, peer)
                if path.up:
                    self._close(path)

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
                self._push(at_ns, self._stray, (path, path.session, frame))
            else:
                path.add(frame, at_ns)
            if conditions.duplicate and path.random.random() < conditions.duplicate:
                self._push(at_ns + path.delay_ns(), self._stray, (path, path.session, frame))
        self._schedule(path)

    def _schedule(self, path: Path) -> None:
        if path.queue and not path.head_due and not path.blocked:
            path.head_due = True
            self._push(max(path.queue[0][0], self.now_ns), self._arrive, path)

    def _arrive(self, path: Path) -> None:
        path.head_due = False
        if not path.queue or path.blocked:
            return
        due_ns = max(path.queue[0][0], path.clogged_until_ns)
        if due_ns > self.now_ns:
            path.head_due = True
            self._push(due_ns, self._arrive, path)
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
        self._timeline.update(b"%d %d\n" % (self.now_ns, crc32(frame)))
        mesh.receive(path.source, frame, self.now_ns)
        device = self.devices[path.target]
        if not self._grain_ns:
            self.turn(path.target)
        elif device.turn_ns != self.now_ns:
            device.turn_ns = self.now_ns
            self.at(self.now_ns, self._turn_of, (path.target, mesh))

    def _timer(self, what: tuple[Device, int, int]) -> None:
        device, boots, due_ns = what
        if device.mesh is None or device.boots != boots or device.timer_ns != due_ns:
            return
        device.timer_ns = NEVER_NS
        if device.mesh.next_timer() <= self.now_ns:
            device.mesh.handle_timer(self.now_ns)
        self.turn(device.name)

    def _later(self, ms: float, action: Callable[[Any], None], argument: Any) -> None:
        self._push(self.now_ns + int(ms * MS), action, argument)

    def _push(self, at_ns: int, action: Callable[[Any], None], argument: Any) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (at_ns, self._serial, action, argument))

    # Looking.

    def payloads(self, name: str, *, rebuild: bool | None = None) -> list[bytes]:
        """Payloads heard by a device, in order; only news, only memory, or all."""
        heard = self.devices[name].heard
        return [row[3] for row in heard if rebuild is None or row[4] is rebuild]

    def retained(self, name: str) -> dict[str, bytes]:
        """A device's retained values, deletions left out."""
        mesh = self.devices[name].running
        return {topic: entry.payload for topic, entry in mesh.retained.items() if entry.payload}


def _edge(a: str, b: str) -> Edge:
    return (a, b) if a < b else (b, a)
