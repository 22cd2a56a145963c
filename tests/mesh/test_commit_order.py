"""A device that dies after its frames have left and before its commit forgets what others have heard."""

import pytest

from broker.mesh.events import Changes, RelayedBundle
from sim.network import Network
from sim.watcher import Death


def news(network, name):
    return network.payloads(name, rebuild=False)


def forget(network, name):
    """Its next turn is its last, and ends before the commit."""
    device = network.devices[name]
    device.doomed, device.forgetful = Death.KILLED, True


@pytest.mark.parametrize("retained", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_an_origin_that_forgets_what_it_sent_goes_on_in_order_and_takes_it_back(seed, retained):
    network = Network("abc", [("a", "b"), ("b", "c")], seed)
    network.run(5_000)
    network.publish("a", "t0", b"0", qos=1, retained=retained)
    forget(network, "a")
    network.publish("a", "t1", b"1", qos=1, retained=retained)
    network.run(500)
    assert network.devices["a"].mesh is None
    assert news(network, "b") == news(network, "c") == [b"0", b"1"]
    network.restart("a")
    network.run(1_000)
    assert b"1" in network.payloads("a")
    for payload in (b"2", b"3"):
        network.publish("a", "t" + payload.decode(), payload, qos=1, retained=retained)
    network.run(3_000)
    assert news(network, "b") == news(network, "c") == [b"0", b"1", b"2", b"3"]
    assert network.retained("a") == network.retained("b") == network.retained("c")
    assert not any(device.gaps for device in network.devices.values())


@pytest.mark.parametrize("seed", range(4))
def test_one_that_publishes_before_it_meets_anybody_stops_no_stream(seed):
    network = Network("abc", [("a", "b"), ("b", "c")], seed)
    network.run(5_000)
    forget(network, "a")
    network.publish("a", "t", b"1", qos=1)
    network.run(500)
    network.boot("a")
    network.publish("a", "t", b"2", qos=1)
    network.connect(("a", "b"))
    network.publish("a", "t", b"3", qos=1)
    network.run(3_000)
    assert news(network, "b") == news(network, "c") == [b"1", b"2", b"3"]
    assert not any(device.gaps for device in network.devices.values())


@pytest.mark.parametrize("seed", range(4))
def test_a_relay_that_forgets_what_it_passed_on_hears_it_once(seed):
    network = Network("ahc", [("a", "h"), ("h", "c")], seed)
    network.run(5_000)
    network.publish("a", "t", b"0", qos=1)
    network.run(500)
    network.publish("a", "t", b"1", qos=1)
    while not network.path("a", "h").queue:
        network.run(0.1)
    network.run_until(network.path("a", "h").queue[0][0] - 1)
    forget(network, "h")
    network.run(500)
    assert network.devices["h"].mesh is None
    network.restart("h")
    network.run(5_000)
    assert news(network, "h") == news(network, "c") == [b"0", b"1"]
    assert not any(device.gaps for device in network.devices.values())


def test_stamps_that_were_forgotten_are_not_given_again_while_the_wall_clock_is_wrong():
    network = Network("ab", [("a", "b")])
    network.run(5_000)
    network.set_wall_clock("a", skew_ms=-53 * 365 * 24 * 3600 * 1000, synchronised=False)
    network.publish("a", "t", b"0", qos=1)
    forget(network, "a")
    forgotten = network.publish("a", "mode", b"old", qos=1, retained=True)
    network.run(500)
    network.boot("a")
    assert network.publish("a", "mode", b"new", qos=1, retained=True) > forgotten
    network.connect(("a", "b"))
    network.run(3_000)
    assert network.retained("a")["mode"] == network.retained("b")["mode"] == b"new"


def test_only_an_incarnation_and_what_is_relayed_to_disk_are_stored_before_frames_leave():
    assert Changes(incarnation=3).precede
    assert Changes(relayed=[RelayedBundle(b"head", b"body", 0)]).precede
    assert not Changes(passed={("a", 3): (1, 1)}, clock_bound=7).precede
