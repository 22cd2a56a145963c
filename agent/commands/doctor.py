"""`flockmq doctor`: what this machine has, what it lacks, and what to do about it.

Each check yields one finding. Only what a device cannot run without counts as `missing`, and makes the command fail.
"""

from __future__ import annotations

import asyncio
import functools
import os
import platform
import shutil
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from rich.console import Console
from rich.markup import escape

from agent.addresses import is_loopback
from agent.config import load
from agent.errors import AgentError, ConfigError
from agent.infer import edgetpu, onnx, tflite
from agent.infer.backend import RuntimeUnavailable
from agent.models.shipped import ModelFiles
from broker.credentials import system_moment
from broker.discovery import own_addresses
from broker.errors import IdentityUnusable, SecretUnusable, UsersUnusable
from broker.identity import RENEW_DAYS
from broker.trust import Trust
from broker.users import read_users
from broker.wall_clock import is_synchronised

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.config import Config

__all__ = ["Finding", "doctor", "findings"]

MDNS_GROUP: Final = "224.0.0.251"
FREE_MB_MIN: Final = 64
"""The mesh's store and models together stay well below."""


class Finding(NamedTuple):
    """One line."""

    state: Literal["ok", "warn", "missing"]
    what: str
    advice: str = ""


def doctor(config_path: Path | None) -> int:
    """Print all findings. Returns the exit status."""
    console = Console(highlight=False, soft_wrap=True)
    colours = {"ok": "green", "warn": "yellow", "missing": "red"}
    worst = 0
    for finding in findings(config_path):
        colour = colours[finding.state]
        console.print(f"[{colour}]{finding.state:>7}[/{colour}]  {escape(finding.what)}")
        if finding.advice:
            console.print(f"         {escape(finding.advice)}")
        worst = max(worst, finding.state == "missing")
    return worst


def findings(config_path: Path | None) -> Iterator[Finding]:
    """All checks, in the order in which they help."""
    yield from _python()
    yield from _runtimes()
    yield _edge_tpu()
    yield _clock()
    yield _mosquitto()
    if config_path is None:
        yield from _ports("127.0.0.1", 1883)
    else:
        yield from _config(config_path)


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    advice = "" if good else "use Python 3.11 to 3.13"
    yield Finding("ok" if good else "missing", f"Python {version}", advice)
    bits = struct.calcsize("P") * 8
    advice = "" if bits == 64 else "LiteRT has no 32-bit wheel: use 64-bit Raspberry Pi OS"
    yield Finding(
        "ok" if bits == 64 else "warn", f"{platform.machine()}, {bits}-bit programs", advice
    )


def _runtimes() -> Iterator[Finding]:
    try:
        yield Finding("ok", f"TFLite runtime: {tflite.find_runtime().name}")
    except RuntimeUnavailable as error:
        advice = (
            "pip install ai-edge-litert (64-bit), or tflite-runtime with numpy<2 on Python 3.11"
        )
        yield Finding("warn", f"no inference: {error.reason}", advice)
    try:
        yield Finding("ok", f"ONNX runtime: {onnx.find_runtime().name}")
    except RuntimeUnavailable as error:
        yield Finding("warn", f"no ONNX models: {error.reason}", "pip install onnxruntime (64-bit)")


def _edge_tpu() -> Finding:
    where = edgetpu.plugged_in()
    if where and edgetpu.installed():
        return Finding("ok", f"Edge TPU: {where}, with libedgetpu")
    if where:
        return Finding(
            "warn",
            f"Edge TPU: {where}, but no libedgetpu",
            "install a libedgetpu1-std built for TensorFlow 2.16 or later",
        )
    return Finding("ok", "no Edge TPU; models run on the processor")


def _clock() -> Finding:
    if is_synchronised():
        return Finding("ok", "the clock is synchronised")
    return Finding(
        "warn",
        "nothing keeps the clock right",
        "install chrony or systemd-timesyncd; until then this device takes the fleet's time",
    )


def _mosquitto() -> Finding:
    if shutil.which("mosquitto_sub"):
        return Finding("ok", "mosquitto_sub and mosquitto_pub, to look inside with")
    return Finding(
        "warn", "no mosquitto_sub", "apt install mosquitto-clients, or use `flockmq watch`"
    )


def _config(path: Path) -> Iterator[Finding]:
    try:
        config = load(path)
    except ConfigError as error:
        yield Finding("missing", str(error))
        return
    yield Finding("ok", f"{path}: device {config.device} of site {config.site}")
    yield from _ports(config.broker.host, config.broker.port)
    if config.broker.websocket_port is not None:
        yield from _ports(config.broker.host, config.broker.websocket_port)
    if config.tls is not None:
        yield from _ports(config.tls.host, config.tls.port)
        yield _identity(config.device, Path(config.tls.identity))
    if config.users is not None:
        yield from _users(config)
    if config.model is not None:
        yield _models(config.model.directory)
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


def _ports(host: str, port: int) -> Iterator[Finding]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            yield Finding(
                "warn",
                f"port {port} on {host} cannot be used: {error.strerror}",
                f"if it is not this device that runs there (`ss -ltnp 'sport = :{port}'` names who), stop that, or "
                "choose another",
            )
            return
    yield Finding("ok", f"port {port} on {host} is free")
