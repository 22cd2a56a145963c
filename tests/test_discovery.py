"""What announcements are believed."""

import asyncio

import pytest
from zeroconf import ServiceStateChange

from broker import discovery
from broker.discovery import RESOLVING_MAX, SERVICE_TYPE, Mdns, Own, pick_address, read_announcement
from broker.link import Neighbour
from broker.mesh.frame import PROTOCOL

OWN = Own("a", "town", 7, "127.0.0.1", 1883)
GOOD = {"site": "town", "device": "b", "protocol": str(PROTOCOL), "incarnation": "3"}


def read(changes=(), addresses=("127.0.0.1",), port=1884):
    return read_announcement(GOOD | dict(changes), list(addresses), port, OWN, ["127.0.0.1"])


def test_a_device_of_the_site_is_read():
    assert read() == Neighbour("b", "127.0.0.1", 1884)


@pytest.mark.parametrize("changes", [{"site": "elsewhere"}, {"device": "a"}])
def test_others_and_itself_are_passed_over(changes):
    assert read(changes) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"site": None},
        {"site": ""},
        {"device": None},
        {"device": "B b"},
        {"device": "b" * 33},
        {"device": "../b"},
        {"protocol": str(PROTOCOL + 1)},
        {"protocol": None},
    ],
)
def test_what_is_malformed_is_said_so(changes):
    with pytest.raises(ValueError, match="it"):
        read(changes)


@pytest.mark.parametrize(("addresses", "port"), [((), 1884), (("127.0.0.1",), 0), ((), None)])
def test_one_without_a_place_is_malformed(addresses, port):
    with pytest.raises(ValueError, match="no address or no port"):
        read(addresses=addresses, port=port)


def test_the_address_on_the_same_network_is_taken():
    own = ["192.168.1.5", "172.17.0.1"]
    assert pick_address(["172.17.0.1", "10.0.0.7", "192.168.1.9"], own) == "192.168.1.9"
    assert pick_address(["10.0.0.7"], own) == "10.0.0.7"
    assert pick_address(["172.17.0.1"], own) == "172.17.0.1", "on this very machine"
    assert pick_address(["10.0.0.7"], []) == "10.0.0.7"


def test_a_flood_of_announcements_without_an_address_is_bounded(monkeypatch):
    waiting = []

    class Info:
        def __init__(self, service_type, name):
            self.name = name

        def load_from_cache(self, zeroconf):
            return False

        async def async_request(self, zeroconf, timeout_ms):
            waiting.append(self.name)
            await asyncio.sleep(3600)

    monkeypatch.setattr(discovery, "AsyncServiceInfo", Info)

    async def story():
        found = []
        mdns = Mdns(OWN, found.append, found.append)
        for number in range(1000):
            name = f"x{number}.{SERVICE_TYPE}"
            mdns._service_changed(None, SERVICE_TYPE, name, ServiceStateChange.Added)
        await asyncio.sleep(0)
        assert len(waiting) == RESOLVING_MAX
        assert mdns.passed_over == 1000 - RESOLVING_MAX
        for number in range(1000):
            name = f"x{number}.{SERVICE_TYPE}"
            mdns._service_changed(None, SERVICE_TYPE, name, ServiceStateChange.Removed)
        assert found == []
        for task in mdns._resolving.values():
            task.cancel()

    asyncio.run(story())


def test_a_name_that_is_none_is_counted():
    async def story():
        mdns = Mdns(OWN, print, print)
        mdns._service_changed(None, SERVICE_TYPE, "x" * 300, ServiceStateChange.Added)
        return mdns.malformed

    assert asyncio.run(story()) == 1


def test_without_multicast_it_says_so_and_tries_again(monkeypatch):
    tried = []

    class Broken:
        def __init__(self, **options):
            tried.append(options)
            raise OSError(19, "No such device")

    monkeypatch.setattr(discovery, "AsyncZeroconf", Broken)
    monkeypatch.setattr(discovery, "AGAIN_S", 0.001)

    async def story():
        mdns = Mdns(OWN, print, print)
        task = asyncio.create_task(mdns.run())
        async with asyncio.timeout(20):
            while len(tried) < 3:
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return mdns.problem

    assert "No such device; name seeds instead" in asyncio.run(story())
    assert tried[0]["interfaces"] == ["127.0.0.1"]
