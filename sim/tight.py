"""Small limits for one run, so that a few hundred messages meet every bound of the mesh.

Decides nothing that the limits' own assertions would not allow. The numbers are put in place of those that the mesh's
modules took from `limits.py`, and put back afterwards.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from broker.mesh import limits

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SMALL", "tightened"]

SMALL: Final = {
    "LOG_BUNDLES_MAX": 60,
    "LOG_BYTES_MAX": 200_000,
    "WAITING_BUNDLES_MAX": 8,
    "WAITING_BYTES_MAX": 100_000,
    "OUTBOX_BUNDLES_MAX": 8,
    "OUTBOX_BYTES_MAX": 50_000,
    "OPEN_BYTES_MAX": 12_000,
    "RETAINED_TOPICS_MAX": 12,
    "CONTROL_RECORDS_MAX": 64,
    "DIGEST_ENTRIES_MAX": 4,
    "WANT_RANGES_MAX": 3,
    "RANGES_MAX": 6,
    "RANGE_LIST_MAX": 2,
    "UNICAST_FLIGHTS_MAX": 2,
    "UNICAST_PASSING_MAX": 4,
    "RECORDS_MAX": 16,
    "FRESH_TOPICS_MAX": 64,
}


_LANES: Final = 5
"""Kept ones: streams that a device may have."""


@contextmanager
def tightened(*, wanted: bool, devices: int) -> Iterator[None]:
    """Run with the small limits, if they are wanted. A whole digest of so many devices still fits into a queue."""
    if not wanted:
        yield
        return
    before = [
        (module, name, getattr(module, name))
        for path, module in sorted(sys.modules.items())
        if path.startswith("broker.mesh")
        for name in SMALL
        if hasattr(module, name)
    ]
    assert {name for _, name, _ in before} == set(SMALL), "a limit has another name now"
    assert all(value == getattr(limits, name) for _, name, value in before)
    entries = 2 * devices * _LANES // SMALL["CONTROL_RECORDS_MAX"]
    small = SMALL | {"DIGEST_ENTRIES_MAX": max(SMALL["DIGEST_ENTRIES_MAX"], entries)}
    try:
        for module, name, _ in before:
            setattr(module, name, small[name])
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
