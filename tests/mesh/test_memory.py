"""What a device had passed before it booted comes back from its neighbours, as memory, whoever holds how much of it."""

from sim.network import Network


def numbered(count, prefix=b""):
    return [prefix + b"%d" % number for number in range(count)]


def news(network, name):
    return network.payloads(name, rebuild=False)


def publish_all(network, name, payloads, pause_ms=5):
    for payload in payloads:
        network.publish(name, "t", payload, qos=1)
        network.run(pause_ms)


def reboot_ahead(names, edges):
    """Everybody but the cut off heard `a` say five messages, `c` a sixth; `a` is gone, and `c` boots and meets `b`."""
    network = Network(names, edges)
    network.run(4_000)
    network.partition([edge for edge in edges if "d" in edge])
    publish_all(network, "a", numbered(5), 100)
    network.partition([edge for edge in edges if "b" in edge])
    publish_all(network, "a", [b"5"], 500)
    network.kill("a")
    network.kill("c")
    network.devices["c"].heard.clear()
    network.heal()
    network.restart("c")
    return network


def test_a_device_that_came_further_than_its_neighbours_gets_back_what_they_hold():
    network = reboot_ahead("abc", [("a", "b"), ("a", "c"), ("b", "c")])
    network.run(5_000)
    assert network.payloads("c") == numbered(5)
    assert network.payloads("c", rebuild=True) == numbered(5)
    served = network.devices["b"].running.statistics().peers[0].bundles_out
    network.run(20_000)
    assert network.devices["b"].running.statistics().peers[0].bundles_out == served


def test_who_is_behind_a_device_that_came_further_and_booted_hears_what_others_hold():
    network = reboot_ahead("abcd", [("a", "b"), ("a", "c"), ("b", "c"), ("c", "d")])
    network.run(60_000)
    assert news(network, "d") == numbered(5)
    assert len(network.devices["d"].gaps) == 1


def two_newcomers_in_a_row():
    """`x` and, behind it, `y` have just met each other and `a`, which has published before."""
    network = Network("axy", [("a", "x"), ("x", "y")])
    for name in "xy":
        network.kill(name, disk_lost=True)
    network.run(4_000)
    publish_all(network, "a", numbered(5, b"past"))
    network.run(500)
    network.boot("x")
    network.boot("y")
    network.connect(("x", "y"))
    network.connect(("a", "x"))
    return network


def test_a_joiner_behind_a_joiner_takes_the_past_as_memory():
    network = two_newcomers_in_a_row()
    network.run(20_000)
    assert news(network, "y") == []
    assert network.devices["y"].mesh._state.waiting_bytes == 0
    assert sorted(network.payloads("y", rebuild=True)) == numbered(5, b"past")


def test_memory_comes_back_though_the_first_link_takes_minutes():
    network = Network("ab", [("a", "b")])
    network.run(4_000)
    publish_all(network, "a", numbered(3))
    network.run(500)
    network.kill("b")
    network.devices["b"].heard.clear()
    network.partition([("a", "b")])
    network.restart("b")
    network.run(300_000)
    network.heal()
    network.run(2_000)
    assert network.payloads("b", rebuild=True) == numbered(3)


def test_memory_that_is_held_back_for_its_clock_comes_when_that_is_over():
    network = Network("ab", [("a", "b")])
    network.run(4_000)
    network.set_wall_clock("a", skew_ms=3 * 24 * 3600 * 1000, synchronised=False)
    publish_all(network, "a", [b"past"])
    network.kill("b", disk_lost=True)
    network.run(100)
    network.restart("b")
    network.run(20_000)
    assert network.payloads("b") == []
    network.run(20_000)
    assert network.payloads("b", rebuild=True) == [b"past"]


def test_news_that_waits_behind_a_newcomers_past_is_news():
    network = two_newcomers_in_a_row()
    publish_all(network, "a", numbered(5, b"new"), 1)
    network.run(20_000)
    for name in "xy":
        heard = network.payloads(name)
        assert sorted(heard) == sorted([*numbered(5, b"past"), *numbered(5, b"new")])
        late = news(network, name)
        assert late
        assert late == numbered(5, b"new")[-len(late) :]
        assert network.devices[name].mesh._state.waiting_bytes == 0


def test_a_newcomer_claims_nothing_that_its_log_let_go_before_it_had_joined():
    network = two_newcomers_in_a_row()
    publish_all(network, "a", numbered(5), 1)
    mesh = network.devices["y"].running
    while not len(mesh._state.log):
        network.run(0.1)
    assert mesh.joining
    stream = mesh._state.log._evict_oldest()
    gone = mesh._state.log.held_after[stream]
    network.run(20_000)
    assert mesh._state.kept[stream].position > gone
    assert mesh._state.vector.entry(stream)[1] >= gone
