"""Devices that pull from each other on virtual time: links with a bandwidth and a latency, no clock and no socket.

What is small goes at once, as the mesh's lanes do; chunks and notes wait their turn on a link, and, where a device has
a bandwidth of its own, behind what it sends on its other links.
"""

import heapq
from itertools import count

from agent.models.pull import Puller

MS = 1_000_000
S = 1_000_000_000
STORY_NS = 600 * S


class Device:
    def __init__(self, name, content, data, have, now_ns):
        self.name = name
        self.data = data
        self.puller = Puller(content, have, name, now_ns)
        self.alive = True
        self.uploaded = 0
        self.fetched = 0
        self.began_ns = now_ns
        self.whole_ns = now_ns if self.puller.whole else None

    def chunk(self, index):
        begin, length = self.puller.content.span(index)
        return self.data[begin : begin + length]


class Silent(Device):
    """Says that it has everything, and that it will give it, and does not."""

    def chunk(self, index):
        return None


class Liar(Device):
    def chunk(self, index):
        return bytes(len(super().chunk(index)))


class Decliner(Device):
    """Says that it has everything, and never gives anything."""


class Fleet:
    """`edges`: (device, device) -> bytes a second, or one figure for all."""

    def __init__(self, content, data, names, edges, *, bandwidth, latency_ms=1, uplink=None):
        self.content, self.data = content, data
        self.now_ns = 0
        self.edges = [frozenset(edge) for edge in edges]
        self.bandwidth = bandwidth
        self.latency_ns = int(latency_ms * MS)
        self.uplink = uplink or {}
        self._heap, self._serial, self._free_ns, self._timers = [], count(), {}, {}
        self.devices = {}
        for name in names:
            self.boot(name)

    def boot(self, name, have=0, kind=Device):
        device = self.devices[name] = kind(name, self.content, self.data, have, self.now_ns)
        for edge in self.edges:
            if name in edge:
                (other,) = edge - {name}
                if other in self.devices:
                    device.puller.link_up(other, self.now_ns)
                    self.devices[other].puller.link_up(name, self.now_ns)
                    self._act(self.devices[other])
        self._act(device)
        return device

    def kill(self, name):
        device = self.devices.pop(name)
        device.alive = False
        for edge in self.edges:
            if name in edge:
                (other,) = edge - {name}
                if other in self.devices:
                    self.devices[other].puller.link_down(name, self.now_ns)
        return device

    def everything(self):
        return (1 << self.content.count) - 1

    def run(self, until=None):
        """Until the condition holds, or every device has everything and nobody has anything to say."""
        while self._heap and self.now_ns < STORY_NS:
            if until is not None and until():
                return
            self.now_ns, _, act, arguments = heapq.heappop(self._heap)
            act(*arguments)
        assert until is None, "it never came to that"

    # Inside.

    def _at(self, at_ns, act, *arguments):
        heapq.heappush(self._heap, (at_ns, next(self._serial), act, arguments))

    def _speed(self, sender, to):
        if isinstance(self.bandwidth, dict):
            return self.bandwidth.get((sender, to), self.bandwidth["*"])
        return self.bandwidth

    def _send(self, sender, to, size_bytes, act, *arguments):
        """Small things go at once; bulk waits for its turn."""
        at_ns = self.now_ns
        if size_bytes:
            path = (sender.name, to)
            begin_ns = max(at_ns, self._free_ns.get(path, 0))
            if sender.name in self.uplink:
                begin_ns = max(begin_ns, self._free_ns.get(sender.name, 0))
                self._free_ns[sender.name] = begin_ns + size_bytes * S // self.uplink[sender.name]
            at_ns = self._free_ns[path] = begin_ns + size_bytes * S // self._speed(sender.name, to)
        target = self.devices.get(to)
        self._at(at_ns + self.latency_ns, self._deliver, target, act, arguments)

    def _deliver(self, target, act, arguments):
        if target is not None and target.alive:
            act(target, *arguments)
            self._act(target)

    def _act(self, device):
        puller = device.puller
        if device.whole_ns is None and puller.whole:
            device.whole_ns = self.now_ns
        for ask in puller.asks(self.now_ns):
            self._send(device, ask.peer, 0, self._asked, device, ask.want, puller.have)
        for peer in puller.notes(self.now_ns):
            self._send(device, peer, 64, self._noted, device.name, puller.have)
        self._arm(device)

    def _arm(self, device):
        at_ns = max(device.puller.next_ns(self.now_ns), self.now_ns + 1)
        if device.puller.whole:
            return
        timer = self._timers[device] = next(self._serial)
        self._at(at_ns, self._timer, device, timer)

    def _timer(self, device, timer):
        if device.alive and self._timers.get(device) == timer:
            self._act(device)

    def _noted(self, device, sender, have):
        device.puller.told(sender, have)

    def _asked(self, device, asker, want, have):
        device.puller.told(asker.name, have)
        device.puller.spoke(asker.name, self.now_ns)
        coming = {index for index in want if device.puller.have >> index & 1}
        if isinstance(device, Decliner):
            coming = set()
        answer = (device.name, want, device.puller.have, coming)
        self._send(device, asker.name, 0, self._answered, *answer)
        for index in sorted(coming):
            data = device.chunk(index)
            if data is not None:
                device.uploaded += 1
                self._send(
                    device,
                    asker.name,
                    len(data),
                    self._chunk,
                    device.name,
                    index,
                    device.puller.have,
                    data,
                )

    def _answered(self, device, peer, want, have, coming):
        device.puller.told(peer, have)
        device.puller.answered(peer, want, coming, self.now_ns)

    def _chunk(self, device, peer, index, have, data):
        device.puller.told(peer, have)
        device.fetched += device.puller.chunk(peer, index, data, self.now_ns)
