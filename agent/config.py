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
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta

from agent.errors import ConfigError

__all__ = [
    "BrokerConfig",
    "Config",
    "ModelConfig",
    "NeighbourConfig",
    "SensorConfig",
    "load",
    "resolve",
]

Id: TypeAlias = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,32}\Z")]
Port: TypeAlias = Annotated[int, Meta(ge=0, le=65_535)]
Factory: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")]

NEIGHBOURS_MAX: Final = 64
"""As many links as a node takes (broker/node.py)."""


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of device.toml."""


class BrokerConfig(_Table, frozen=True):
    """`[broker]`: where this device's broker listens."""

    host: str = "127.0.0.1"
    """Address. Anything but loopback needs `plain_listen`, while links are not encrypted."""
    port: Port = 1883
    """0 picks a free one."""
    websocket_port: Port | None = None
    """MQTT over WebSocket; without it there is none."""
    plain_listen: bool = False
    """Listen unencrypted on an address that others can reach. For closed networks only."""


class NeighbourConfig(_Table, frozen=True):
    """`[[neighbour]]`: a device that this one dials."""

    name: Id
    host: str
    port: Annotated[int, Meta(ge=1, le=65_535)] = 1883


class SensorConfig(_Table, frozen=True):
    """`[sensor]`: where observations come from."""

    factory: Factory = "agent.sensors.trace:make"
    """`module:callable`; see agent/sensors/sensor.py."""
    options: dict[str, Any] = {}
    """Handed to the factory."""


class ModelConfig(_Table, frozen=True):
    """`[model]`: what this device infers."""

    name: Id = "forecaster"
    """Whose version on `flock/v1/{site}/model/{name}` is followed."""
    features: Factory = "agent.forecast:make"
    """`module:callable`; see agent/forecast.py."""
    directory: str | None = None
    """Folder with models.json and the files; by default the models that ship."""
    threads: Annotated[int, Meta(ge=1, le=8)] = 1
    """Of the runtime. More than cores less one makes everything slower."""
    options: dict[str, Any] = {}
    """Handed to the factory."""


class Config(_Table, frozen=True):
    """One device."""

    device: Id
    """Its id, unlike any other's in the fleet."""
    site: Id = "home"
    """Stands in every topic of the contract; devices of other sites are not listened to."""
    state: str = ""
    """Directory of its memory; by default `state/{device}` beside device.toml."""
    broker: BrokerConfig = BrokerConfig()
    neighbour: Annotated[tuple[NeighbourConfig, ...], Meta(max_length=NEIGHBOURS_MAX)] = ()
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
        raise ConfigError(f"{path} is not TOML: {error}") from None
    try:
        config = msgspec.convert(table, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_explain(str(error))}") from None
    _check(path, config)
    here = str(path.parent.resolve())
    if here not in sys.path:
        sys.path.append(here)
    state = Path(config.state) if config.state else Path("state") / config.device
    directory = config.model.directory if config.model else None
    if config.model and directory:
        model = msgspec.structs.replace(config.model, directory=str(path.parent / directory))
        config = msgspec.structs.replace(config, model=model)
    return msgspec.structs.replace(config, state=str(path.parent / state))


def resolve(factory: str) -> Any:
    """The callable behind `module:callable`.

    Raises:
        ConfigError: There is no such module or callable.
    """
    module_name, _, name = factory.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"{factory}: {error}; put the module beside device.toml, or install it"
        ) from None
    found = getattr(module, name, None)
    if not callable(found):
        raise ConfigError(f"{factory}: {module_name} has no callable {name}")
    return found


def _check(path: Path, config: Config) -> None:
    """What types cannot say."""
    names = [neighbour.name for neighbour in config.neighbour]
    for name in names:
        if name == config.device:
            raise ConfigError(f"{path}: [[neighbour]] {name} is this device itself; remove it")
        if names.count(name) > 1:
            raise ConfigError(f"{path}: [[neighbour]] {name} stands there twice; remove one")
    broker = config.broker
    if not broker.plain_listen and not _is_loopback(broker.host):
        raise ConfigError(
            f"{path}: [broker] host {broker.host} can be reached from outside, and links are not "
            "encrypted yet; listen on 127.0.0.1, or write plain_listen = true if the network is closed"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_UNKNOWN: Final = re.compile(r"unknown field `(?P<key>[^`]+)`(?: - at `\$\.?(?P<where>[^`]*)`)?")
_TABLES: Final[dict[str, type[msgspec.Struct]]] = {
    "": Config,
    "broker": BrokerConfig,
    "neighbour": NeighbourConfig,
    "sensor": SensorConfig,
    "model": ModelConfig,
}


def _explain(text: str) -> str:
    """Turn msgspec's sentence into one that names the table and, for a misspelt key, the likely one."""
    unknown = _UNKNOWN.search(text)
    if unknown is None:
        return text.replace("`$.", "`")
    table = re.sub(r"\[.*?\]", "", unknown["where"] or "")
    known = list(_TABLES[table].__struct_fields__) if table in _TABLES else []
    near = difflib.get_close_matches(unknown["key"], known, n=1)
    place = f" in [{table}]" if table else ""
    advice = f'did you mean "{near[0]}"?' if near else f"known are: {', '.join(known)}"
    return f'unknown key "{unknown["key"]}"{place}; {advice}'
