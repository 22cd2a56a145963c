import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import liveness
from agent.limits import HEALTH_MAX, LAG_TOLERATED_NS, PEERS_MAX
from agent.liveness import Liveness, patience_ms, phi

S = 1_000_000_000
MS = 1_000_000


@pytest.mark.parametrize(
    ("elapsed_ms", "mean_ms", "deviation_ms", "expected"),
    [
        # At the mean, half of all silences are longer.
        (1_000, 1_000, 100, math.log10(2)),
        (0, 1_000, 100, 0.0),
        # The normal distribution's tails beyond 1, 2, 3 and 4 deviations.
        (1_100, 1_000, 100, -math.log10(0.15866)),
        (1_200, 1_000, 100, -math.log10(0.02275)),
        (1_300, 1_000, 100, -math.log10(0.00135)),
        (1_400, 1_000, 100, -math.log10(3.167e-5)),
        (1e9, 1_000, 100, math.inf),
        (0, 1e9, 100, 0.0),
    ],
)
def test_phi_is_the_logarithm_of_the_tail(elapsed_ms, mean_ms, deviation_ms, expected):
    assert phi(elapsed_ms, mean_ms, deviation_ms) == pytest.approx(expected, rel=0.06, abs=0.01)


@given(st.floats(100, 10_000), st.floats(100, 1_000))
def test_patience_is_where_phi_reaches_the_threshold(mean_ms, deviation_ms):
    limit_ms = patience_ms(mean_ms, deviation_ms)
    assert phi(limit_ms, mean_ms, deviation_ms) == pytest.approx(liveness.THRESHOLD, rel=1e-6)
    assert phi(limit_ms * 1.01, mean_ms, deviation_ms) > liveness.THRESHOLD
    assert phi(limit_ms * 0.99, mean_ms, deviation_ms) < liveness.THRESHOLD


@given(st.floats(0, 20_000), st.floats(0, 20_000), st.floats(100, 5_000), st.floats(100, 1_000))
def test_phi_only_grows_with_the_silence(first_ms, second_ms, mean_ms, deviation_ms):
    shorter, longer = sorted((first_ms, second_ms))
    assert phi(shorter, mean_ms, deviation_ms) <= phi(longer, mean_ms, deviation_ms)


def _regular(detector, device="j-2", beats=20, start_ns=0, incarnation=1):
    for beat in range(beats):
        detector.heartbeat(device, incarnation, start_ns + beat * S)
    return start_ns + (beats - 1) * S


def test_regular_heartbeats_then_silence():
    detector = Liveness()
    assert detector.alive(0) == ()
    last_ns = _regular(detector)
    # Mean 1 s, the acceptable pause of 3 s, and the least deviation times 5.2.
    assert detector.alive(last_ns + 4 * S) == ("j-2",)
    assert detector.alive(last_ns + 6 * S) == ()
    assert detector.phi("j-2", last_ns + 1 * S) < 1 < liveness.THRESHOLD
    assert detector.phi("j-2", last_ns + 6 * S) > liveness.THRESHOLD
    assert detector.phi("j-9", last_ns) == math.inf


def test_alive_and_phi_agree():
    detector = Liveness()
    last_ns = _regular(detector, beats=7)
    for silence_ms in range(0, 10_000, 50):
        now_ns = last_ns + silence_ms * MS
        suspected = detector.phi("j-2", now_ns) >= liveness.THRESHOLD
        assert (detector.alive(now_ns) == ()) is suspected


def test_irregular_heartbeats_earn_more_patience():
    regular, irregular = Liveness(), Liveness()
    _regular(regular, beats=50)
    for beat in range(50):
        irregular.heartbeat("j-2", 1, beat * S + (beat % 2) * 800 * MS)
    patience = [each.peers.get("j-2").patience_ns for each in (regular, irregular)]
    assert patience[1] > patience[0] + S


def test_an_outage_is_not_learnt():
    detector = Liveness()
    last_ns = _regular(detector, beats=50)
    before = detector.peers.get("j-2").patience_ns
    back_ns = last_ns + 3_600 * S
    assert detector.alive(back_ns) == ()
    detector.heartbeat("j-2", 1, back_ns)
    assert detector.alive(back_ns) == ("j-2",)
    assert detector.peers.get("j-2").patience_ns == before


def test_a_new_incarnation_is_no_interval():
    detector = Liveness()
    last_ns = _regular(detector, beats=50)
    before = detector.peers.get("j-2").patience_ns
    detector.heartbeat("j-2", 2, last_ns + 4 * S)
    assert detector.peers.get("j-2") == (2, last_ns + 4 * S, before)


def test_a_broken_link_withdraws_the_pause_until_the_next_heartbeat():
    detector = Liveness()
    last_ns = _regular(detector, beats=50)
    detector.link_lost("j-2")
    detector.link_lost("j-9")  # never heard: nothing to say about it
    assert detector.alive(last_ns + 1 * S) == ("j-2",)
    assert detector.alive(last_ns + 2 * S) == ()
    detector.heartbeat("j-2", 1, last_ns + 1 * S)
    assert detector.alive(last_ns + 4 * S) == ("j-2",)


def test_a_goodbye_holds_against_heartbeats_that_were_under_way():
    detector = Liveness()
    last_ns = _regular(detector)
    detector.left("j-2", 1)
    detector.left("j-3", 4)
    detector.heartbeat("j-2", 1, last_ns + 1)
    detector.heartbeat("j-3", 4, last_ns + 1)
    assert detector.alive(last_ns + 1) == ()
    detector.heartbeat("j-2", 2, last_ns + 2)
    detector.left("j-2", 1)  # an old goodbye says nothing about the new incarnation
    assert detector.alive(last_ns + 2) == ("j-2",)


def test_our_own_lateness_lengthens_every_patience():
    detector = Liveness()
    last_ns = _regular(detector)
    assert detector.alive(last_ns + 6 * S) == ()
    detector.loop_lag(LAG_TOLERATED_NS + 1)
    assert detector.alive(last_ns + 6 * S) == ("j-2",)
    for _ in range(20):
        detector.loop_lag(LAG_TOLERATED_NS + 1)
    assert detector.factor == HEALTH_MAX + 1
    for _ in range(20):
        detector.loop_lag(LAG_TOLERATED_NS)
    assert detector.factor == 1
    assert detector.alive(last_ns + 6 * S) == ()


def test_the_window_forgets_what_is_old():
    detector = Liveness()
    now_ns = 0
    for beat in range(3 * liveness.INTERVALS_MAX):
        now_ns += 2 * S if beat < liveness.INTERVALS_MAX else S
        detector.heartbeat("j-2", 1, now_ns)
    expected_ms = patience_ms(1_000 + liveness.PAUSE_MS, liveness.DEVIATION_MS_MIN)
    assert detector.peers.get("j-2").patience_ns == int(expected_ms * MS)


def test_peers_are_bounded_and_the_longest_silent_goes():
    detector = Liveness()
    for number in range(PEERS_MAX + 1):
        detector.heartbeat(f"j-{number}", 1, number)
    assert len(detector.peers) == PEERS_MAX
    assert detector.peers.get("j-0") is None
    for number in range(PEERS_MAX + 1):
        detector.left(f"k-{number}", 1)
    assert len(detector._ended) == PEERS_MAX
