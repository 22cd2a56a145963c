"""What one pull asks of whom, on virtual time and message by message."""

from random import Random

import pytest

from agent.models.content import content_of
from agent.models.limits import (
    ASK_CHUNKS_MAX,
    AVOID_NS,
    DECLINED_MAX,
    NOTE_NS,
    PATIENCE_FIRST_NS,
    REASK_FIRST_NS,
    REASK_NS,
    SOURCES_MAX,
    STRIKES_MAX,
    UNDER_WAY_MAX,
)
from agent.models.pull import Puller

DATA = Random(1).randbytes(2_000_000)
CONTENT = content_of(DATA)
ALL = (1 << CONTENT.count) - 1
MS = 1_000_000
S = 1_000_000_000


def piece(index):
    begin, length = CONTENT.span(index)
    return DATA[begin : begin + length]


def puller(*peers, have=0):
    pull = Puller(CONTENT, have, "me", 0)
    for peer in peers:
        pull.link_up(peer, 0)
    assert {ask.peer for ask in pull.asks(0)} == set(peers)
    for peer in peers:
        pull.answered(peer, (), (), 0)
    return pull


def wanted(pull, now_ns):
    """By neighbour: what is asked of it now."""
    pull.notes(now_ns)
    return {ask.peer: ask.want for ask in pull.asks(now_ns) if ask.want}


def until_asked(pull, peer, now_ns):
    """When a chunk is asked of a neighbour, going from timer to timer."""
    while True:
        asks = pull.asks(now_ns)
        if any(ask.peer == peer and ask.want for ask in asks):
            return now_ns
        for ask in asks:
            pull.answered(ask.peer, ask.want, ask.want, now_ns)
        later_ns = pull.next_ns(now_ns)
        assert now_ns < later_ns < 1_000 * S
        now_ns = later_ns


def test_the_rarest_comes_first():
    pull = puller("x", "y")
    for rare in range(3, 6):
        pull.told("x", 0b111111)
        pull.told("y", 0b111111 & ~(1 << rare))
        asks = wanted(pull, rare * S)
        assert asks["x"][0] == rare
        pull.chunk("x", rare, piece(rare), rare * S)
        pull.answered("x", asks["x"], (rare,), rare * S)
        for index in asks.get("y", ()):
            pull.answered("y", (index,), (), rare * S)


def test_no_chunk_is_asked_of_two_and_no_window_is_exceeded():
    names = [f"n{number}" for number in range(20)]
    pull = puller(*names)
    for name in names:
        pull.told(name, ALL & ~1)
    under_way = {}
    for now_ns in range(0, 3 * S, 10 * MS):
        for peer, want in wanted(pull, now_ns).items():
            for index in want:
                assert index not in under_way
                under_way[index] = peer
            pull.answered(peer, want, want, now_ns)
        counts = [list(under_way.values()).count(name) for name in names]
        assert max(counts) <= ASK_CHUNKS_MAX
        assert sum(counts) <= UNDER_WAY_MAX
        for index, peer in list(under_way.items())[::2]:
            assert pull.chunk(peer, index, piece(index), now_ns)
            del under_way[index]
    assert pull.have == ALL & ~1


def test_no_more_is_under_way_than_a_kill_may_cost():
    names = [f"n{number}" for number in range(40)]
    pull = puller(*names)
    for name in names:
        pull.told(name, ALL)
    asked = set()
    for now_ns in range(0, 2 * S, 10 * MS):
        for peer, want in wanted(pull, now_ns).items():
            asked.update(want)
            pull.answered(peer, want, want, now_ns)
    assert len(asked) == UNDER_WAY_MAX


def test_whoever_is_silent_three_times_is_left_alone_for_a_while():
    pull = puller("x")
    now_ns = 0
    for _ in range(STRIKES_MAX):
        assert pull.statistics(now_ns).avoided == ()
        pull.told("x", ALL & ~1)
        now_ns = until_asked(pull, "x", now_ns)
        pull.unanswered("x", tuple(range(CONTENT.count)), now_ns)
    assert pull.statistics(now_ns).avoided == ("x",)
    assert pull.asks(now_ns + AVOID_NS - 1) == []
    assert until_asked(pull, "x", now_ns) == now_ns + AVOID_NS
    assert pull.statistics(now_ns + AVOID_NS).avoided == ()


def test_chunks_that_do_not_come_are_silence_too():
    pull = puller("x", "y")
    pull.told("x", 0b1)
    assert wanted(pull, 0) == {"x": (0,)}
    pull.answered("x", (0,), (0,), 0)
    pull.told("y", 0b1)
    assert until_asked(pull, "y", 1) == PATIENCE_FIRST_NS
    assert pull.statistics(PATIENCE_FIRST_NS).late == 1
    assert pull.chunk("x", 0, piece(0), PATIENCE_FIRST_NS + 1), "late is better than never"


def test_whoever_claims_and_never_gives_is_left_alone_and_asked_less_and_less_before():
    pull = puller("x")
    pull.told("x", ALL)
    now_ns, pauses = 0, []
    while not pull.statistics(now_ns).avoided:
        asked_ns = until_asked(pull, "x", now_ns)
        pauses.append(asked_ns - now_ns)
        now_ns = asked_ns
        pull.answered("x", tuple(pull._sources["x"].under_way), (), now_ns)
        assert len(pauses) <= DECLINED_MAX
    assert len(pauses) == DECLINED_MAX
    assert pauses == sorted(pauses)


def test_whoever_has_lost_what_it_had_is_no_liar():
    pull = puller("x")
    for round_ in range(2 * DECLINED_MAX):
        now_ns = round_ * 10 * S
        pull.told("x", ALL)
        want = wanted(pull, now_ns)["x"]
        pull.told("x", 0)
        pull.answered("x", want, (), now_ns)
    assert pull.statistics(now_ns).avoided == ()


def test_one_that_has_all_is_spared_but_not_for_one_that_hangs():
    pull = puller("seed", "slow", have=ALL & ~0b111)
    pull.told("seed", ALL)
    pull.told("slow", 0b11)
    asks = wanted(pull, 0)
    assert asks["seed"] == (2,), "what nobody else has"
    assert len(asks["slow"]) == 1
    assert pull.chunk("seed", 2, piece(2), MS)
    pull.answered("seed", (2,), (2,), MS)
    pull.answered("slow", asks["slow"], asks["slow"], MS)
    # The second is waited for at first; when the slow one hangs, it is asked before patience ends.
    assert wanted(pull, 50 * MS) == {}
    assert until_asked(pull, "seed", 50 * MS) <= PATIENCE_FIRST_NS // 3


@pytest.mark.parametrize("data", [b"", b"x", piece(1), piece(0)[:-1], piece(0) + b"x"])
def test_wrong_bytes_never_count(data):
    pull = puller("x")
    pull.told("x", ALL)
    assert not pull.chunk("x", 0, data, 0)
    assert pull.have == 0
    assert pull.statistics(0).avoided == ("x",)
    assert not pull.chunk("x", 0, piece(0), 1), "nor does anything else from there"


def test_what_nobody_asked_for_counts_if_it_is_right_and_only_from_neighbours():
    pull = puller("x")
    assert pull.chunk("x", 0, piece(0), 0)
    assert not pull.chunk("x", 0, piece(0), 0)
    assert not pull.chunk("stranger", 1, piece(1), 0)
    assert pull.statistics(0)[:2] == (1, 1)


def test_neighbours_hear_what_is_new_and_no_more_than_that():
    pull = puller("x", "y", "z")
    pull.told("x", 0b1)
    pull.told("y", ALL)
    assert pull.chunk("x", 0, piece(0), S)
    assert pull.notes(S) == [], "x has it, y has all, z has nothing to do with it"
    assert pull.chunk("y", 1, piece(1), S)
    assert pull.notes(S) == ["x"]
    assert pull.notes(S) == []
    assert pull.chunk("y", 2, piece(2), S)
    assert pull.notes(S + NOTE_NS - 1) == [], "too soon"
    assert pull.notes(S + NOTE_NS) == ["x"]


def test_whoever_has_nothing_to_do_with_it_yet_is_asked_again_soon_and_then_more_rarely():
    pull = puller("x")
    times, now_ns = [], 0
    while len(times) < 8:
        now_ns = pull.next_ns(now_ns)
        for ask in pull.asks(now_ns):
            times.append(now_ns)
            pull.answered(ask.peer, (), (), now_ns)
    pauses = [later - earlier for earlier, later in zip([0, *times], times, strict=False)]
    assert pauses[:3] == [REASK_FIRST_NS, 2 * REASK_FIRST_NS, 4 * REASK_FIRST_NS]
    assert pauses[-2:] == [REASK_NS, REASK_NS]
    pull.told("x", 0)
    assert pull.asks(now_ns + REASK_NS - 1) == []
    assert [ask.peer for ask in pull.asks(now_ns + REASK_NS)] == ["x"]


def test_there_is_a_limit_to_neighbours():
    pull = Puller(CONTENT, 0, "me", 0)
    for number in range(2 * SOURCES_MAX):
        pull.link_up(f"n{number}", 0)
    assert len(pull.asks(0)) == SOURCES_MAX


def test_what_could_not_be_written_is_asked_for_again():
    pull = puller("x")
    pull.told("x", 0b1)
    assert wanted(pull, 0) == {"x": (0,)}
    assert pull.chunk("x", 0, piece(0), 1)
    pull.lost(0)
    pull.answered("x", (0,), (0,), 1)
    until_asked(pull, "x", 1)
