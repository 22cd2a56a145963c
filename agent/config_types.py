"""What the tables of device.toml are made of, wherever they stand."""

from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

__all__ = ["ID_PATTERN", "FarPort", "Id", "Table"]

ID_PATTERN: Final = r"^[a-z0-9-]{1,32}\Z"

Id: TypeAlias = Annotated[str, Meta(pattern=ID_PATTERN)]
FarPort: TypeAlias = Annotated[int, Meta(ge=1, le=65_535)]
"""A port of somebody else; none of one's own choice, so never 0."""


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of device.toml."""
