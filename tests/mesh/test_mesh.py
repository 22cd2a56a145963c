"""The mesh core on virtual time: spreading, repair, restarts, retained values."""

from sim.network import Network

RING = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("e", "a"), ("a", "c")]
NAMES = "abcde"


def ring(**options):
    network = Network(NAMES, RING, **options)
    network.run(4_000)
    return network


def test_a_kept_message_reaches_every_device_exactly_once_on_a_cyclic_graph():
    network = ring()
    for number in range(50):
        network.publish("a", "t", b"%d" % number, qos=1)
        network.run(3)
    network.run(500)
    for name in NAMES:
        assert network.payloads(name) == [b"%d" % number for number in range(50)]


def test_a_fresh_message_reaches_every_device_at_most_once():
    network = ring()
    network.publish("d", "t", b"x")
    network.run(100)
    assert [network.payloads(name) for name in NAMES] == [[b"x"]] * 5


def test_what_was_published_during_a_partition_arrives_after_it_in_order():
    network = ring()
    network.partition([("b", "c"), ("a", "e"), ("a", "c")])
    for number in range(20):
        network.publish("a", "t", b"a%d" % number, qos=1)
        network.publish("d", "t", b"d%d" % number, qos=1)
        network.run(10)
    assert network.payloads("b") == [b"a%d" % number for number in range(20)]
    network.heal()
    network.run(500)
    for name in NAMES:
        heard = network.payloads(name)
        for origin in b"ad":
            expected = [bytes([origin]) + b"%d" % number for number in range(20)]
            assert [p for p in heard if p[0] == origin] == expected


def test_a_restarted_device_gets_news_once_and_memory_marked():
    network = ring()
    network.publish("a", "t", b"before", qos=1, lifetime_ms=60_000)
    network.run(100)
    network.kill("c")
    network.publish("a", "t", b"meanwhile", qos=1, lifetime_ms=60_000)
    network.run(3_000)
    network.devices["c"].heard.clear()
    network.restart("c")
    network.run(1_000)
    assert network.payloads("c", rebuild=True) == [b"before"]
    assert network.payloads("c", rebuild=False) == [b"meanwhile"]


def test_an_acknowledged_publish_of_a_lone_device_survives_its_death():
    network = Network("ab", [("a", "b")])
    network.run(4_000)
    network.partition([("a", "b")])
    network.publish("a", "t", b"alone", qos=1)
    network.kill("a")
    network.run(500)
    network.restart("a")
    network.run(500)
    assert b"alone" not in network.payloads("b")
    network.heal()
    network.run(500)
    network.publish("a", "t", b"after", qos=1)
    network.run(500)
    assert network.payloads("b") == [b"alone", b"after"]


def test_a_lost_disk_goes_above_the_incarnation_that_neighbours_know():
    network = ring()
    for number in range(5):
        network.publish("a", "t", b"%d" % number, qos=1)
    network.run(100)
    network.kill("a", disk_lost=True)
    network.run(500)
    network.boot("a")
    network.publish("a", "t", b"reborn", qos=1)
    for edge in RING:
        if "a" in edge:
            network.connect(tuple(sorted(edge)))
    network.run(1_000)
    for name in "bcde":
        assert network.payloads(name) == [b"0", b"1", b"2", b"3", b"4", b"reborn"]
    assert network.devices["a"].mesh.incarnation > 1
    assert not any(device.gaps for device in network.devices.values())


def test_a_joining_device_takes_the_past_as_memory():
    network = Network("ab", [("a", "b")])
    network.partition([("a", "b")])
    network.run(4_000)
    network.devices["b"].mesh = None
    network.devices["b"].disk = type(network.devices["b"].disk)()
    network.publish("a", "t", b"past", qos=1)
    network.boot("b")
    network.heal()
    network.run(500)
    network.publish("a", "t", b"news", qos=1)
    network.run(500)
    assert network.payloads("b", rebuild=True) == [b"past"]
    assert network.payloads("b", rebuild=False) == [b"news"]


def test_retained_values_and_deletions_made_during_a_partition_converge():
    network = ring()
    for number in range(10):
        network.publish("a", f"r/{number}", b"old", qos=1, retained=True)
    network.run(200)
    network.partition([("b", "c"), ("a", "e"), ("a", "c")])
    for number in range(5):
        network.publish("a", f"r/{number}", b"", qos=1, retained=True)
    network.publish("d", "r/7", b"new", qos=1, retained=True)
    network.run(500)
    network.heal()
    network.run(1_000)
    expected = {f"r/{number}": b"old" for number in range(5, 10)} | {"r/7": b"new"}
    for name in NAMES:
        assert network.retained(name) == expected


def test_retained_values_beyond_every_log_reach_a_newcomer():
    network = Network("ab", [("a", "b")])
    network.partition([("a", "b")])
    network.run(4_000)
    network.publish("a", "r", b"value", qos=0, retained=True)
    network.heal()
    network.run(8_000)
    assert network.retained("b") == {"r": b"value"}


def test_a_lower_rank_does_not_win_though_its_clock_is_newer():
    network = ring()
    network.publish("a", "model", b"two", qos=1, retained=True, rank=2)
    network.run(100)
    network.publish("b", "model", b"one", qos=1, retained=True, rank=1)
    network.run(100)
    for name in NAMES:
        assert network.retained(name) == {"model": b"two"}
        assert network.payloads(name) == [b"two"]


def test_an_expired_kept_bundle_closes_its_sequence_without_delivery():
    network = Network("ab", [("a", "b")])
    network.run(4_000)
    network.partition([("a", "b")])
    network.publish("a", "t", b"short", qos=1, lifetime_ms=100)
    network.publish("a", "t", b"long", qos=1)
    network.run(1_000)
    network.heal()
    network.run(500)
    assert network.payloads("b") == [b"long"]
    assert network.devices["b"].gaps == []


def test_a_large_message_travels_in_parts():
    network = ring()
    payload = bytes(range(256)) * 1024
    network.publish("a", "t", payload, qos=1)
    network.run(500)
    assert all(network.payloads(name) == [payload] for name in NAMES)


def test_a_device_that_wakes_in_1970_takes_the_fleets_time_and_harms_nobody():
    network = ring()
    network.kill("e")
    network.publish("a", "r", b"value", qos=1, retained=True)
    network.devices["e"].wall_skew_ms = -1_700_000_000_000
    network.devices["e"].synchronised = False
    network.devices["e"].disk = type(network.devices["e"].disk)()
    network.boot("e")
    network.publish("e", "r", b"from 1970", qos=1, retained=True)
    network.restart("e")
    network.run(1_000)
    assert all(network.retained(name) == {"r": b"value"} for name in NAMES)
    network.publish("e", "r", b"now", qos=1, retained=True)
    network.run(500)
    assert all(network.retained(name) == {"r": b"now"} for name in NAMES)


def test_a_synchronised_neighbour_holds_back_bundles_from_the_future():
    network = Network("ab", [("a", "b")])
    network.run(4_000)
    network.kill("a")
    network.devices["a"].wall_skew_ms = 2_000
    network.restart("a")
    network.run(100)
    network.publish("a", "t", b"future", qos=1)
    network.run(500)
    assert network.payloads("b") == []
    network.run(3_000)
    assert network.payloads("b") == [b"future"]


def test_a_flipped_bit_costs_one_frame_and_a_stream_of_them_the_link():
    network = ring()
    mesh = network.devices["a"].mesh
    network.publish("b", "t", b"fine", qos=1)
    for number in range(8):
        mesh.receive("b", b"\x01garbage%d" % number, network.now_ns)
    network.turn("a")
    assert len(network.devices["a"].bad) == 8
    assert ("a", "b") not in network.up
    network.run(500)
    assert network.payloads("a") == [b"fine"]
    assert ("a", "b") in network.up


def test_a_silent_link_is_closed():
    network = Network("ab", [("a", "b")])
    network.run(1_000)
    network.loss = 1.0
    network.run(2_100)
    assert ("a", "b") not in network.up or network._session["a", "b"] > 1


def test_what_expires_and_what_does_not_can_be_published_in_one_turn():
    network = ring()
    mesh = network.devices["a"].mesh
    for number, lifetime_ms in enumerate([0, 1_000, 3_000, 0, 0, 10]):
        mesh.publish("t", b"%d" % number, network.now_ns, qos=1, lifetime_ms=lifetime_ms)
    network.turn("a")
    network.run(100)
    for name in "bcde":
        assert network.payloads(name)[:5] == [b"0", b"1", b"2", b"3", b"4"]
        assert network.devices[name].bad == []


def test_bundles_sent_are_counted_per_link():
    network = Network("abc", [("a", "b"), ("b", "c")])
    network.run(4_000)
    for number in range(5):
        network.publish("a", "t", b"%d" % number, qos=1)
        network.run(100)
    sent = {
        (name, peer.name): peer.bundles_out
        for name in "abc"
        for peer in network.devices[name].mesh.statistics().peers
    }
    assert sent == {("a", "b"): 5, ("b", "a"): 0, ("b", "c"): 5, ("c", "b"): 0}
