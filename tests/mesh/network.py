"""A fleet of meshes on virtual time: real cores, a heap of deliveries, no clock and no socket.

Each device has a `Disk` that keeps what `take_changes` gave it, so a restart is what it is on a real device: whatever
was not committed is gone. Frames of one link arrive in order unless `reorder` says otherwise; `loss` drops them.
"""

import heapq
from collections import defaultdict
from random import Random

from broker.mesh.events import CloseLink, Deliver, Gap, Misbehaved, OwnBundle, Restored
from broker.mesh.limits import MS
from broker.mesh.mesh import Mesh

WALL_MS = 1_700_000_000_000


class Disk:
    """What a store would keep, and nothing else."""

    def __init__(self, first_incarnation=1):
        self.first_boot = True
        self.incarnation = first_incarnation - 1
        self.bound = 0
        self.own: dict[tuple[int, tuple[int, int]], OwnBundle] = {}
        self.passed = {}
        self.retained = {}

    def commit(self, changes):
        if changes.incarnation is not None:
            self.incarnation = changes.incarnation
        if changes.clock_bound is not None:
            self.bound = changes.clock_bound
        if changes.own_replaced:
            self.own.clear()
        for own in changes.own:
            self.own[own.lane, own.position] = own
        for lane, upto in changes.own_held.items():
            self.own = {k: v for k, v in self.own.items() if k[0] != lane or k[1] > upto}
        self.passed.update(changes.passed)
        for topic, entry in changes.retained.items():
            if entry is None:
                self.retained.pop(topic, None)
            else:
                self.retained[topic] = entry

    def boot(self):
        first, self.first_boot = self.first_boot, False
        self.incarnation += 1
        own = [self.own[key] for key in sorted(self.own)]
        return Restored(
            self.incarnation, self.bound, own, dict(self.passed), dict(self.retained), first
        )


class Device:
    def __init__(self, name):
        self.name = name
        self.disk = Disk()
        self.mesh = None
        self.heard: list[tuple[str, int, str, bytes, bool]] = []
        self.gaps = []
        self.bad = []
        self.wall_skew_ms = 0
        self.synchronised = True


class Network:
    """Devices, links and virtual time."""

    def __init__(self, names, edges, seed=0, *, loss=0.0, reorder=False, latency_ms=(1, 5)):
        self.random = Random(seed)
        self.now_ns = 1_000 * MS
        self.loss, self.reorder, self.latency_ms = loss, reorder, latency_ms
        self.devices = {name: Device(name) for name in names}
        self.edges = [tuple(sorted(edge)) for edge in edges]
        self.up: set[tuple[str, str]] = set()
        self.cut: set[tuple[str, str]] = set()
        self._heap = []
        self._serial = 0
        self._session = defaultdict(int)
        self._last_arrival = defaultdict(int)
        for name in names:
            self.boot(name)
        for edge in self.edges:
            self.connect(edge)

    # Devices.

    def boot(self, name):
        device = self.devices[name]
        device.mesh = Mesh(
            name,
            Random(f"{name}{self.now_ns}"),
            now_ns=self.now_ns,
            wall_ms=self.wall_ms(device),
            restored=device.disk.boot(),
        )
        device.mesh.set_wall_clock(
            self.wall_ms(device), self.now_ns, synchronised=device.synchronised
        )
        self.turn(name)

    def wall_ms(self, device):
        return WALL_MS + self.now_ns // MS + device.wall_skew_ms

    def kill(self, name, *, disk_lost=False):
        self.devices[name].mesh = None
        if disk_lost:
            self.devices[name].disk = Disk(self.random.randrange(1, 1 << 24))
        for edge in [e for e in self.up if name in e]:
            self.disconnect(edge)

    def restart(self, name):
        self.boot(name)
        for edge in self.edges:
            if name in edge and edge not in self.cut:
                self.connect(edge)

    def publish(self, name, topic, payload, **options):
        clock = self.devices[name].mesh.publish(topic, payload, self.now_ns, **options)
        self.turn(name)
        return clock

    # Links.

    def connect(self, edge):
        a, b = edge
        if edge in self.up or not (self.devices[a].mesh and self.devices[b].mesh):
            return
        self.up.add(edge)
        self._session[edge] += 1
        for one, other in (edge, edge[::-1]):
            self.devices[one].mesh.link_up(other, self.now_ns)
            self._last_arrival[one, other] = 0
        self.turn(a)
        self.turn(b)

    def disconnect(self, edge):
        self.up.discard(edge)
        for one, other in (edge, edge[::-1]):
            if self.devices[one].mesh:
                self.devices[one].mesh.link_down(other, self.now_ns)

    def partition(self, edges):
        for edge in edges:
            self.cut.add(edge)
            if edge in self.up:
                self.disconnect(edge)

    def heal(self):
        cut, self.cut = self.cut, set()
        for edge in sorted(cut):
            self.connect(edge)

    # Time.

    def turn(self, name):
        """What a driver does at the end of a turn."""
        device = self.devices[name]
        mesh = device.mesh
        mesh.seal(self.now_ns)
        device.disk.commit(mesh.take_changes())
        while (event := mesh.next_event()) is not None:
            match event:
                case Deliver(origin, _, messages, rebuild):
                    device.heard += [
                        (origin, m.clock, m.topic, m.payload, rebuild) for m in messages
                    ]
                case Gap():
                    device.gaps.append(event)
                case Misbehaved():
                    device.bad.append(event)
                case CloseLink(peer):
                    edge = tuple(sorted((name, peer)))
                    if edge in self.up:
                        self.disconnect(edge)
                        self._push(self.now_ns + 50 * MS, "connect", edge)
        for edge in [e for e in sorted(self.up) if name in e]:
            other = edge[0] if edge[1] == name else edge[1]
            for frame in mesh.frames_to_send(other, 1 << 20, self.now_ns):
                self._send(edge, name, other, frame)

    def _send(self, edge, source, target, frame):
        latency_ms = self.random.uniform(*self.latency_ms)
        lost = self.random.random() < self.loss
        at_ns = self.now_ns + int(latency_ms * MS)
        if not self.reorder:
            at_ns = max(at_ns, self._last_arrival[source, target])
            self._last_arrival[source, target] = at_ns
        if not lost:
            self._push(at_ns, "frame", (edge, self._session[edge], source, target, frame))

    def _push(self, at_ns, kind, what):
        self._serial += 1
        heapq.heappush(self._heap, (at_ns, self._serial, kind, what))

    def run(self, ms):
        """Let `ms` virtual milliseconds pass."""
        end_ns = self.now_ns + int(ms * MS)
        while True:
            timers = [
                (device.mesh.next_timer(), name)
                for name, device in sorted(self.devices.items())
                if device.mesh
            ]
            timer = min(timers, default=(end_ns + 1, ""))
            arrival = self._heap[0][0] if self._heap else end_ns + 1
            if min(timer[0], arrival) > end_ns:
                break
            if arrival <= timer[0]:
                self.now_ns, _, kind, what = heapq.heappop(self._heap)
                self._happen(kind, what)
            else:
                self.now_ns = max(self.now_ns, timer[0])
                self.devices[timer[1]].mesh.handle_timer(self.now_ns)
                self.turn(timer[1])
        self.now_ns = end_ns

    def _happen(self, kind, what):
        if kind == "connect":
            if what not in self.cut:
                self.connect(what)
            return
        edge, session, source, target, frame = what
        if edge not in self.up or session != self._session[edge]:
            return
        self.devices[target].mesh.receive(source, frame, self.now_ns)
        self.turn(target)

    # Looking.

    def payloads(self, name, *, rebuild=None):
        """Payloads heard by a device, in order; only news, only memory, or all."""
        return [
            payload
            for _, _, _, payload, was_rebuild in self.devices[name].heard
            if rebuild is None or was_rebuild is rebuild
        ]

    def retained(self, name):
        mesh = self.devices[name].mesh
        return {t: e.payload for t, e in mesh.retained.items() if e.payload}
