"""The identities of a fleet under attack: its devices, and those who should not be let in any more, or never were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.demo.identities import identity_of
from broker.authority import LIFE_DAYS, Authority
from broker.credentials import system_moment
from broker.identity import DAY_MS, GRACE_DAYS, Role
from broker.trust import Trust
from broker.wall_clock import wall_ms

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["make_members"]

_DEVICES: Final = ("a", "b", "c", "e")
_LONG_AGO_MS: Final = (GRACE_DAYS + 2) * DAY_MS


def make_members(directory: Path) -> None:
    """Make an identity each.

    Devices are a, b, c and e; `screen` looks on, `old` has expired, `gone` is revoked, `spy` is of another fleet.

    Raises:
        FlockmqError: Something cannot be written.
    """
    now_ms = wall_ms()
    for fleet in ("city", "other"):
        Authority.create(directory / f"ca-{fleet}", fleet, now_ms)
    with Authority.at(directory / "ca-other") as authority:
        authority.equip(identity_of(directory, "spy"), "spy", Role.DEVICE, now_ms)
    with Authority.at(directory / "ca-city") as authority:

        def join(name: str, role: Role, at_ms: int, days: float = LIFE_DAYS) -> None:
            authority.equip(identity_of(directory, name), name, role, at_ms, days=days)

        join("gone", Role.DEVICE, now_ms)
        join("old", Role.DEVICE, now_ms - _LONG_AGO_MS, days=1)
        authority.revoke("gone", now_ms)
        join("screen", Role.VIEWER, now_ms)
        for name in _DEVICES:
            join(name, Role.DEVICE, now_ms)
            trust = Trust(identity_of(directory, name), system_moment)
            trust.adopt_revocations(authority.revocation_list(now_ms))
