"""Independent streams of chance, one for each part of a simulation.

Decides what each part draws from: `Random` seeded by a hash of the seed and a label. So a draw more in one part shifts
nothing in another, and the same seed tells the same story in every process.
"""

from hashlib import blake2b
from random import Random

__all__ = ["stream"]


def stream(seed: int, label: str) -> Random:
    """The stream of one part; `label` names the part and is used once in a simulation."""
    digest = blake2b(f"{seed}:{label}".encode(), digest_size=16).digest()
    return Random(int.from_bytes(digest, "big"))
