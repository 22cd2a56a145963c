"""Real files, cameras that are not there, and streams, read by OpenCV."""

import asyncio
import contextlib
import http.server
import json
import random
import socket
import threading

import pytest

from agent.sensors.capture import SourceLost
from agent.sensors.source import source_of
from tests.camera.lot import OBSTACLE, looking
from tests.camera.scripted import DETECTOR, RED, scene

cv2 = pytest.importorskip("cv2", reason="no OpenCV here; pip install -e '.[camera]'")
opencv = pytest.importorskip("agent.sensors.opencv")

SECRET = "hunter2"
FRAMES = 5
FPS = 20


@pytest.fixture
def video(tmp_path):
    """A few frames with a red thing in them."""
    path = tmp_path / "yard.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), FPS, (64, 64))
    assert writer.isOpened()
    for _ in range(FRAMES):
        writer.write(cv2.cvtColor(scene((1, 1, RED)), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def opened(where, width=64, height=64):
    return opencv.OpenCvSource(source_of(where), width, height)


def frames(source):
    """All frames to the end."""
    found = []
    with contextlib.closing(source):
        while source.grab():
            found.append(source.picture())
    return found


def test_a_file_gives_its_frames_and_ends(video):
    source = opened(str(video))
    assert source.period_s == pytest.approx(1 / FPS)
    pictures = frames(source)
    assert len(pictures) == FRAMES
    for picture in pictures:
        assert picture.shape == (64, 64, 3)
        red, green, blue = picture[24, 24]
        assert red > 200 and green < 60 and blue < 60
        assert picture[56, 56].max() < 60


def test_pictures_come_as_large_as_the_model_wants_them(video):
    pictures = frames(opened(str(video), width=32, height=48))
    assert {picture.shape for picture in pictures} == {(48, 32, 3)}


def test_a_damaged_file_gives_what_is_left_of_it_or_nothing(video, tmp_path):
    """Whatever is wrong, it is a lost source or fewer frames, never an exception of another kind."""
    whole, chance = video.read_bytes(), random.Random(1)
    damaged = [
        b"",
        bytes(1000),
        whole[: len(whole) // 2],
        whole[:100],
        chance.randbytes(len(whole)),
    ]
    for _ in range(10):
        flipped = bytearray(whole)
        for _ in range(50):
            flipped[chance.randrange(len(flipped))] = chance.randrange(256)
        damaged.append(bytes(flipped))
    for number, data in enumerate(damaged):
        path = tmp_path / f"damaged-{number}.avi"
        path.write_bytes(data)
        try:
            pictures = frames(opened(str(path)))
        except SourceLost:
            continue
        assert len(pictures) <= 2 * FRAMES
        assert all(picture is None or picture.shape == (64, 64, 3) for picture in pictures)


def test_a_picture_that_is_too_large_is_refused(video, monkeypatch):
    monkeypatch.setattr(opencv, "PIXELS_MAX", 64 * 64 - 1)
    with pytest.raises(SourceLost, match="4096 pixels"):
        opened(str(video))


@pytest.mark.parametrize("where", [250, "/dev/video250"])
def test_a_camera_that_is_not_plugged_in_is_lost(where):
    with pytest.raises(SourceLost, match="cannot be opened"):
        opened(where)


def test_a_stream_that_refuses_is_lost_and_nothing_secret_is_written(capfd):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(SourceLost, match="cannot be opened") as lost:
        opened(f"rtsp://anna:{SECRET}@127.0.0.1:{port}/{SECRET}")
    written = capfd.readouterr()
    assert SECRET not in written.out + written.err + str(lost.value)


def test_a_stream_that_says_nothing_is_lost_in_time(monkeypatch):
    monkeypatch.setattr(opencv, "OPEN_MS", 300)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(SourceLost, match="cannot be opened"),
    ):
        opened(f"rtsp://127.0.0.1:{silent.getsockname()[1]}/live")


class _Stream(http.server.BaseHTTPRequestHandler):
    """A camera that speaks HTTP: JPEG after JPEG, and then it hangs up."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        picture = cv2.cvtColor(scene((1, 1, RED)), cv2.COLOR_RGB2BGR)
        jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
        for _ in range(FRAMES):
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg + b"\r\n")

    def log_message(self, *_):
        pass


def test_a_stream_that_ends_gives_its_frames_before():
    with http.server.HTTPServer(("127.0.0.1", 0), _Stream) as server:
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        source = opened(f"http://127.0.0.1:{server.server_port}/stream.mjpg")
        assert source.period_s == 0
        pictures = frames(source)
        server.shutdown()
        serving.join()
    assert 1 <= len(pictures) <= FRAMES
    assert pictures[0][24, 24, 0] > 200


def test_a_device_reads_a_file_and_says_what_stands_there(video, tmp_path):
    path = tmp_path / "device.toml"
    path.write_text(
        f"""
device = "lot-1"
[broker]
port = 0
[sensor]
factory = "agent.sensors.camera:make"
options = {{ source = "{video}", model = "{DETECTOR}", frames_min = 2, frames_per_s = 20.0 }}
"""
    )

    async def story():
        async with looking(path) as (device, heard):
            assert json.loads(heard[OBSTACLE])["kind"] == "class-0"
            report = device.report()["sensor"]
            assert report["source"] == str(video)

    asyncio.run(story())
