"""The commands `flockmq user ...`: names and options. What they do stands in `agent/commands/user.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent.ca_cli import RoleName  # noqa: TC001 - typer looks at it

__all__ = ["user_app"]

user_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Who may come to a device by name and password.",
)

File = Annotated[Path, typer.Option(help="The users file, as [users] in device.toml names it.")]
Name = Annotated[str, typer.Argument(help="The user's name.")]
USERS = Path("users")


@user_app.command()
def add(
    name: Name,
    role: Annotated[
        RoleName | None,
        typer.Option(
            help="device: what a program on the device may; operator: decide for the fleet; viewer: look on. "
            "A new user is `device`."
        ),
    ] = None,
    file: File = USERS,
) -> None:
    """Make a user, or give one another password; it is asked for, or read from standard input."""
    from agent.commands import user
    from broker.identity import Role

    user.add(file, name, None if role is None else Role(role))


@user_app.command()
def remove(name: Name, file: File = USERS) -> None:
    """Let a user in no more; his connections end within a second."""
    from agent.commands import user

    user.remove(file, name)


@user_app.command("list")
def list_users(file: File = USERS) -> None:
    """Show who is in the file, and in which role."""
    from agent.commands import user

    user.list_users(file)
