"""What happens when."""

import asyncio

import pytest

from agent.demo.plan import CUT_OFF, DEVICES, KILLED, LINKS, WATCHED
from agent.demo.scenario import Act, Step, play, timeline


def test_half_a_minute():
    assert timeline(30, calm=False) == (
        Step(10, Act.KILL),
        Step(13, Act.START_AGAIN),
        Step(15, Act.NEW_MODEL),
        Step(20, Act.CUT),
        Step(23, Act.HEAL),
    )


def test_a_calm_run_has_no_steps():
    assert timeline(30, calm=True) == ()


@pytest.mark.parametrize("seconds", [1, 6, 9, 12, 18, 60, 3600])
def test_faults_never_overlap_and_end_before_the_run(seconds):
    steps = {step.act: step.at_s for step in timeline(seconds, calm=False)}
    assert set(steps) == set(Act)
    assert steps[Act.KILL] < steps[Act.START_AGAIN] < steps[Act.CUT] < steps[Act.HEAL] < seconds
    assert steps[Act.HEAL] - steps[Act.CUT] == pytest.approx(min(3, seconds / 6))
    assert steps[Act.NEW_MODEL] == seconds / 2


def test_steps_are_played_in_order_when_they_are_due():
    events = []

    class Stage:
        async def perform(self, act):
            events.append(act)

    async def wait_until(at_s):
        events.append(at_s)

    asyncio.run(play((Step(1, Act.CUT), Step(2, Act.HEAL)), Stage(), wait_until))
    assert events == [1, Act.CUT, 2, Act.HEAL]


def connected(devices, links):
    reached = {next(iter(devices))}
    for _ in devices:
        for a, b in links:
            if {a, b} <= devices and {a, b} & reached:
                reached |= {a, b}
    return reached == devices


def test_both_halves_and_the_rest_after_a_kill_stay_connected():
    everybody = set(DEVICES)
    assert connected(everybody, LINKS)
    assert connected(set(CUT_OFF), LINKS)
    assert connected(everybody - CUT_OFF, LINKS)
    assert connected(everybody - {KILLED}, LINKS)
    assert WATCHED != KILLED


def test_the_links_are_a_ring_with_one_chord():
    assert len(LINKS) == len(DEVICES) + 1
    *ring, chord = LINKS
    assert all(sum(device in link for link in ring) == 2 for device in DEVICES)
    assert frozenset(chord) not in {frozenset(link) for link in ring}
