"""Options that more than one command takes: which device is asked, and as whom."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Host", "IdentityFolder", "PasswordFile", "Port", "UserName", "port_of"]

Host = Annotated[str, typer.Option(help="Where a device's broker listens.")]
Port = Annotated[
    int | None,
    typer.Option("--port", "-p", min=1, max=65_535, help="Its port; 1883, with --identity 8883."),
]
IdentityFolder = Annotated[
    Path | None, typer.Option("--identity", help="Folder of who you are to the fleet; for TLS.")
]
UserName = Annotated[
    str | None, typer.Option("--user", help="Who you are to the device; the password is asked for.")
]
PasswordFile = Annotated[
    Path | None, typer.Option(help="What holds that password, mode 0600, instead of asking.")
]


def port_of(port: int | None, identity: Path | None) -> int:
    """The port that is named, or else the one where a device listens for who comes so."""
    return port or (1883 if identity is None else 8883)
