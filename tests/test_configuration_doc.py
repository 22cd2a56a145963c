"""docs/configuration.md shows every key of device.toml, and what it shows is read."""

import re
import tomllib
from pathlib import Path
from typing import get_args

from agent.config import Config, load
from agent.foreign import CrossingConfig
from agent.sensors import camera
from agent.sensors.trace import Options
from broker.topology import Kind

PAGE = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text()
TOML = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1]


def test_the_page_is_read_and_shows_every_key(tmp_path):
    path = tmp_path / "device.toml"
    path.write_text(TOML)
    config = load(path)
    shown = tomllib.loads(TOML)
    assert set(shown) == set(Config.__struct_fields__)
    tables = {"broker", "tls", "users", "store", "topology", "discovery", "sensor", "model"}
    for table in tables:
        assert set(shown[table]) == set(getattr(config, table).__struct_fields__)
    for table in ("neighbour", "hub", "bridge"):
        assert set(shown[table][0]) == set(getattr(config, table)[0].__struct_encode_fields__)
    for crossing in ("in", "out"):
        assert set(shown["bridge"][0][crossing][0]) == set(CrossingConfig.__struct_fields__)


def first_column(heading):
    table = PAGE.partition(heading)[2].partition("\n\n")[2].partition("\n\n")[0]
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


def test_the_page_shows_every_option_of_the_trace():
    assert first_column("Options of the recorded trace") == list(Options.__struct_fields__)


def test_the_page_shows_every_option_of_a_camera():
    assert first_column("Options of a camera") == list(camera.Options.__struct_fields__)


def test_the_page_shows_every_kind_of_topology():
    assert first_column("The kinds of topology") == list(get_args(Kind))
