"""`device.toml`: what one device is told before it starts.

Decides which settings there are, their defaults and their ranges; unknown keys are refused, since a misspelt one that
is ignored costs an afternoon. On failure: `ConfigError`, one line with file, key and way out.
"""

from __future__ import annotations

import difflib
import importlib
import ipaddress
import re
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from agent.config_types import ID_PATTERN, FarPort, Id, Table
from agent.errors import ConfigError
from agent.foreign import BridgeConfig, CrossingConfig, HubConfig, foreign_problem

__all__ = [
    "BridgeConfig",
    "BrokerConfig",
    "Config",
    "HubConfig",
    "ModelConfig",
    "NeighbourConfig",
    "SensorConfig",
    "StoreConfig",
    "load",
    "resolve",
]

FACTORY_PATTERN: Final = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z"

Port: TypeAlias = Annotated[int, Meta(ge=0, le=65_535)]
Factory: TypeAlias = Annotated[str, Meta(pattern=FACTORY_PATTERN)]

NEIGHBOURS_MAX: Final = 64
"""As many links as a node takes (broker/links.py)."""
HUBS_MAX: Final = 4
"""One and a spare, twice. Guess."""
BRIDGES_MAX: Final = 8
"""Every message is looked up once for each of them. Guess."""


class BrokerConfig(Table, frozen=True):
    """`[broker]`: where this device's broker listens."""

    host: str = "127.0.0.1"
    """Address. Anything but loopback needs `plain_listen`, while links are not encrypted."""
    port: Port = 1883
    """0 picks a free one."""
    websocket_port: Port | None = None
    """MQTT over WebSocket; without it there is none."""
    plain_listen: bool = False
    """Listen unencrypted on an address that others can reach. For closed networks only."""


class StoreConfig(Table, frozen=True):
    """`[store]`: what this device's memory promises."""

    durability: Literal["power", "process"] = "power"
    """What an acknowledged publish survives: a power cut, or only the process being killed."""


class NeighbourConfig(Table, frozen=True):
    """`[[neighbour]]`: a device that this one dials."""

    name: Id
    """Its id; each neighbour once, and never this device itself."""
    host: str
    """Address or name of where its broker listens."""
    port: FarPort = 1883
    """TCP port of its broker."""


class SensorConfig(Table, frozen=True):
    """`[sensor]`: where observations come from."""

    factory: Factory = "agent.sensors.trace:make"
    """`module:callable`; see agent/sensors/sensor.py."""
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    """Handed to the factory."""


class ModelConfig(Table, frozen=True):
    """`[model]`: what this device infers."""

    name: Id = "forecaster"
    """Whose version on `flock/v1/{site}/model/{name}` is followed."""
    features: Factory = "agent.forecast:make"
    """`module:callable`; see agent/forecast.py."""
    directory: str | None = None
    """Folder with models.json and the files; by default the models that ship."""
    threads: Annotated[int, Meta(ge=1, le=8)] = 1
    """Of the runtime. More than cores less one makes everything slower."""
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    """Handed to the factory."""


class Config(Table, frozen=True):
    """One device."""

    device: Id
    """Its id, unlike any other's in the fleet."""
    site: Id = "home"
    """Stands in every topic of the contract; devices of other sites are not listened to."""
    state: str = ""
    """Directory of its memory; by default `state/{device}` beside device.toml."""
    broker: BrokerConfig = BrokerConfig()
    store: StoreConfig = StoreConfig()
    neighbour: Annotated[tuple[NeighbourConfig, ...], Meta(max_length=NEIGHBOURS_MAX)] = ()
    hub: Annotated[tuple[HubConfig, ...], Meta(max_length=HUBS_MAX)] = ()
    """Third-party brokers at which this device meets others."""
    bridge: Annotated[tuple[BridgeConfig, ...], Meta(max_length=BRIDGES_MAX)] = ()
    """Foreign brokers whose own clients are joined to the mesh."""
    sensor: SensorConfig | None = None
    """Without it the device relays and has a picture of the world."""
    model: ModelConfig | None = None
    """Without it the device infers nothing."""


def load(path: Path | str) -> Config:
    """Read device.toml. Modules that it names may stand beside it.

    Raises:
        ConfigError: It cannot be used.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}; name your device.toml with --config"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {_one_line(error)}; correct that line") from None
    try:
        config = msgspec.convert(table, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_one_line(_explain(str(error)))}") from None
    problem = _problem(config)
    if problem:
        raise ConfigError(f"{path}: {_one_line(problem)}")
    here = str(path.parent.resolve())
    if here not in sys.path:
        sys.path.append(here)
    state = Path(config.state) if config.state else Path("state") / config.device
    directory = config.model.directory if config.model else None
    if config.model and directory:
        model = msgspec.structs.replace(config.model, directory=str(path.parent / directory))
        config = msgspec.structs.replace(config, model=model)
    hubs = tuple(hub.beside(path.parent) for hub in config.hub)
    bridges = tuple(bridge.beside(path.parent) for bridge in config.bridge)
    state = path.parent / state
    return msgspec.structs.replace(config, state=str(state), hub=hubs, bridge=bridges)


def resolve(factory: str) -> Any:
    """The callable behind `module:callable`.

    Raises:
        ConfigError: There is no such module or callable, or importing the module fails.
    """
    module_name, _, name = factory.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"factory {factory}: {error}; put the module beside device.toml, or install it"
        ) from None
    except Exception as error:  # a person's own module may fail in any way while it is imported
        what = f"{type(error).__name__}: {_one_line(error)}"
        raise ConfigError(
            f"factory {factory}: {module_name} cannot be imported: {what}; "
            f"`python -c 'import {module_name}'` shows where"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        raise ConfigError(
            f"factory {factory}: {module_name} has no callable {name}; define it there"
        )
    return found


def _problem(config: Config) -> str:
    """What is wrong that types cannot say; empty if nothing is."""
    names = [neighbour.name for neighbour in config.neighbour]
    if config.device in names:
        return f"[[neighbour]] {config.device} is this device itself; remove it"
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        return f"[[neighbour]] {twice[0]} stands there twice; remove one"
    broker = config.broker
    if broker.port and broker.port == broker.websocket_port:
        return f"port and websocket_port in [broker] are both {broker.port}; choose another for one"
    if not broker.plain_listen and not _is_loopback(broker.host):
        return (
            f"[broker] host {broker.host} can be reached from outside, and links are not encrypted yet; "
            "listen on 127.0.0.1, or write plain_listen = true if the network is closed"
        )
    return foreign_problem(config.hub, config.bridge)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_TABLES: Final[dict[str, type[msgspec.Struct]]] = {
    "": Config,
    "broker": BrokerConfig,
    "store": StoreConfig,
    "neighbour": NeighbourConfig,
    "hub": HubConfig,
    "bridge": BridgeConfig,
    "in": CrossingConfig,
    "out": CrossingConfig,
    "sensor": SensorConfig,
    "model": ModelConfig,
}
_KINDS: Final = {
    "int": "a whole number",
    "str": 'text in "quotes"',
    "bool": "true or false",
    "float": "a number with a point",
    "array": "a list",
    "object": "a table",
}
"""What msgspec calls a TOML value, and what a person does; dates and times keep their names."""
_PATTERNS: Final = {
    repr(ID_PATTERN): "1 to 32 characters of a-z, 0-9 and -",
    repr(FACTORY_PATTERN): 'written as "module:callable"',
}
_PLACE: Final = re.compile(r" - at `\$\.?(?P<place>[^`]*)`$")
_UNKNOWN: Final = re.compile(r"unknown field `(?P<key>.*)`$", re.DOTALL)
_ABSENT: Final = re.compile(r"missing required field `(?P<key>.*)`$")
_WRONG: Final = re.compile(
    r"Expected `(?P<want>\w+)[^`]*`"
    r"(?:, got `(?P<got>.*)`| matching regex (?P<pattern>.*)|(?P<range>.*))$"
)


def _explain(text: str) -> str:
    """Say msgspec's sentence in terms of device.toml, with the way out."""
    found = _PLACE.search(text)
    place = found["place"] if found else ""
    text = _PLACE.sub("", text)
    if unknown := _UNKNOWN.search(text):
        return f'unknown key "{unknown["key"]}"{_table(place)}; {_advice(unknown["key"], place)}'
    if absent := _ABSENT.search(text):
        return f'the key "{absent["key"]}" is missing{_table(place)}; add it'
    table, _, key = place.rpartition(".")
    what = f'"{key}"{_table(table)}'
    wrong = _WRONG.match(text)
    if wrong is None:
        return f"{what}: {text}"
    wanted = _KINDS.get(wrong["want"], wrong["want"])
    if wrong["pattern"]:
        return f"{what} must be {_PATTERNS.get(wrong['pattern'], wrong['pattern'])}"
    if wrong["got"]:
        return f"{what} must be {wanted}, not {_KINDS.get(wrong['got'], wrong['got'])}"
    return f"{what} must be {wanted}{wrong['range']}"


def _table(place: str) -> str:
    """` in [broker]`, ` in [[neighbour]] number 2`, or ` in entry 1 of in of [[bridge]] number 1`."""
    outer, _, inner = place.partition(".")
    name, _, index = outer.rstrip("]").partition("[")
    text = f"[[{name}]] number {int(index) + 1}" if index else f"[{name}]"
    if inner:
        name, _, index = inner.rstrip("]").partition("[")
        text = f"entry {int(index) + 1} of {name} of {text}" if index else f"{name} of {text}"
    return f" in {text}" if place else ""


def _advice(key: str, place: str) -> str:
    known = _TABLES[place.rpartition(".")[2].partition("[")[0]].__struct_encode_fields__
    near = difflib.get_close_matches(key, known, n=1)
    return f'did you mean "{near[0]}"?' if near else f"known are: {', '.join(known)}"
