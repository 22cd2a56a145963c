"""What `flockmq doctor` finds: one line each, and what to do about it."""

from __future__ import annotations

import socket
from typing import Literal, NamedTuple

__all__ = ["Finding", "port_finding"]


class Finding(NamedTuple):
    """One line."""

    state: Literal["ok", "warn", "missing"]
    what: str
    advice: str = ""


def port_finding(host: str, port: int) -> Finding:
    """Whether a device could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return Finding(
                "warn",
                f"port {port} on {host} cannot be used: {error.strerror}",
                f"if it is not this device that runs there (`ss -ltnp 'sport = :{port}'` names who), stop that, or "
                "choose another",
            )
    return Finding("ok", f"port {port} on {host} is free")
