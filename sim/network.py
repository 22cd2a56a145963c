"""A fleet of meshes on virtual time: real cores, no clock and no socket.

Plays the driver of every device: after each event a device seals, sends, commits and delivers, in that order. Each
device has a `Disk`, so a restart is what it is on a real device: what was not committed is gone. What becomes of links
and frames stands in `links.py`.

Assumes nothing of the mesh but its verbs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from broker.mesh.events import CloseLink, Deliver, Gap, Misbehaved, Undelivered
from broker.mesh.limits import MS
from broker.mesh.mesh import Mesh
from sim.device import NEVER_NS, Device
from sim.disk import Disk
from sim.links import Links
from sim.path import Conditions
from sim.randomness import stream
from sim.watcher import Death, Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker.mesh.tags import Seals
    from sim.links import Edge

__all__ = ["WALL_MS", "Network"]

WALL_MS: Final = 1_700_000_000_000
"""What a right clock shows at the beginning."""
CHECKPOINT_MS: Final = 5_000
"""As the store's."""


class Network(Links):
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
        least_ms, mean_ms = latency_ms
        conditions = Conditions(
            least_ms, mean_ms - least_ms, loss=loss, reorder=0.5 if reorder else 0.0
        )
        devices = {name: Device(name) for name in names}
        super().__init__(devices, edges, seed, conditions, grain_ms)
        self.random = stream(seed, "network")
        self.recording = recording
        self.watchers = list(watchers)
        self._seals = seals
        for name, device in self.devices.items():
            random = stream(seed, f"disk {name}")
            device.disk = Disk(random.randint(1, incarnation_max))
        for name in self.devices:
            self.boot(name)
        for edge in self.edges:
            self.connect(edge)

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
        self._device_gone(device, silent=silent)

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

    # Turns.

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
            self.at(due_ns, self._timer, (device, device.boots, due_ns))

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

    def _timer(self, what: tuple[Device, int, int]) -> None:
        device, boots, due_ns = what
        if device.mesh is None or device.boots != boots or device.timer_ns != due_ns:
            return
        device.timer_ns = NEVER_NS
        if device.mesh.next_timer() <= self.now_ns:
            device.mesh.handle_timer(self.now_ns)
        self.turn(device.name)

    # Looking.

    def payloads(self, name: str, *, rebuild: bool | None = None) -> list[bytes]:
        """Payloads heard by a device, in order; only news, only memory, or all."""
        heard = self.devices[name].heard
        return [row[3] for row in heard if rebuild is None or row[4] is rebuild]

    def retained(self, name: str) -> dict[str, bytes]:
        """A device's retained values, deletions left out."""
        mesh = self.devices[name].running
        return {topic: entry.payload for topic, entry in mesh.retained.items() if entry.payload}
