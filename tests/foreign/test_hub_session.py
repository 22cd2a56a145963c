"""The envelope and its session, on virtual time, against hubs of every kind."""

from random import Random

import pytest

from broker.hub_session import (
    ENVELOPE_BYTES,
    HELD_FRAMES_MAX,
    HOLD_MS,
    MS,
    OFFER_MS_MAX,
    HubSession,
    announcement,
    is_announcement,
)

KEY = b"k" * 32


class Hub:
    """Two ends and what is between them: a list of (due, to, envelope)."""

    def __init__(self, seed=1, key_a=KEY, key_b=KEY):
        self.random = Random(seed)
        self.now_ns = 0
        self.ends = {}
        for name, peer, key in (("a", "b", key_a), ("b", "a", key_b)):
            self.restart(name, peer, key)
        self.under_way = []
        self.record = []
        self.got = {"a": [], "b": []}
        self.ups = {"a": 0, "b": 0}
        self.wanted = {"a": True, "b": True}
        self.fate = lambda to, data: [(1, data)]

    def restart(self, name, peer, key=KEY):
        self.ends[name] = HubSession(name, peer, key, self._draw, self.now_ns)

    def _draw(self):
        return self.random.getrandbits(64) | 1

    def _do(self, name, outcome):
        if outcome.up:
            self.ups[name] += 1
            self.got[name].append([])
        to = "b" if name == "a" else "a"
        for envelope in outcome.send:
            self.put(to, envelope)
        for frame in outcome.frames:
            self.got[name][-1].append(frame)

    def put(self, to, envelope):
        self.record.append((to, envelope))
        for delay_ms, data in self.fate(to, envelope):
            self.under_way.append((self.now_ns + delay_ms * MS, len(self.record), to, data))

    def send(self, name, *frames):
        for envelope in self.ends[name].wrap(list(frames)):
            self.put("b" if name == "a" else "a", envelope)

    def close(self, name):
        self._do(name, self.ends[name].close(self.now_ns))

    def run(self, ms):
        until_ns = self.now_ns + ms * MS
        while self.now_ns < until_ns:
            self.now_ns += MS
            self.under_way.sort(key=lambda item: item[:2])
            while self.under_way and self.under_way[0][0] <= self.now_ns:
                _, _, to, data = self.under_way.pop(0)
                end = self.ends[to]
                wanted = self.wanted[to] and not end.is_up
                self._do(to, end.receive(data, self.now_ns, wanted=wanted))
            for name, end in self.ends.items():
                wanted = self.wanted[name] and not end.is_up
                due_ns = end.next_timer(wanted=wanted)
                if due_ns is not None and due_ns <= self.now_ns:
                    self._do(name, end.handle_timer(self.now_ns, wanted=wanted))

    def met(self):
        return self.ends["a"].is_up and self.ends["b"].is_up


def met(**options):
    hub = Hub(**options)
    hub.run(50)
    assert hub.met()
    return hub


def frames(count, start=0):
    return [b"frame %d" % number for number in range(start, start + count)]


def test_two_ends_meet_and_frames_pass_in_order_both_ways():
    hub = met()
    assert hub.ends["a"].rank == hub.ends["b"].rank
    hub.send("a", *frames(100))
    hub.send("b", *frames(50))
    hub.run(20)
    assert hub.got["b"] == [frames(100)]
    assert hub.got["a"] == [frames(50)]
    assert hub.ups == {"a": 1, "b": 1}


def test_an_envelope_costs_42_bytes_and_says_nothing_of_its_frame_but_the_frame():
    hub = met()
    (envelope,) = hub.ends["a"].wrap([bytes(65_536)])
    assert len(envelope) == 65_536 + ENVELOPE_BYTES == 65_536 + 42


def test_an_offer_that_meets_nobody_is_repeated_ever_more_slowly():
    hub = Hub()
    hub.fate = lambda to, data: []
    hub.run(60_000)
    offers = [to for to, _ in hub.record if to == "b"]
    assert 60_000 / OFFER_MS_MAX <= len(offers) <= 60_000 / OFFER_MS_MAX + 5


def test_a_wrong_key_meets_nobody_and_is_counted():
    hub = Hub(key_b=b"x" * 32)
    hub.run(10_000)
    assert not hub.met()
    assert hub.ends["a"].counters["refused"] > 3


def test_without_a_key_the_tag_still_shows_damage():
    hub = met(key_a=b"", key_b=b"")
    (envelope,) = hub.ends["a"].wrap([b"frame"])
    hub.put("b", envelope[:30] + b"\0" + envelope[31:])
    hub.run(100)
    assert hub.got["b"] == [[]]
    assert hub.ends["b"].counters["refused"] == 1


def test_reordered_frames_are_put_in_order():
    hub = met()
    order = [3, 0, 1, 4, 2, 7, 6, 5]
    envelopes = hub.ends["a"].wrap(frames(8))
    for number in order:
        hub.put("b", envelopes[number])
    hub.run(10)
    assert hub.got["b"] == [frames(8)]
    assert hub.ends["b"].counters["early"] == 4


def test_a_lost_frame_is_given_up_after_a_moment_and_the_rest_goes_on():
    hub = met()
    envelopes = hub.ends["a"].wrap(frames(5))
    for number in (0, 2, 3, 4):
        hub.put("b", envelopes[number])
    hub.run(HOLD_MS - 5)
    assert hub.got["b"] == [frames(1)]
    hub.run(20)
    assert hub.got["b"] == [[b"frame 0", *frames(3, 2)]]
    assert hub.ends["b"].counters["lost"] == 1
    hub.put("b", envelopes[1])
    hub.run(10)
    assert hub.got["b"] == [[b"frame 0", *frames(3, 2)]], "what was given up must not come late"


def test_what_waits_for_a_lost_frame_is_bounded():
    hub = met()
    envelopes = hub.ends["a"].wrap(frames(HELD_FRAMES_MAX + 2))
    for envelope in envelopes[1:]:
        hub.put("b", envelope)
    hub.run(5)
    assert hub.got["b"] == [frames(HELD_FRAMES_MAX + 1, 1)]


@pytest.mark.parametrize("when", ["same session", "next session", "after both restart"])
def test_what_a_hub_recorded_and_plays_again_is_refused(when):
    hub = met()
    hub.send("a", *frames(5))
    hub.send("b", *frames(5))
    hub.run(10)
    if when == "next session":
        hub.close("a")
        hub.run(2_000)
    elif when == "after both restart":
        hub.restart("a", "b")
        hub.restart("b", "a")
        hub.run(2_000)
    assert hub.met()
    ups = dict(hub.ups)
    before = {name: [list(got) for got in got_all] for name, got_all in hub.got.items()}
    for to, envelope in list(hub.record):
        hub.under_way.append((hub.now_ns, 0, to, envelope))
    hub.run(3_000)
    assert hub.got == before
    assert hub.ups == ups, "a recording must not begin or end a session"
    hub.send("a", b"fresh")
    hub.run(10)
    assert hub.got["b"][-1][-1] == b"fresh"


def test_a_recording_meets_nobody_where_the_peer_is_away():
    hub = met()
    record = list(hub.record)
    hub.restart("b", "a")
    hub.ups["b"] = 0
    hub.fate = lambda to, data: []  # a is not reached any more: only the recording speaks
    for to, envelope in record:
        if to == "b":
            hub.under_way.append((hub.now_ns, 0, to, envelope))
    hub.run(10_000)
    assert hub.ups["b"] == 0


def test_an_end_that_restarts_is_met_again_at_once():
    hub = met()
    hub.send("a", *frames(3))
    hub.run(1_000)
    hub.restart("b", "a")
    hub.run(20)
    assert hub.met()
    assert hub.ups == {"a": 2, "b": 2}
    hub.send("b", b"again")
    hub.run(10)
    assert hub.got["a"] == [[], [b"again"]]


def test_a_goodbye_ends_the_session_at_the_other_end_and_it_is_sought_anew():
    hub = met()
    hub.run(2_000)
    hub.close("a")
    hub.wanted["a"] = False
    hub.run(5)
    assert not hub.ends["b"].is_up
    hub.run(10_000)
    assert not hub.ends["b"].is_up, "an end with a better link is left alone"
    hub.wanted["a"] = True
    hub.ends["a"].seek(hub.now_ns)
    hub.run(10)
    assert hub.met()


def test_sessions_that_do_not_last_are_begun_ever_more_slowly():
    hub = met()
    for _ in range(2_000):
        if hub.ends["a"].is_up:
            hub.close("a")
        hub.ends["a"].seek(hub.now_ns)
        hub.ends["b"].seek(hub.now_ns)
        hub.run(10)
    assert hub.ups["a"] <= 12


def test_a_frame_that_is_sent_back_to_its_sender_is_refused():
    hub = met()
    (envelope,) = hub.ends["a"].wrap([b"mine"])
    hub.put("a", envelope)
    hub.run(10)
    assert hub.got["a"] == [[]]
    assert hub.ends["a"].counters["refused"] == 1


def test_an_announcement_is_of_who_wrote_it():
    assert is_announcement(KEY, "a", announcement(KEY, "a"))
    assert not is_announcement(KEY, "b", announcement(KEY, "a"))
    assert not is_announcement(KEY, "a", announcement(b"other", "a"))
    assert not is_announcement(KEY, "a", b"")


@pytest.mark.parametrize("seed", range(20))
def test_against_a_nasty_hub_nothing_is_doubled_reordered_or_forged_and_peace_heals(seed):
    hub = Hub(seed)
    chance = Random(seed + 1000)
    recorded = []

    def nasty(to, data):
        recorded.append((to, data))
        fates = []
        roll = chance.random()
        if roll < 0.2:
            return []
        if roll < 0.25:
            cut = chance.randrange(len(data) + 1)
            fates.append((1, data[:cut]))
        elif roll < 0.3:
            at = chance.randrange(len(data))
            fates.append(
                (1, data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :])
            )
        else:
            fates.append((chance.choice([1, 1, 1, 5, 30, 80]), data))
        if chance.random() < 0.2:
            fates.append((chance.randrange(1, 200), data))
        if chance.random() < 0.3:
            fates += [
                (1, old) for at, old in chance.sample(recorded, min(3, len(recorded))) if at == to
            ]
        return fates

    hub.fate = nasty
    sent = {"a": [], "b": []}
    for turn in range(300):
        for name in "ab":
            frame = b"%s %d" % (name.encode(), turn)
            if hub.ends[name].is_up:
                sent[name].append(frame)
                hub.send(name, frame)
        if chance.random() < 0.004:
            hub.close(chance.choice("ab"))
        hub.run(10)
    for name, other in (("a", "b"), ("b", "a")):
        everything = [frame for session in hub.got[name] for frame in session]
        numbers = [int(frame.split()[1]) for frame in everything]
        assert set(everything) <= set(sent[other])
        assert numbers == sorted(set(numbers)), "in order, and none twice"
        assert len(numbers) > 30
    hub.fate = lambda to, data: [(1, data)]
    hub.run(OFFER_MS_MAX + 1_000)
    assert hub.met()
    hub.send("a", b"peace")
    hub.run(100)
    assert hub.got["b"][-1][-1] == b"peace"
