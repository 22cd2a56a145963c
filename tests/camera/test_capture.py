"""The thread behind a camera: newest frame, lost sources, drivers that hang."""

import asyncio
import logging
import threading
import time

import pytest

from agent.sensors import capture
from agent.sensors.capture import ABANDONED_MAX, Capture, SourceLost
from tests.camera.scripted import DEADLINE_S, Scripted, endless, held, scene
from tests.waiting import until

PICTURE = scene()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(capture, "PAUSE_S", 0.001)
    monkeypatch.setattr(capture, "PAUSE_MAX_S", 0.004)


def run(source, story, *, frames_per_s=1e6, hang_s=20.0):
    """Runs `story(capture, frames)` beside a capture."""
    frames = []

    async def bounded():
        async with asyncio.timeout(DEADLINE_S):
            camera = Capture("yard", source.open, frames_per_s, frames.append, hang_s=hang_s)
            camera.start()
            try:
                await story(camera, frames)
            finally:
                await camera.close()

    asyncio.run(bounded())


def test_frames_come_with_their_moment():
    done = threading.Event()
    source = Scripted([PICTURE, held(done)])

    async def story(camera, frames):
        await until(lambda: frames, "a frame")
        assert frames[0].picture is PICTURE
        assert frames[0].captured_ns > 0
        assert camera.statistics().state == "delivering"
        done.set()

    run(source, story)
    assert source.closed == source.opened


def test_while_the_device_is_busy_the_newest_frame_takes_the_place_of_older_ones():
    first, second, third = (scene((0, column, (255, 0, 0))) for column in range(3))
    all_given, done = threading.Event(), threading.Event()

    def say_so():
        all_given.set()
        return held(done)()

    source = Scripted([first, second, third, say_so])

    async def story(camera, frames):
        assert all_given.wait(DEADLINE_S)  # and the event loop stands still
        await until(lambda: frames, "a frame")
        assert [frame.picture is third for frame in frames] == [True]
        assert camera.statistics().superseded == 2
        done.set()

    run(source, story)


def test_frames_that_nobody_asked_for_are_not_even_made():
    passed, done = threading.Event(), threading.Event()

    def say_so():
        passed.set()
        return held(done)()

    source = Scripted([*[PICTURE] * 20, say_so])

    async def story(camera, frames):
        await until(passed.is_set, "all frames")
        await until(lambda: frames, "a frame")
        assert len(frames) == source.made == 1
        done.set()

    run(source, story, frames_per_s=0.001)


def test_a_stream_that_ends_is_opened_again(caplog):
    source = Scripted([PICTURE], [PICTURE], SourceLost("no answer"), [PICTURE])

    async def story(camera, frames):
        with caplog.at_level(logging.INFO, "agent.sensors.capture"):
            await until(lambda: camera.statistics().lost > 5, "it is unplugged in the end")
        statistics = camera.statistics()
        assert (statistics.state, statistics.last_problem) == ("away", "it is unplugged")
        assert statistics.opened == 3
        assert statistics.frames + statistics.superseded == 3

    run(source, story)
    said = [record.getMessage() for record in caplog.records]
    assert said.count("camera yard is away: it is unplugged; it is tried again") == 1
    assert said.count("camera yard is away: it gives no frames any more; it is tried again") == 3


def test_a_recording_begins_again_without_a_word(caplog):
    done = threading.Event()
    source = Scripted([PICTURE], [PICTURE], [PICTURE, held(done)], period_s=0.001)

    async def story(camera, frames):
        with caplog.at_level(logging.WARNING, "agent.sensors.capture"):
            await until(lambda: camera.statistics().opened == 3, "the third time")
            assert camera.statistics().lost == 0
        done.set()

    run(source, story)
    assert not [text for record in caplog.records if "any more" in (text := record.getMessage())]


def test_a_recording_without_a_frame_is_a_problem():
    source = Scripted([], period_s=0.04)

    async def story(camera, frames):
        await until(lambda: camera.statistics().lost, "it is told")
        assert camera.statistics().last_problem in {"it gives no frames", "it is unplugged"}

    run(source, story)


def test_damaged_frames_are_counted_and_passed_over():
    done = threading.Event()
    source = Scripted([None, None, PICTURE, held(done)])

    async def story(camera, frames):
        await until(lambda: frames, "the frame that is whole")
        assert camera.statistics().damaged == 2
        done.set()

    run(source, story)


def test_what_a_driver_raises_costs_one_attempt_and_its_text_is_not_shown(caplog):
    done = threading.Event()
    source = Scripted([ValueError("rtsp://anna:secret@camera/")], [PICTURE, held(done)])

    async def story(camera, frames):
        await until(lambda: frames, "a frame after all")
        assert camera.statistics().last_problem == "its driver raised ValueError"
        done.set()

    run(source, story)
    assert "secret" not in caplog.text


def test_a_driver_that_hangs_is_given_up_and_the_camera_comes_back():
    stuck = threading.Event()
    before, late, after = (scene((0, column, (255, 0, 0))) for column in range(3))

    def comes_back_late():
        stuck.wait(DEADLINE_S)
        return late

    def look():
        time.sleep(0.005)
        return after

    source = Scripted([before, comes_back_late], endless(look))

    async def story(camera, frames):
        await until(lambda: frames and frames[-1].picture is after, "the camera is back")
        statistics = camera.statistics()
        assert statistics.hung == 1
        assert "has not answered" in statistics.last_problem
        assert statistics.state == "delivering"
        stuck.set()
        await until(lambda: source.closed, "the first thread has let go")
        assert not any(frame.picture is late for frame in frames)

    run(source, story, hang_s=0.5)


def test_not_more_than_a_few_threads_hang_at_a_time():
    stuck = [threading.Event() for _ in range(ABANDONED_MAX + 2)]
    source = Scripted(*([held(event)] for event in stuck))

    async def story(camera, frames):
        await until(lambda: source.opened == ABANDONED_MAX + 1, "the last that may hang")
        assert camera.statistics().hung == ABANDONED_MAX
        stuck[0].set()
        await until(lambda: camera.statistics().hung == ABANDONED_MAX + 1, "one has come back")
        for event in stuck:
            event.set()

    run(source, story, hang_s=0.1)
