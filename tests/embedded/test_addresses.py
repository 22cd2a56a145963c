"""What counts by address counts an IPv6 network of 64 bits as one: its addresses are all its holder's."""

import pytest

from broker.embedded import Counters, Limits
from broker.embedded.addresses import network_of
from broker.embedded.lobby import Lobby
from broker.embedded.slices import Slices
from broker.embedded.wire import Wires


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2::3", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::3", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", ""),
    ],
)
def test_an_address_is_counted_as(address, counted):
    assert network_of(address) == counted


async def test_connections_of_one_network_share_its_rate_and_a_neighbour_there_has_its_own():
    limits = Limits(connections_burst_per_address=3, connections_per_address_per_s=0.001)
    wires = Wires(limits, Counters(), Slices(1.0))
    same = [f"2001:db8:1:2::{number:x}" for number in range(1, 6)]
    assert [wires.has_room(address) for address in same] == [True] * 3 + [False] * 2
    assert wires.has_room("2001:db8:1:3::1")
    assert wires.has_room("2001:db8:1:2::1", neighbour=True)
    for number in range(3):
        assert wires.has_room(f"::ffff:192.0.2.{number}")
    assert [wires.has_room("192.0.2.0") for _ in range(3)] == [True, True, False]


def test_neighbours_of_one_network_share_the_turns_that_they_have_ahead_of_strangers():
    lobby: Lobby[str] = Lobby(Limits())
    guests = [f"2001:db8:1:2::{number:x}" for number in range(1, 7)]
    for guest in ["2001:db8:9::1", *guests, "2001:db8:1:3::1"]:
        lobby.enter(guest, guest, neighbour=guest != "2001:db8:9::1")
    for guest in ["2001:db8:9::1", *guests, "2001:db8:1:3::1"]:
        lobby.speaks(guest)
    turns = [lobby.next() for _ in range(8)]
    assert turns == [*guests[:4], "2001:db8:1:3::1", "2001:db8:9::1", *guests[4:]]
