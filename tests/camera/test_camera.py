"""A camera as a sensor: from frames to what is in the way, with a real worker and a scripted camera."""

import asyncio
import io
import json
import sys
import threading
import time
from contextlib import aclosing
from types import ModuleType

import msgspec
import pytest
from rich.console import Console

from agent.commands.status import render
from agent.commands.status_form import Report
from agent.errors import SensorError
from agent.infer import standby, wire
from agent.sensors import camera, capture
from agent.sensors.camera import CameraSensor, Options, make
from tests.camera.lot import OBSTACLE, looking
from tests.camera.scripted import DETECTOR, GREEN, RED, Scripted, endless, scene
from tests.waiting import until

MODELS = DETECTOR.parent
SECRET = "hunter2"
ADDRESS = f"rtsp://anna:{SECRET}@192.0.2.40/{SECRET}"
DEADLINE_S = 30


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(capture, "PAUSE_S", 0.001)
    monkeypatch.setattr(capture, "PAUSE_MAX_S", 0.004)


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("person\ncar\n")
    return str(path)


def options(**more):
    chosen = {"source": ADDRESS, "model": str(DETECTOR), "frames_per_s": 240.0}
    return msgspec.convert(chosen | more, Options)


class Yard:
    """A camera that sees what the test puts there, every few milliseconds."""

    def __init__(self, *things):
        self.things = things
        self._ended = threading.Event()
        self.source = Scripted(endless(self._look))

    def _look(self):
        self._ended.wait(0.004)
        return scene(*self.things)

    def end(self):
        self._ended.set()


def watch(sensor, story):
    """Runs `story(next_where)`; `await next_where(condition)` is the next observation that fits."""

    async def bounded():
        async with asyncio.timeout(DEADLINE_S), aclosing(sensor.observations()) as observations:

            async def next_where(condition):
                async for observation in observations:
                    if condition(observation):
                        return observation
                raise AssertionError("the camera has ended")

            await story(next_where)

    asyncio.run(bounded())


def seen(count):
    return lambda observation: len(observation.sightings) == count


def test_one_standing_thing_is_one_obstacle_and_one_that_went_is_none(labels):
    yard = Yard((1, 0, RED))
    chosen = options(labels=labels, gone_ms=0, heights_m={"person": 1.8}, view_deg=90.0)
    sensor = CameraSensor(chosen, yard.source.open)

    async def story(next_where):
        observation = await next_where(seen(1))
        (person,) = observation.sightings
        assert (person.id, person.kind, person.approach) == ("seen-1", "person", "left")
        assert person.distance_m == pytest.approx(3.6, rel=0.01)  # a quarter of the picture
        assert observation.reading.standing == observation.reading.vehicles == (1, 0, 0)
        for _ in range(20):
            (again,) = (await next_where(lambda _: True)).sightings
            assert again == person
        yard.things = ((1, 0, RED), (3, 3, GREEN))
        two = (await next_where(seen(2))).sightings
        assert [(each.id, each.kind) for each in two] == [("seen-1", "person"), ("seen-2", "car")]
        yard.things = ((3, 3, GREEN),)
        (car,) = (await next_where(seen(1))).sightings
        assert (car.id, car.approach) == ("seen-2", "right")
        yard.things = ()
        assert (await next_where(seen(0))).reading.vehicles == (0, 0, 0)

    watch(sensor, story)


def test_observations_tell_of_newer_and_newer_frames():
    sensor = CameraSensor(options(), Yard((0, 0, RED)).source.open)

    async def story(next_where):
        moments = [(await next_where(lambda _: True)).captured_ns for _ in range(10)]
        assert moments == sorted(set(moments))

    watch(sensor, story)


def test_a_camera_that_is_unplugged_is_waited_for_and_what_stands_there_is_the_same():
    picture, pulled = scene((2, 2, RED)), threading.Event()

    def look():
        time.sleep(0.002)
        return picture

    def look_until_pulled():
        return OSError("no such device") if pulled.is_set() else look()

    gone = [OSError("no such device")] * 3
    source = Scripted(endless(look_until_pulled), *gone, endless(look))
    sensor = CameraSensor(options(frames_min=1), source.open)

    async def story(next_where):
        (before,) = (await next_where(seen(1))).sightings
        pulled.set()
        await until(lambda: source.opened == 5, "it is plugged in again")
        await until(lambda: sensor.report().state == "delivering", "it delivers")
        (after,) = (await next_where(seen(1))).sightings
        assert after.id == before.id
        assert sensor.report().counters["lost"] == 4

    watch(sensor, story)


def test_its_model_runs_on_an_edge_tpu_and_on_the_processor_while_that_is_away(tpu, monkeypatch):
    """What stands there is the same thing all the time."""
    edge_tpu, trouble = tpu
    monkeypatch.setattr(camera, "EdgeTpu", lambda: edge_tpu)
    monkeypatch.setattr(standby, "plugged_in", lambda: "USB 1-1")
    monkeypatch.setattr(standby, "AGAIN_S", 0.1)
    monkeypatch.setattr(standby, "OPEN_BACKOFF_S", 0.3)
    chosen = options(edge_tpu_model=str(MODELS / "detector_edgetpu.tflite"))
    sensor = CameraSensor(chosen, Yard((1, 0, RED)).source.open)

    async def story(next_where):
        async def on(where):
            observation = await next_where(lambda _: sensor.report().runs_on.startswith(where))
            for _ in range(5):
                observation = await next_where(seen(1))
            assert [each.id for each in observation.sightings] == ["seen-1"]

        await next_where(seen(1))
        await on(edge_tpu.library)
        (trouble / "unplugged").touch()
        await on("ai_edge_litert, no Edge TPU: ")
        (trouble / "unplugged").unlink()
        await on(edge_tpu.library)
        assert sensor.report().counters["failed"] == 0

    watch(sensor, story)


def test_what_is_reported_holds_no_secret(caplog):
    source = Scripted(OSError(ADDRESS), [scene()])
    sensor = CameraSensor(options(), source.open)
    reports = [sensor.report()]

    async def story(next_where):
        await next_where(lambda _: True)
        await until(lambda: sensor.report().last_problem == "it is unplugged", "it is away")
        reports.append(sensor.report())

    watch(sensor, story)
    assert [report.state for report in reports] == ["starting", "away"]
    assert reports[1].source == "rtsp://192.0.2.40"
    assert reports[1].last_problem == "it is unplugged"
    assert reports[1].counters["decided"] >= 1
    assert SECRET not in json.dumps(reports) + caplog.text


def test_room_for_its_model_is_waited_for(monkeypatch):
    monkeypatch.setattr(camera, "START_AGAIN_S", 0.01)
    nameless_file, asked = wire.nameless_file, []

    def full_at_first():
        asked.append(len(asked))
        if len(asked) == 3:  # those before are for tensors
            raise OSError(28, "No space left on device")
        return nameless_file()

    monkeypatch.setattr(wire, "nameless_file", full_at_first)
    yard = Yard()
    sensor = CameraSensor(options(), yard.source.open)

    async def story(next_where):
        await next_where(lambda _: True)
        yard.end()

    watch(sensor, story)
    assert len(asked) == 5


@pytest.mark.parametrize(
    ("model", "reason"),
    [("dense", "TFLite_Detection_PostProcess"), ("unknown_operator", "does not load")],
)
def test_a_model_that_detects_nothing_is_said_so(model, reason):
    sensor = CameraSensor(options(model=str(MODELS / f"{model}.tflite")), Scripted().open)

    async def story(next_where):
        await next_where(lambda _: True)

    with pytest.raises(SensorError, match=reason):
        watch(sensor, story)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"model": "nowhere.tflite"}, r"the model nowhere\.tflite .* cannot be read"),
        ({"edge_tpu_model": "nowhere.tflite"}, r"the model nowhere\.tflite .* cannot be read"),
        ({"labels": "nowhere.txt"}, r"labels nowhere\.txt cannot be read"),
        ({"source": "nowhere.avi"}, r"there is no file nowhere\.avi"),
    ],
)
def test_a_file_that_is_not_there_is_told_before_anything_starts(wrong, reason):
    with pytest.raises(SensorError, match=reason):
        CameraSensor(options(**wrong), Scripted().open)


@pytest.mark.parametrize(
    "wrong",
    [{}, {"source": 0}, {"source": 0, "model": "m", "colour": True}, {"source": -1, "model": "m"}],
)
def test_options_that_do_not_fit_are_told(wrong):
    with pytest.raises(SensorError, match=r"\[sensor\.options\].*docs/camera\.md"):
        make("lot-1", wrong)


def test_without_opencv_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.delitem(sys.modules, "agent.sensors.opencv", raising=False)
    with pytest.raises(SensorError, match=r"pip install 'flockmq\[camera\]'"):
        make("lot-1", {"source": 0, "model": str(DETECTOR)})


def shown(report):
    out = io.StringIO()
    render(msgspec.convert(report, Report), Console(file=out, width=300))
    return out.getvalue()


def test_a_device_says_what_its_camera_sees(tmp_path, monkeypatch, labels):
    yard = Yard((0, 3, GREEN))
    path = tmp_path / "device.toml"
    path.write_text('device = "lot-1"\n[broker]\nport = 0\n[sensor]\nfactory = "yard:make"\n')
    module = ModuleType("yard")
    module.make = lambda *_: CameraSensor(options(labels=labels), yard.source.open)
    monkeypatch.setitem(sys.modules, "yard", module)

    async def story():
        async with looking(path) as (device, heard):
            obstacle = json.loads(heard[OBSTACLE])
            assert (obstacle["kind"], obstacle["state"]) == ("car", "present")
            assert obstacle["approach"] == "right"
            assert obstacle["ttl_ms"] == 10_000
            assert json.loads(heard["flock/v1/home/sensor/lot-1/junction"])["vehicles"] == [0, 0, 1]
            assert device.report()["sensor"]["state"] == "delivering"
            text = shown(device.report())
            assert "sensor rtsp://192.0.2.40: delivering (frames " in text
            assert SECRET not in text
            yard.things = ()
            await until(lambda: json.loads(heard[OBSTACLE])["state"] == "gone", "it is gone")

    asyncio.run(story())
