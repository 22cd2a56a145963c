"""What the tests of unicast share: networks in which ways are known, and one mesh with hand-made frames."""

from itertools import pairwise
from random import Random

from broker.mesh import frame
from broker.mesh.bundle import Header, Message, encode_body, encode_header
from broker.mesh.control import Hello, decode_control, encode_control
from broker.mesh.mesh import Mesh
from sim.network import Network


def row(names):
    return list(pairwise(names))


def ring(names):
    return [*row(names), (names[-1], names[0])]


def acquainted(names, edges, **options):
    """A network in which everyone has said something, so that ways are known."""
    network = Network(names, edges, **options)
    network.run(2_000)
    speak(network)
    return network


def speak(network, ms=200):
    for name, device in network.devices.items():
        if device.mesh:
            network.publish(name, f"here/{name}", b"", priority=3)
    network.run(ms)


def call(network, source, to, payload, *, deadline_ms=10_000, **options):
    return network.publish(source, "t", payload, qos=1, lifetime_ms=deadline_ms, to=to, **options)


def heard(network, name):
    return [payload for _, _, topic, payload, _ in network.devices[name].heard if topic == "t"]


def counter(network, name, what):
    return network.devices[name].mesh.statistics().counters.get(what, 0)


def reasons(network, name):
    return [event.reason for event in network.devices[name].undelivered]


def in_flight(network, name):
    return network.devices[name].mesh.statistics().flights


def lone(name="a"):
    return Mesh(name, Random(0), now_ns=0, wall_ms=1_700_000_000_000)


def linked(*peers):
    mesh = lone()
    for peer in peers:
        mesh.link_up(peer, 0)
        hello = Hello(frame.PROTOCOL, peer, 1, 0, 1, heard=True)
        mesh.receive(peer, frame.encode_frame([encode_control(hello)]), 0)
        mesh.frames_to_send(peer, 1 << 20, 0)
    return mesh


def unit(origin, to, number, payload=b"x", *, retained=False, lifetime_ms=1_000, hops=0, flags=2):
    body, compressed = encode_body([Message(7, flags | retained, lifetime_ms, 0, "t", payload)])
    header = Header(
        origin, 5, 1, number, 1, 7, lifetime_ms, len(body), to=to, compressed=compressed
    )
    remaining = lifetime_ms or frame.NEVER
    return frame.encode_bundle(encode_header(header), body, remaining, hops, frame.UNICAST)


def damaged(record):
    """The body is no array any more, under a header that is whole."""
    return b"\xc1".join(record.rsplit(b"\x91", 1))


def tell(mesh, peer, *told, now_ns=0):
    mesh.receive(peer, frame.encode_frame(list(told)), now_ns)


def said(mesh, peer, now_ns=0):
    return [
        decode_control(kind, body)
        for data in mesh.frames_to_send(peer, 1 << 22, now_ns)
        for kind, body in frame.decode_frame(data)
        if kind in (frame.ACK, frame.UNREACHABLE)
    ]


def events(mesh, kind):
    found = []
    while (event := mesh.next_event()) is not None:
        if isinstance(event, kind):
            found.append(event)
    return found
