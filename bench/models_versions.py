"""Versions of a model for `models`: packed in one folder, and signed by an operator of the fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from agent.demo.identities import DESK, identity_of
from agent.models.manifest import Draft, Rollout, encode_manifest, publishable
from agent.models.package import write_package
from agent.models.packing import Described, pack
from bench.models_device import MODEL, SITE
from broker.identity import DAY_MS
from broker.model_key import ModelKey
from broker.wall_clock import wall_ms

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Operator", "Version", "make_versions"]

SAMPLE_SEED: Final = 1


class Version(NamedTuple):
    """One version, whose files are in the folder."""

    draft: Draft
    sha256: str
    size_bytes: int


def make_versions(folder: Path, network: Callable[[int], bytes], count: int) -> list[Version]:
    """So many versions of a network, by their seeds: they have nothing in common but their shape."""
    return [_make(folder, f"{number}", network(number)) for number in range(1, count + 1)]


def _make(folder: Path, version: str, data: bytes) -> Version:
    described = Described(
        MODEL, version, "a benchmark", Rollout(), 0.0, 1.0, SAMPLE_SEED, tolerance=None
    )
    draft, contents = pack(described, [("network.tflite", data)])
    write_package(folder / f"{MODEL}-{version}", draft, contents)
    content = draft.variants[0].content
    return Version(draft, content.sha256, content.size_bytes)


class Operator:
    """Who signs.

    Args:
        fleet: The folder that `make_fleet` has made.
    """

    def __init__(self, fleet: Path) -> None:
        self._key = ModelKey(identity_of(fleet, DESK), wall_ms())
        self._counter = 0

    def sign(self, draft: Draft) -> bytes:
        """What makes that version the fleet's; each call is a new manifest."""
        self._counter += 1
        now_ms = wall_ms()
        manifest = publishable(
            draft, site=SITE, counter=self._counter, made_ms=now_ms, expires_ms=now_ms + DAY_MS
        )
        return self._key.sign(encode_manifest(manifest))
