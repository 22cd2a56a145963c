"""What can go wrong while a model is kept, fetched or tried; a device survives all of it.

    TransferError
    ├── TooLarge          more bytes than this device keeps, known before one is fetched
    ├── StoreFull         what must stay leaves no room in the store
    ├── DiskFailed        the disk is full, or cannot be read or written
    ├── ContentMissing    these bytes are not on this device
    ├── ContentDamaged    bytes are not what their digest says
    └── DeltaRefused      a delta is damaged, or is none against this base

`reason` is the word under which it is counted and told on `model-status/`; the text is one line for people. `Later` is
not of that tree: it ends a step that was told of already, and says when to begin it anew.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ContentDamaged",
    "ContentMissing",
    "DeltaRefused",
    "DiskFailed",
    "Later",
    "StoreFull",
    "TooLarge",
    "TransferError",
]


class TransferError(Exception):
    """Root of what ends the fetching of content."""

    reason: ClassVar[str] = "transfer"


class Later(Exception):
    """A step is to be tried again.

    Args:
        pause_s: After so long.
    """

    def __init__(self, pause_s: float) -> None:
        super().__init__(pause_s)
        self.pause_s = pause_s


class TooLarge(TransferError):
    """Content is larger than this device keeps."""

    reason = "too-large"


class StoreFull(TransferError):
    """The store's limit leaves no room beside what must stay."""

    reason = "store-full"


class DiskFailed(TransferError):
    """The disk is full, or does not do what is asked."""

    reason = "disk"


class ContentMissing(TransferError):
    """Content is not in the store."""

    reason = "missing"


class ContentDamaged(TransferError):
    """Bytes do not have the digest that they should have."""

    reason = "digest"


class DeltaRefused(TransferError):
    """A delta cannot be applied."""

    reason = "delta"
