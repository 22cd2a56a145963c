"""Options that need more than a type: neighbours as `name=host:port`, and where a plain broker may listen and dial."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.addresses import is_loopback, parse_address
from agent.errors import ConfigError
from broker.link import Neighbour
from broker.topic_names import is_id

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["check_broker", "parse_neighbours"]


def check_broker(name: str, host: str) -> None:
    """A plain broker has an id and listens on loopback.

    Raises:
        ConfigError: It has not, or does not.
    """
    if not is_id(name):
        raise ConfigError(f"--name {name} is no id; take 1 to 32 of a-z, 0-9 and -")
    if not is_loopback(host):
        raise ConfigError(
            f"--host {host} can be reached from outside, and this broker is not encrypted; "
            "use 127.0.0.1, or `flockmq run` with plain_listen = true in [broker] of device.toml"
        )


def parse_neighbours(own_name: str, texts: Iterable[str]) -> list[Neighbour]:
    """Neighbours from `name=host:port`.

    Raises:
        ConfigError: One of them is not of that form, or not on this machine.
    """
    found: list[Neighbour] = []
    for text in texts:
        name, _, address = text.partition("=")
        where = parse_address(address)
        if not is_id(name) or where is None:
            raise ConfigError(
                f"--neighbour {text} is not name=host:port; write kitchen=127.0.0.1:1883, say"
            )
        if name == own_name or any(name == other.name for other in found):
            raise ConfigError(f"--neighbour {text}: {name} is this broker itself, or named twice")
        if not is_loopback(where[0]):
            raise ConfigError(
                f"--neighbour {text} is on another machine, and this broker does not encrypt; "
                "use `flockmq run` with [tls], or plain_listen = true, in device.toml"
            )
        found.append(Neighbour(name, *where))
    return found
