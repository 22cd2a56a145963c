"""The operator of the demo's fleet: signs the versions that ship, as `flockmq model publish` does.

Decides that the demo's manifests are signed by a certificate of its own authority, like a fleet's in the field. Assumes
an operator's identity folder. On failure: what the model key or the package raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.models.manifest import encode_manifest, publishable
from agent.models.shipped import ModelFiles
from broker.identity import DAY_MS
from broker.model_key import ModelKey
from broker.wall_clock import wall_ms

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DemoOperator"]

LIFE_DAYS: Final = 1
"""Longer than any demo."""


class DemoOperator:
    """Of one fleet.

    Args:
        identity: The operator's identity folder.
        site: The fleet's site.
    """

    def __init__(self, identity: Path, site: str) -> None:
        self._key = ModelKey(identity, wall_ms())
        self._site = site
        self._files = ModelFiles()
        self._counter = 0

    def signed(self, name: str, version: str) -> bytes:
        """What makes a version the fleet's current one, to be published."""
        self._counter += 1
        now_ms = wall_ms()
        manifest = publishable(
            self._files.package(name, version).draft,
            site=self._site,
            counter=self._counter,
            made_ms=now_ms,
            expires_ms=now_ms + LIFE_DAYS * DAY_MS,
        )
        return self._key.sign(encode_manifest(manifest))
