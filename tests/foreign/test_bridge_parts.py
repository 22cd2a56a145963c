"""A bridge's parts without a broker: who is active, what is owed, what is an echo."""

from collections import Counter
from random import Random

import pytest

from broker.bridge_claims import CLAIM_MS, LISTEN_MS, MS, SETTLE_MS, Claims
from broker.bridge_echo import ECHO_MS, ECHOES_MAX, Echoes
from broker.bridge_inward import Filter
from broker.bridge_outward import Outward
from broker.bridge_window import MESSAGES_MAX, WINDOW, Owed, Window
from broker.embedded import packets

TICK_MS = 100


class Attached:
    """Devices attached to one broker, on virtual time; `parts` says who hears whom."""

    def __init__(self, *names):
        self.now_ms = 0
        self.claims = {name: Claims(name, 0) for name in names}
        self.connected = dict.fromkeys(names, True)
        self.alive = set(names)
        self.parts = [set(names)]
        self.history = []

    def say(self, sender, payload):
        for part in self.parts:
            if sender in part:
                for name in part & self.alive:
                    self.claims[name].hear(sender, payload, self.now_ms * MS)

    def run(self, ms):
        for _ in range(ms // TICK_MS):
            self.now_ms += TICK_MS
            for name in sorted(self.alive):
                claims, connected = self.claims[name], self.connected[name]
                claims.decide(self.now_ms * MS, connected=connected)
                if claims.due(self.now_ms * MS):
                    self.say(name, claims.claim(connected=connected))
            self.history.append(self.active())
        return self.active()

    def active(self):
        return {name for name in self.alive if self.claims[name].active}


def test_nobody_is_active_before_it_had_time_to_listen():
    fleet = Attached("a", "b")
    assert fleet.run(LISTEN_MS - TICK_MS) == set()
    assert fleet.run(SETTLE_MS + 5 * TICK_MS) == {"a"}


def test_a_connection_that_is_lost_hands_over_within_a_moment():
    fleet = Attached("a", "b", "c")
    fleet.run(6_000)
    fleet.connected["a"] = False
    assert fleet.run(SETTLE_MS + 3 * TICK_MS) == {"b"}
    fleet.connected["a"] = True
    assert fleet.run(10_000) == {"b"}, "who is active stays so"


def test_a_death_hands_over_when_its_claim_expires():
    fleet = Attached("a", "b")
    fleet.run(6_000)
    fleet.alive.remove("a")
    assert fleet.run(CLAIM_MS - 1_500) == set()
    assert fleet.run(1_500 + SETTLE_MS + 2 * TICK_MS) == {"b"}


def test_a_goodbye_hands_over_at_once():
    fleet = Attached("a", "b")
    fleet.run(6_000)
    fleet.say("a", fleet.claims["a"].goodbye())
    fleet.alive.remove("a")
    assert fleet.run(SETTLE_MS + 2 * TICK_MS) == {"b"}


def test_each_part_of_a_cut_mesh_has_one_and_the_smaller_id_stays():
    fleet = Attached("a", "b", "c")
    fleet.run(6_000)
    fleet.parts = [{"a"}, {"b", "c"}]
    assert fleet.run(6_000) == {"a", "b"}
    fleet.parts = [{"a", "b", "c"}]
    assert fleet.run(1_500) == {"a"}


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_one_is_active_in_the_end(seed):
    chance = Random(seed)
    names = "abcd"
    fleet = Attached(*names)
    for _ in range(30):
        match chance.randrange(4):
            case 0:
                fleet.connected[chance.choice(names)] ^= True
            case 1:
                cut = set(chance.sample(names, 2))
                fleet.parts = [cut, set(names) - cut]
            case 2:
                fleet.parts = [set(names)]
            case 3:
                name = chance.choice(names)
                fleet.alive ^= {name}
                fleet.claims[name] = Claims(name, fleet.now_ms * MS)
        fleet.run(chance.choice([200, 1_000, 5_000]))
    fleet.parts = [set(names)]
    fleet.alive.add("c")
    fleet.connected["c"] = True
    fleet.run(15_000)
    assert len(fleet.active()) == 1
    assert fleet.connected[fleet.active().pop()]


def test_a_claim_that_is_none_is_counted():
    claims = Claims("a", 0)
    for payload in (b"", b"{}", b'{"state":"king","connected":true}', b"[" * 5_000, b"\xff"):
        claims.hear("b", payload, 1)
    assert claims.invalid == 5
    assert claims.others(1) == {}


def parsed(data):
    parser = packets.PacketParser()
    parser.feed(data)
    return [
        (*packets.parse_publish(flags, body)[1:], bool(flags & packets.FLAG_DUP))
        for _, flags, body in parser.packets()
    ]


def test_what_was_under_way_is_sent_again_first_and_in_order():
    window = Window()
    for number in range(WINDOW + 10):
        window.add(Owed("t", b"%d" % number, retained=False))
    sent, data = window.send()
    assert len(sent) == WINDOW == len(parsed(data))
    window.acknowledged(1)
    window.acknowledged(1)
    window.acknowledged(999)
    assert window.sent == 1
    again = parsed(window.again())
    assert again == [(b"%d" % (n - 1), n, True) for n in range(2, WINDOW + 1)]
    sent, _ = window.send()
    assert [owed.payload for owed in sent] == [b"%d" % WINDOW]
    assert len(window) == WINDOW + 9


def test_what_waits_for_a_broker_that_is_away_is_bounded_and_the_oldest_goes():
    window = Window()
    for number in range(MESSAGES_MAX + 5):
        window.add(Owed("t", b"%d" % number, retained=False))
    assert len(window) == MESSAGES_MAX
    assert window.dropped == 5
    assert window.send()[0][0].payload == b"5"
    for _ in range(100):
        window.add(Owed("t", bytes(200_000), retained=False))
    assert len(window) < 100


class Broker:
    """It takes everything that is published there, in its own time."""

    unsent_bytes = 0

    def __init__(self):
        self.parser = packets.PacketParser()
        self.taken = []

    def write(self, data):
        self.parser.feed(data)

    def take(self, outward):
        """Acknowledge what has come; False: nothing has."""
        came = [packets.parse_publish(flags, body) for _, flags, body in self.parser.packets()]
        for topic, payload, packet_id in came:
            self.taken.append((topic, payload))
            outward.acknowledged(packet_id)
        return bool(came)


class Retained:
    """The retained map of a device."""

    def __init__(self, values):
        self.values = values

    def retained_entries(self, topic_filter):
        topics = self.values if topic_filter == "#" else [topic_filter]
        return [(topic, self.values[topic], 1) for topic in topics]


def test_a_broker_is_told_all_that_is_retained_however_much_it_is():
    values = {f"home/{n}": b"%d" % n for n in range(MESSAGES_MAX + 2 * WINDOW)}
    outward = Outward(
        (Filter("#", 1),), Retained(values), 7, lambda _: False, lambda *_: None, Counter()
    )
    broker = Broker()
    outward.open(broker)
    while broker.take(outward) and len(broker.taken) < 2 * len(values):
        pass
    assert sorted(broker.taken) == sorted(values.items())
    assert outward.window.dropped == 0


def test_what_changes_meanwhile_is_told_as_it_is_then():
    values = {f"home/{n}": b"old" for n in range(5 * WINDOW)}
    outward = Outward(
        (Filter("#", 1),), Retained(values), 7, lambda _: False, lambda *_: None, Counter()
    )
    broker = Broker()
    outward.open(broker)
    last = f"home/{5 * WINDOW - 1}"
    values[last] = b"new"
    outward.owe(last, b"new", retained=True)
    while broker.take(outward):
        pass
    assert (last, b"old") not in broker.taken
    assert (last, b"new") in broker.taken


def test_packet_ids_are_not_used_twice_at_once():
    window = Window()
    window.add(Owed("t", b"stuck", retained=False))
    window.send()
    for number in range(70_000):
        window.add(Owed("t", b"", retained=False))
        _, data = window.send()
        ((_, packet_id, _),) = parsed(data)
        assert packet_id != 1
        window.acknowledged(packet_id)
        assert number < 65_534 or packet_id > 1


def test_an_echo_is_counted_off_once_and_others_equal_messages_come_through():
    echoes = Echoes()
    for _ in range(3):
        echoes.note("t", b"same", 0)
    assert [echoes.is_echo("t", b"same", 1) for _ in range(5)] == [True, True, True, False, False]
    assert not echoes.is_echo("t", b"other", 1)
    assert not echoes.is_echo("u", b"same", 1)


def test_an_echo_that_never_comes_is_forgotten():
    echoes = Echoes()
    echoes.note("t", b"x", 0)
    echoes.note("t", b"x", 5_000 * MS)
    assert echoes.is_echo("t", b"x", 6_000 * MS)
    assert echoes.is_echo("t", b"x", (ECHO_MS + 1) * MS), "the second note still stands"
    assert not echoes.is_echo("t", b"x", (ECHO_MS + 2) * MS)


@pytest.mark.parametrize("seed", range(10))
def test_echoes_against_a_plain_count(seed):
    chance = Random(seed)
    echoes, model = Echoes(), []
    for now_ms in range(0, 60_000, 50):
        key = chance.choice("abc")
        model = [(at, known) for at, known in model if now_ms - at < ECHO_MS]
        if chance.random() < 0.5:
            echoes.note("t", key.encode() * 100, now_ms * MS)
            model.append((now_ms, key))
        else:
            mine = [entry for entry in model if entry[1] == key]
            assert echoes.is_echo("t", key.encode() * 100, now_ms * MS) is bool(mine)
            if mine:
                model.remove(mine[0])


def test_noted_echoes_are_bounded():
    echoes = Echoes()
    for number in range(ECHOES_MAX + 10):
        echoes.note("t", b"%d" % number, 0)
    assert len(echoes._counts) == len(echoes._order) == ECHOES_MAX
