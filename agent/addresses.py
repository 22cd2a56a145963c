"""Addresses as people write them: `host:port`, and whether a host can be reached from other machines."""

from __future__ import annotations

import ipaddress

__all__ = ["is_loopback", "parse_address"]


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches a listener there; a name other than localhost may be anything."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_address(text: str) -> tuple[str, int] | None:
    """Host and port from `host:port`, an IPv6 host in brackets; None if it is not of that form."""
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65_536:
        return None
    return host.removeprefix("[").removesuffix("]"), int(port)
