"""Whether a file is there, asked for a person: a folder that may not be looked into is an answer, and no defect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["is_there"]


def is_there(path: Path) -> bool:
    """Whether there is something.

    Raises:
        ConfigError: That cannot be seen.
    """
    try:
        return path.exists()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be looked at: {error.strerror}; name a folder that this user may use"
        ) from None
