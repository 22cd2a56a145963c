"""What a camera reads from, and what may be said of it."""

import pytest

from agent.errors import SensorError
from agent.sensors.source import SourceKind, source_of


@pytest.mark.parametrize("where", [0, 3])
def test_a_number_is_a_camera_of_this_machine(where):
    assert source_of(where) == (SourceKind.DEVICE, where, f"/dev/video{where}")


def test_a_path_under_dev_is_one_too():
    assert source_of("/dev/video9").kind is SourceKind.DEVICE


def test_a_path_is_a_file(tmp_path):
    path = tmp_path / "yard.avi"
    with pytest.raises(SensorError, match=r"there is no file .*yard\.avi"):
        source_of(str(path))
    path.touch()
    assert source_of(str(path)) == (SourceKind.FILE, str(path), str(path))


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://192.0.2.40/stream", "rtsp://192.0.2.40"),
        ("rtsp://anna:hunter2@192.0.2.40:8554/live/hunter2", "rtsp://192.0.2.40:8554"),
        ("rtsps://camera:7441/hunter2?enableSrtp", "rtsps://camera:7441"),
        ("http://[2001:db8::1]:80/mjpg?password=hunter2", "http://[2001:db8::1]:80"),
        ("rtsp://anna:hunter2@hunter2@camera/", "rtsp://camera"),
    ],
)
def test_of_an_address_nothing_secret_is_shown(address, shown):
    source = source_of(address)
    assert source.kind is SourceKind.ADDRESS
    assert source.where == address
    assert source.shown == shown
    assert "hunter2" not in repr(source) + str(source)


@pytest.mark.parametrize(
    "address", ["ftp://anna:hunter2@camera/", "rtsp://", "rtsp://[hunter2", "rtsp://a:hunter2/"]
)
def test_an_address_that_cannot_be_read_is_not_shown_either(address):
    with pytest.raises(SensorError, match="rtsp://") as error:
        source_of(address)
    assert "hunter2" not in str(error.value)
    assert error.value.__cause__ is None
