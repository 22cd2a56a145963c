"""What a person's own sensor or features may be, and how it fails."""

import sys

import pytest

from agent.config import load
from agent.errors import ConfigError, SensorError
from agent.factories import made_by
from agent.forecast import Features
from agent.sensors.sensor import Sensor


def test_a_module_beside_the_file_can_be_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "my_lot_sensor.py").write_text(
        "class Lot:\n"
        "    ttl_ms = 1\n"
        "    def __init__(self, *given):\n        self.given = given\n"
        "    def observations(self): ...\n"
    )
    (tmp_path / "device.toml").write_text('device = "a"')
    load(tmp_path / "device.toml")
    assert made_by("my_lot_sensor:Lot", "a", {}, Sensor).given == ("a", {})
    del sys.modules["my_lot_sensor"]


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("no_such_module_at_all:make", "put the module beside device.toml"),
        ("agent.sensors.trace:mak", "has no callable mak"),
        ("agent.sensors.trace:APPROACHES", "has no callable"),
    ],
)
def test_a_factory_that_is_not_there_is_said_so(factory, reason):
    with pytest.raises(ConfigError, match=reason):
        made_by(factory, "a", {}, Sensor)


def test_a_module_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_broken_sensor.py").write_text("def (\n")
    with pytest.raises(
        ConfigError, match="my_broken_sensor cannot be imported: SyntaxError"
    ) as caught:
        made_by("my_broken_sensor:make", "a", {}, Sensor)
    assert "\n" not in str(caught.value)


def test_a_factory_that_fails_is_one_line_and_what_it_says_itself_stays(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_failing_sensor.py").write_text(
        "from agent.errors import SensorError\n"
        "def make(device, options):\n"
        "    if not options:\n"
        "        raise SensorError('no lamp')\n"
        "    return options['period_s']\n"
    )
    with pytest.raises(
        ConfigError,
        match=r"my_failing_sensor:make: it raised KeyError: 'period_s'; correct its options",
    ):
        made_by("my_failing_sensor:make", "a", {"perod_s": 1}, Sensor)
    with pytest.raises(SensorError, match=r"^no lamp$"):
        made_by("my_failing_sensor:make", "a", {}, Sensor)


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (Sensor, "returned NoneType, without ttl_ms, observations; agent.sensors.sensor:Sensor"),
        (Features, "without horizon_s, note, fill, state_age_ns; agent.forecast:Features is what"),
    ],
)
def test_a_factory_that_returns_something_else_is_one_line(tmp_path, monkeypatch, form, reason):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_forgetful_factory.py").write_text("def make(device, options):\n    device\n")
    with pytest.raises(ConfigError, match=reason):
        made_by("my_forgetful_factory:make", "a", {}, form)
