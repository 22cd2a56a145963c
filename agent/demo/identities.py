"""A fleet that lives as long as its folder: an authority, identities of devices, an operator, and one to look on with.

Decides that the demo runs as a fleet in the field does, by mutual TLS, and that its keys go with its folder.
Assumes a folder of its own. On failure: what the authority raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.authority import Authority
from broker.identity import Role
from broker.wall_clock import wall_ms

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["DESK", "VIEWER", "identity_of", "make_fleet"]

DESK: Final = "desk"
"""Name of the operator, who signs model versions."""
VIEWER: Final = "viewer"
"""Name and role of who looks on."""


def identity_of(directory: Path, name: str) -> Path:
    """Where the identity of a member is."""
    return directory / f"identity-{name}"


def make_fleet(directory: Path, fleet: str, devices: Iterable[str]) -> None:
    """Make the authority, an identity for each device, one for an operator, and one for a viewer.

    Raises:
        FlockmqError: Something cannot be written.
    """
    now_ms = wall_ms()
    Authority.create(directory / "ca", fleet, now_ms)
    members = [(name, Role.DEVICE) for name in devices]
    members += [(DESK, Role.OPERATOR), (VIEWER, Role.VIEWER)]
    with Authority.at(directory / "ca") as authority:
        for name, role in members:
            authority.equip(identity_of(directory, name), name, role, now_ms)
