"""What proves who made a bundle: the two ways to choose from. `seals.py` does it, and costs more to import."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Strength"]


class Strength(StrEnum):
    """What tags the lanes that carry no authority."""

    MAC = "mac"
    """The fleet's shared key: no stranger, and no damage; any device could forge another's."""
    SIGNED = "signed"
    """The origin's own signature: no relay can forge, either."""
