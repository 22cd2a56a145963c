"""64-bit hashes: what stands for a topic in headers and tables, and for an entry in the sum over a whole map or vector.

Decides that they are BLAKE2b of 8 bytes, and that sums are modulo 2^64: a sum moves with a changed entry by itself.
Assumes nothing of who writes what is hashed: two topics that share a hash can be made on purpose, in 2^32 tries.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

__all__ = ["HASH_MASK", "text_hash"]

HASH_MASK: Final = (1 << 64) - 1
"""Hashes and their sums are 64 bits."""


def text_hash(text: str) -> int:
    """64 bits that stand for a text."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
