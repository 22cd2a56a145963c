"""The identities of a fleet under attack: its devices, and those who should not be let in any more, or never were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.demo.identities import identity_of
from broker import certificates
from broker.authority import Authority
from broker.credentials import system_moment
from broker.identity import DAY_MS, GRACE_DAYS, Role
from broker.identity_folder import write_identity
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
        _join(directory, authority, "spy", Role.DEVICE, now_ms)
    with Authority.at(directory / "ca-city") as authority:
        _join(directory, authority, "gone", Role.DEVICE, now_ms)
        _join(directory, authority, "old", Role.DEVICE, now_ms - _LONG_AGO_MS, days=1)
        authority.revoke("gone", now_ms)
        _join(directory, authority, "screen", Role.VIEWER, now_ms)
        for name in _DEVICES:
            _join(directory, authority, name, Role.DEVICE, now_ms)
            trust = Trust(identity_of(directory, name), system_moment)
            trust.adopt_revocations(authority.revocation_list(now_ms))


def _join(
    directory: Path, authority: Authority, name: str, role: Role, now_ms: int, days: float = 60
) -> None:
    key = certificates.make_key()
    pem = authority.issue(name, role, key.public_key(), now_ms, days=days).pem.encode()
    shared = authority.fleet_key_notice(now_ms, only=name) if role is Role.DEVICE else b""
    folder = identity_of(directory, name)
    write_identity(folder, authority.pem, pem, certificates.key_bytes(key), shared)
