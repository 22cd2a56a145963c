"""What stands on a model's topic, and whose word it is.

Decides nothing: what does not hold is told as an error. Without an identity folder it cannot be told who has signed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from agent.models.manifest import Manifest, read_manifest
from broker.credentials import system_moment
from broker.identity_folder import AUTHORITY_FILE
from broker.model_envelope import manifest_in, read_envelope
from broker.model_seal import check_seal
from broker.trust import Trust

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Standing", "read_standing"]


class Standing(NamedTuple):
    """A manifest."""

    manifest: Manifest
    operator: str
    """Who signed it, for people."""


def read_standing(payload: bytes, topic: str, identity: Path | None) -> Standing:
    """Read what stands on a topic, as far as it can be believed.

    Args:
        payload: As it stands there.
        topic: Which.
        identity: Folder of a member of the fleet; None: whose it is, is not checked.

    Raises:
        SealBroken: Nobody of the fleet has signed it, or it cannot be read.
        ManifestInvalid: It is no manifest.
    """
    operator = _operator_of(payload, topic, identity)
    return Standing(read_manifest(manifest_in(read_envelope(payload))), operator)


def _operator_of(payload: bytes, topic: str, identity: Path | None) -> str:
    if identity is None:
        return "not checked" if read_envelope(payload).signature else "nobody"
    trust = Trust(identity, system_moment)
    authority = (identity / AUTHORITY_FILE).read_bytes()
    return f"operator {check_seal(payload, topic, trust.identity.fleet, authority).operator}"
