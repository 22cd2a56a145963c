"""What `flockmq doctor` says of a device.toml: whether all that it names is there, without starting anything.

Decides nothing of its own: each part is asked as it would be when the device starts.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.addresses import is_loopback
from agent.commands.finding import Finding, port_finding
from agent.config import load
from agent.errors import AgentError, ConfigError
from agent.factories import made_by
from agent.forecast import Features
from agent.models.shipped import ModelFiles
from agent.sensors.sensor import Sensor
from broker.credentials import system_moment
from broker.discovery import own_addresses
from broker.errors import IdentityUnusable, SecretUnusable, UsersUnusable
from broker.identity import RENEW_DAYS
from broker.trust import Trust
from broker.users import read_users

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.config import Config

__all__ = ["config_findings"]

MDNS_GROUP: Final = "224.0.0.251"
FREE_MB_MIN: Final = 64
"""The mesh's store and models together stay well below."""


def config_findings(path: Path) -> Iterator[Finding]:
    """Whether everything that device.toml names is there."""
    try:
        config = load(path)
    except ConfigError as error:
        yield Finding("missing", str(error))
        return
    yield Finding("ok", f"{path}: device {config.device} of site {config.site}")
    yield port_finding(config.broker.host, config.broker.port)
    if config.broker.websocket_port is not None:
        yield port_finding(config.broker.host, config.broker.websocket_port)
    if config.tls is not None:
        yield port_finding(config.tls.host, config.tls.port)
        yield _identity(config.device, Path(config.tls.identity))
    if config.users is not None:
        yield from _users(config)
    if config.sensor is not None:
        sensor = config.sensor
        yield _made("sensor", sensor.factory, config.device, sensor.options, Sensor)
    if config.model is not None:
        model = config.model
        yield _made("features", model.features, config.device, model.options, Features)
        yield _models(model.directory)
    yield from _neighbourhood(config)
    yield from _state(Path(config.state))
    checks: list[tuple[str, Callable[[], object]]] = []
    checks += [(f"hub {hub.host}", hub.at) for hub in config.hub]
    checks += [(f"bridge {b.name}", functools.partial(b.at, config.site)) for b in config.bridge]
    for what, make in checks:
        yield _secrets(what, make)


def _identity(device: str, folder: Path) -> Finding:
    try:
        found = Trust(folder, system_moment).statistics()
    except (IdentityUnusable, SecretUnusable) as error:
        return Finding("missing", f"identity: {error}")
    what = (
        f"identity: {found.role} {found.name} of fleet {found.fleet}, certificate {found.standing}, "
        f"{found.days_left:.0f} days left"
    )
    if found.name != device or found.role != "device":
        return Finding(
            "missing", what, f"this is device {device}; `flockmq enroll` fetches its own"
        )
    if found.standing != "good" or found.days_left < RENEW_DAYS:
        advice = "`flockmq ca renew --via HOST`, where the authority is, with the address of a device that is up"
        return Finding("warn", what, advice)
    return Finding("ok", what)


def _users(config: Config) -> Iterator[Finding]:
    assert config.users is not None, "who calls this has looked"
    try:
        users = read_users(Path(config.users.file))
    except UsersUnusable as error:
        yield Finding("missing", f"users: {error}")
        return
    nobody = not users and config.users.anonymous == "refused"
    advice = "`flockmq user add NAME` makes one; until then nobody gets in" if nobody else ""
    what = f"users: {len(users)} may come by a password; without a name: {config.users.anonymous}"
    yield Finding("warn" if nobody else "ok", what, advice)
    if not is_loopback(config.broker.host):
        yield Finding(
            "warn",
            f"passwords travel unencrypted to {config.broker.host}",
            "let who is elsewhere come by [tls], and listen on 127.0.0.1; else whoever is on that network reads them",
        )


def _made(
    what: str, factory: str, device: str, options: dict[str, Any], form: type[object]
) -> Finding:
    """Whether a factory makes what it should, as it would when the device starts."""
    try:
        made_by(factory, device, options, form)
    except AgentError as error:
        return Finding("missing", f"{what}: {error}")
    return Finding("ok", f"{what}: {factory}")


def _models(directory: str | None) -> Finding:
    try:
        packages = ModelFiles(directory).packages
    except AgentError as error:
        return Finding("missing", f"models: {error}")
    names = sorted(f"{package.draft.name} {package.draft.version}" for package in packages)
    return Finding("ok", f"models: {', '.join(names)}")


def _secrets(what: str, make: Callable[[], object]) -> Finding:
    try:
        make()
    except SecretUnusable as error:
        return Finding("missing", f"{what}: {error}")
    return Finding("ok", f"{what}: its secrets can be read, and by nobody else")


def _neighbourhood(config: Config) -> Iterator[Finding]:
    named, seeds = len(config.neighbour), len(config.discovery.seeds)
    mdns = config.discovery.mdns
    how = f"{named} named, {seeds} seeds, mDNS {'on' if mdns else 'off'}"
    yield Finding("ok", f"topology {config.kind}: {how}")
    if not mdns:
        return
    host = config.broker.host if config.tls is None else config.tls.host
    try:
        addresses = asyncio.run(own_addresses(host))
        for address in addresses:
            _try_multicast(address)
    except (OSError, ValueError) as error:
        yield Finding(
            "warn",
            f"mDNS cannot be used on {host}: {error}",
            "name seeds in [discovery]; in a container, use the host's network",
        )
    else:
        yield Finding("ok", f"mDNS can be sent from {', '.join(addresses)}")


def _try_multicast(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        here = socket.inet_aton(address)
        probe.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)
        probe.setsockopt(
            socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(MDNS_GROUP) + here
        )
        probe.sendto(b"", (MDNS_GROUP, 9))


def _state(state: Path) -> Iterator[Finding]:
    there = next(p for p in (state, *state.absolute().parents) if _is_there(p))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Finding(
            "missing",
            f"{there} cannot be written to, and {state} is this device's memory",
            "`chown` it to the user that runs flockmq, or set state in device.toml to another",
        )
        return
    free_mb = shutil.disk_usage(there).free // 1_000_000
    enough = free_mb >= FREE_MB_MIN
    advice = "" if enough else "free some space; without it nothing is acknowledged"
    yield Finding("ok" if enough else "missing", f"{free_mb} MB free for {state}", advice)


def _is_there(path: Path) -> bool:
    """What stands in a folder that may not be looked into counts as missing: then that folder is told of."""
    try:
        return path.exists()
    except OSError:
        return False
