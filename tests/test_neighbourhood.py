"""Real devices that find each other, by mDNS on loopback and by seeds, and keep one graph."""

import asyncio
import contextlib
import socket
import uuid

import pytest

from agent.config import BrokerConfig, Config, DiscoveryConfig, NeighbourConfig, TopologyConfig
from agent.device import Device
from tests.node.fleet import established
from tests.waiting import until

pytestmark = pytest.mark.timeout(120)

GROUP = ("224.0.0.251", 5353)


def multicast_on_loopback():
    """Whether a datagram to the group comes back on 127.0.0.1."""
    here = socket.inet_aton("127.0.0.1")
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in "ab"
        ]
        listener, sender = sockets
        try:
            listener.bind(("", 0))
            member = socket.inet_aton(GROUP[0]) + here
            listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)
            listener.settimeout(2)
            sender.sendto(b"x", (GROUP[0], listener.getsockname()[1]))
            return listener.recv(10) == b"x"
        except OSError:
            return False


needs_multicast = pytest.mark.skipif(
    not multicast_on_loopback(), reason="no multicast on loopback here"
)


def config(directory, name, *, site="town", kind=None, neighbours=(), seeds=(), mdns=False):
    return Config(
        device=name,
        site=site,
        state=str(directory / f"{site}-{name}"),
        broker=BrokerConfig(port=0),
        topology=TopologyConfig(kind=kind),
        discovery=DiscoveryConfig(mdns=mdns, seeds=tuple(seeds)),
        neighbour=tuple(
            NeighbourConfig(name=n.node.device, host="127.0.0.1", port=n.node.port)
            for n in neighbours
        ),
    )


@contextlib.asynccontextmanager
async def running(configs):
    devices = []
    try:
        for each in configs:
            device = Device(each)
            await device.start()
            devices.append(device)
        yield devices
    finally:
        await asyncio.gather(*(device.stop() for device in devices))


def links(devices):
    return {tuple(sorted((d.node.device, peer))) for d in devices for peer in established(d.node)}


def ring(names):
    names = sorted(names)
    return {tuple(sorted(pair)) for pair in zip(names, [*names[1:], names[0]], strict=True)}


def whole(devices):
    parts = {d.node.device: {d.node.device} for d in devices}
    for a, b in links(devices):
        if a in parts and b in parts:
            union = parts[a] | parts[b]
            parts |= dict.fromkeys(union, union)
    return all(len(part) == len(devices) for part in parts.values())


def address(device):
    return f"127.0.0.1:{device.node.port}"


@needs_multicast
def test_five_devices_find_each_other_by_mdns_and_no_other_site(tmp_path):
    async def story():
        site = f"town-{uuid.uuid4().hex[:12]}"  # others may test on this loopback at the same time
        one, *four = (config(tmp_path, n, site=site, kind="ring", mdns=True) for n in "cabde")
        other = config(tmp_path, "f", site=f"{site}-x", kind="ring", mdns=True)
        async with running([*four, other]) as (*devices, foreign):
            async with running([one]) as [leaving]:
                everybody = [*devices, leaving]
                await until(lambda: links(everybody) >= ring("abcde"), "a ring")
                assert established(foreign.node) == set()
                report = devices[0].report()
                assert report["discovery"]["mdns"] == "on"
                assert report["known"].keys() == set("bcde")
                assert {known["from"] for known in report["known"].values()} == {"mdns"}
            await until(lambda: links(devices) >= ring("abde"), "a ring without it")
            await until(lambda: "c" not in devices[0].report()["known"], "its goodbye is heard")

    asyncio.run(story())


def test_devices_that_know_a_seed_only_are_one_graph(tmp_path):
    async def story():
        async with running([config(tmp_path, "c", kind="ring")]) as [seed]:
            others = [config(tmp_path, name, seeds=[address(seed)]) for name in "abde"]
            async with running(others) as rest:
                devices = [seed, *rest]
                await until(lambda: whole(devices), "one graph")
                report = rest[0].report()
                assert report["known"]["c"]["from"] == "seed"
                assert report["discovery"]["seeds"] == {address(seed): "c"}
                rest[0].node.publish_nowait("t", b"x", qos=1, retained=True)
                await until(lambda: all(d.node.retained_matching("t") for d in devices), "news")

    asyncio.run(story())


def test_a_seed_that_is_itself_of_another_site_or_not_there_is_told(tmp_path):
    async def story():
        async with running([config(tmp_path, "x", site="elsewhere")]) as [foreign]:
            seeds = [address(foreign), "127.0.0.1:9"]
            async with running([config(tmp_path, "a", seeds=seeds)]) as [device]:
                heard = device._neighbourhood._seeds
                await until(lambda: len(heard) == 2, "answers")
                said = device.report()["discovery"]["seeds"]
                assert said[address(foreign)] == "x is of site elsewhere"
                assert "refused" in said["127.0.0.1:9"]
                assert device.report()["known"] == {}
                assert established(device.node) == established(foreign.node) == set()

    asyncio.run(story())


def test_a_ring_of_those_that_are_named(tmp_path):
    async def story():
        async with running([config(tmp_path, name) for name in "bcd"]) as others:
            mine = config(tmp_path, "a", kind="ring", neighbours=others)
            async with running([mine]) as [device]:
                await until(lambda: established(device.node) == {"b", "d"}, "the two beside it")
                assert device.report()["topology"] == {"kind": "ring"}
                assert not device.report()["known"]["c"]["dialled"]

    asyncio.run(story())


def test_the_next_one_takes_the_place_of_one_that_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setattr("broker.neighbourhood.AWAY_S", 0.3)

    async def story():
        async with running([config(tmp_path, name) for name in "bcdef"]) as others:
            mine = config(tmp_path, "a", kind="ring", neighbours=others)
            async with running([mine]) as [device]:
                await until(lambda: established(device.node) == {"b", "f"}, "the two beside it")
                device.node.radio.silence({"b"})
                await until(lambda: established(device.node) == {"c", "f"}, "the next one")
                device.node.radio.restore()
                await until(lambda: established(device.node) == {"b", "c", "f"}, "and the first")

    asyncio.run(story())


def test_round_trips_of_those_without_a_link_are_measured(tmp_path):
    async def story():
        async with running([config(tmp_path, name) for name in "bcdefghij"]) as others:
            mine = config(tmp_path, "a", kind="nearest", neighbours=others)
            async with running([mine]) as [device]:
                await until(
                    lambda: all(k["rtt_ms"] for k in device.report()["known"].values()),
                    "every round trip",
                )
                await until(lambda: 5 <= len(established(device.node)) < 9, "links to some")

    asyncio.run(story())
