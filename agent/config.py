"""`device.toml`: what one device is told before it starts.

Decides which settings there are, their defaults and their ranges; unknown keys are refused, since a misspelt one that
is ignored costs an afternoon. On failure: `ConfigError`, one line with file, key and way out.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from agent.addresses import is_loopback, parse_address
from agent.config_errors import Explainer, one_line
from agent.config_types import ID_PATTERN, FarPort, Id, Table
from agent.errors import ConfigError
from agent.foreign import BridgeConfig, CrossingConfig, HubConfig, foreign_problem
from agent.infer.limits import DEADLINE_MS, STATE_AGE_MAX_MS
from broker.topology import FAR_MAX, NEAR_MAX, Kind

__all__ = [
    "BridgeConfig",
    "BrokerConfig",
    "Config",
    "DiscoveryConfig",
    "HubConfig",
    "ModelConfig",
    "NeighbourConfig",
    "SensorConfig",
    "StoreConfig",
    "TlsConfig",
    "TopologyConfig",
    "UsersConfig",
    "load",
]

FACTORY_PATTERN: Final = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z"
EDGE_TPU_PATTERN: Final = r"^(auto|off|usb(:\d+)?|pci(:\d+)?|:\d+)\Z"

Port: TypeAlias = Annotated[int, Meta(ge=0, le=65_535)]
Factory: TypeAlias = Annotated[str, Meta(pattern=FACTORY_PATTERN)]

NEIGHBOURS_MAX: Final = 64
"""As many links as a node takes (broker/links.py)."""
HUBS_MAX: Final = 4
"""One and a spare, twice. Guess."""
BRIDGES_MAX: Final = 8
"""Every message is looked up once for each of them. Guess."""
SEEDS_MAX: Final = 16
"""Two or three are enough; each is asked every minute."""


class BrokerConfig(Table, frozen=True):
    """`[broker]`: where this device's broker listens."""

    host: str = "127.0.0.1"
    """Address of plain MQTT. Anything but loopback needs `plain_listen`; [tls] is for others."""
    port: Port = 1883
    """0 picks a free one."""
    websocket_port: Port | None = None
    """MQTT over WebSocket; without it there is none."""
    plain_listen: bool = False
    """Listen unencrypted on an address that others can reach, and dial others without encryption. For closed networks
    only."""


class TlsConfig(Table, frozen=True):
    """`[tls]`: this device's identity, and where it listens for neighbours and remote clients, by mutual TLS 1.3."""

    identity: str = "identity"
    """Folder with ca.pem, own.pem and own.key, as `flockmq enroll` and `flockmq ca issue` leave it."""
    host: str = "0.0.0.0"  # noqa: S104 - nobody gets in without a certificate of the fleet
    """Address."""
    port: Port = 8883
    """0 picks a free one."""
    tags: Literal["mac", "signed"] = "mac"
    """What proves who made a bundle, on all lanes but control, which is signed always. The same on all devices."""


class UsersConfig(Table, frozen=True):
    """`[users]`: who may come to the plain listeners, by name and password."""

    file: str = "users"
    """Made by `flockmq user add`; mode 0600."""
    anonymous: Literal["refused", "viewer", "device"] = "refused"
    """What a client without a name may do there: nothing, look on, or what any program on the device may."""


class StoreConfig(Table, frozen=True):
    """`[store]`: what this device's memory promises."""

    durability: Literal["power", "process"] = "power"
    """What an acknowledged publish survives: a power cut, or only the process being killed."""
    relay_log: Literal["memory", "disk"] = "memory"
    """Where the kept bundles of others are held for those who missed them. On disk they survive a restart."""


class TopologyConfig(Table, frozen=True):
    """`[topology]`: which of the devices that it knows this one dials."""

    kind: Kind | None = None
    """Without it `nearest` if devices are discovered, else `static`: all that [[neighbour]] names."""
    near: Annotated[int, Meta(ge=0, le=NEAR_MAX)] = 3
    """Links to the nearest by round trip, in `nearest`."""
    far: Annotated[int, Meta(ge=0, le=FAR_MAX)] = 2
    """Links to others, chosen at random, in `nearest`."""


class DiscoveryConfig(Table, frozen=True):
    """`[discovery]`: how this device learns of others of its site, beside [[neighbour]]."""

    mdns: bool = False
    """Announce this device and hear of others on the networks that its broker listens on."""
    seeds: Annotated[tuple[str, ...], Meta(max_length=SEEDS_MAX)] = ()
    """`host:port` of devices whose ids are not known."""


class NeighbourConfig(Table, frozen=True):
    """`[[neighbour]]`: a device that this one knows, and in a `static` topology dials."""

    name: Id
    """Its id; each neighbour once, and never this device itself."""
    host: str
    """Address or name of where its broker listens."""
    port: FarPort | None = None
    """TCP port of its broker; by default 8883 with [tls], else 1883."""


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
    """Folder with folders that `flockmq model pack` has written; by default the models that ship."""
    unsigned: bool = False
    """Without [tls] nobody can sign a manifest, and none is taken, unless this says so; then anybody's is."""
    deadline_ms: Annotated[int, Meta(ge=1, le=3_600_000)] = DEADLINE_MS
    """A reading that is older than this when the model could run is not decided on."""
    state_age_max_ms: Annotated[int, Meta(ge=1, le=3_600_000)] = STATE_AGE_MAX_MS
    """Nor is one beside which the oldest state of the others is older than this."""
    threads: Annotated[int, Meta(ge=1, le=8)] = 1
    """Of the runtime. More than cores less one makes everything slower."""
    edge_tpu: Annotated[str, Meta(pattern=EDGE_TPU_PATTERN)] = "auto"
    """Coral Edge TPU: `auto` uses one that is plugged in, `off` none; else which, as libedgetpu names it."""
    edge_tpu_library: str = ""
    """Path of libedgetpu; empty: wherever the linker finds it."""
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
    tls: TlsConfig | None = None
    """Without it links are plain MQTT, on loopback or where plain_listen allows it."""
    users: UsersConfig | None = None
    """Without it names and passwords are not looked at."""
    store: StoreConfig = StoreConfig()
    topology: TopologyConfig = TopologyConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()
    neighbour: Annotated[tuple[NeighbourConfig, ...], Meta(max_length=NEIGHBOURS_MAX)] = ()
    hub: Annotated[tuple[HubConfig, ...], Meta(max_length=HUBS_MAX)] = ()
    """Third-party brokers at which this device meets others."""
    bridge: Annotated[tuple[BridgeConfig, ...], Meta(max_length=BRIDGES_MAX)] = ()
    """Foreign brokers whose own clients are joined to the mesh."""
    sensor: SensorConfig | None = None
    """Without it the device relays and has a picture of the world."""
    model: ModelConfig | None = None
    """Without it the device infers nothing."""

    @property
    def links_port(self) -> int:
        """Where a neighbour listens whose port is not named."""
        return 1883 if self.tls is None else 8883

    @property
    def kind(self) -> Kind:
        """The topology's kind, by default what fits the discovery."""
        found = self.discovery.mdns or self.discovery.seeds
        return self.topology.kind or ("nearest" if found else "static")


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
        raise ConfigError(f"{path} is not TOML: {one_line(error)}; correct that line") from None
    try:
        config = msgspec.convert(table, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {one_line(_EXPLAINER.explain(str(error)))}") from None
    problem = _problem(config)
    if problem:
        raise ConfigError(f"{path}: {one_line(problem)}")
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
    tls = config.tls
    if tls is not None:
        tls = msgspec.structs.replace(tls, identity=str(path.parent / tls.identity))
    users = config.users
    if users is not None:
        users = msgspec.structs.replace(users, file=str(path.parent / users.file))
    return msgspec.structs.replace(
        config, state=str(state), tls=tls, users=users, hub=hubs, bridge=bridges
    )


def _problem(config: Config) -> str:
    """What is wrong that types cannot say; empty if nothing is."""
    names = [neighbour.name for neighbour in config.neighbour]
    if config.device in names:
        return f"[[neighbour]] {config.device} is this device itself; remove it"
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        return f"[[neighbour]] {twice[0]} stands there twice; remove one"
    for seed in config.discovery.seeds:
        if parse_address(seed) is None:
            return f'seeds in [discovery]: "{seed}" is not host:port; write "192.0.2.7:1883", say'
    if config.kind == "static" and (config.discovery.mdns or config.discovery.seeds):
        return (
            "[topology] kind static dials whom [[neighbour]] names and nobody else; "
            "choose nearest, ring or full, or remove [discovery]"
        )
    if config.tls is not None and config.model is not None and config.model.unsigned:
        return (
            "unsigned in [model] is for fleets without identities, and there is [tls]: an operator signs what counts "
            "there (`flockmq model publish --identity`); remove it"
        )
    return _listening_problem(config) or foreign_problem(config.hub, config.bridge)


def _listening_problem(config: Config) -> str:
    broker, tls = config.broker, config.tls
    if broker.port and broker.port == broker.websocket_port:
        return f"port and websocket_port in [broker] are both {broker.port}; choose another for one"
    if tls is not None and tls.port and tls.port in {broker.port, broker.websocket_port}:
        return f"port in [tls] is {tls.port}, as one in [broker]; choose another for one"
    if broker.plain_listen:
        return ""
    if not is_loopback(broker.host):
        return (
            f"[broker] host {broker.host} can be reached from outside, and plain MQTT is not encrypted; listen on "
            "127.0.0.1 and let others come through [tls], or write plain_listen = true if the network is closed"
        )
    if tls is None:
        far = [f"[[neighbour]] {n.name}" for n in config.neighbour if not is_loopback(n.host)]
        far += [f'seed "{s}"' for s in config.discovery.seeds if not _is_near(s)]
        if far:
            return (
                f"{far[0]} is on another machine, and without [tls] links are not encrypted; `flockmq enroll` gives "
                "this device an identity, or write plain_listen = true in [broker] if the network is closed"
            )
    return ""


def _is_near(seed: str) -> bool:
    address = parse_address(seed)
    return address is not None and is_loopback(address[0])


_EXPLAINER: Final = Explainer(
    tables={
        "": Config,
        "broker": BrokerConfig,
        "tls": TlsConfig,
        "users": UsersConfig,
        "store": StoreConfig,
        "topology": TopologyConfig,
        "discovery": DiscoveryConfig,
        "neighbour": NeighbourConfig,
        "hub": HubConfig,
        "bridge": BridgeConfig,
        "in": CrossingConfig,
        "out": CrossingConfig,
        "sensor": SensorConfig,
        "model": ModelConfig,
    },
    patterns={
        ID_PATTERN: "1 to 32 characters of a-z, 0-9 and -",
        FACTORY_PATTERN: 'written as "module:callable"',
        EDGE_TPU_PATTERN: '"auto", "off", or which one: "usb", "pci", "usb:0", ...',
    },
)
