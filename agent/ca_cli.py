"""The commands `flockmq ca ...`: names and options. What they do stands in `agent/commands/ca.py`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["ca_app"]

ca_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Who belongs to the fleet, and for how long: its authority.",
)

Directory = Annotated[Path, typer.Option(help="The authority's folder.")]
Via = Annotated[
    str | None,
    typer.Option(help="HOST or HOST:PORT of any device that is up; the fleet is told through it."),
]
CA = Path("ca")


class RoleName(StrEnum):
    """As `broker.identity.Role`, which costs an import."""

    OPERATOR = "operator"
    DEVICE = "device"
    VIEWER = "viewer"


@ca_app.command()
def init(
    fleet: Annotated[str, typer.Argument(help="Its name.")] = "home", directory: Directory = CA
) -> None:
    """Make the authority of a new fleet."""
    from agent.commands import ca

    ca.init(directory, fleet)


@ca_app.command()
def issue(
    name: Annotated[str, typer.Argument(metavar="DEVICE", help="The new member's id.")],
    role: Annotated[RoleName, typer.Option(help="What it is for.")] = RoleName.DEVICE,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; by default identity-DEVICE.")
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(help="Address or name at which clients reach it; may be repeated."),
    ] = None,
    days: Annotated[float, typer.Option(min=0.01, max=825, help="How long it holds.")] = 60,
    directory: Directory = CA,
) -> None:
    """Make key and certificate of a new member, to be carried there; `flockmq enroll` carries nothing."""
    from agent.commands import ca
    from broker.identity import Role

    ca.issue(directory, name, Role(role), out, host or [], days)


@ca_app.command()
def invite(
    name: Annotated[str, typer.Argument(metavar="DEVICE", help="The new member's id.")],
    role: Annotated[RoleName, typer.Option(help="What it is for.")] = RoleName.DEVICE,
    minutes: Annotated[float, typer.Option(min=0.01, max=1_440, help="How long it holds.")] = 10,
    site: Annotated[str, typer.Option(help="For its device.toml.")] = "home",
    seed: Annotated[
        list[str] | None,
        typer.Option(
            help="HOST:PORT of a device that is up, for its device.toml; may be repeated."
        ),
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(help="Address or name at which clients reach it; may be repeated."),
    ] = None,
    listen: Annotated[str, typer.Option(help="Address to receive it on.")] = "0.0.0.0",  # noqa: S104 - who has no code gets nothing
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 picks one.")] = 8884,
    directory: Directory = CA,
) -> None:
    """Let one new device join by `flockmq enroll`: show it a code that is good once, and wait for it."""
    from agent.commands.invite import Invited
    from agent.commands.invite import invite as do_invite
    from broker.identity import Role

    invited = Invited(name, Role(role), site, host or [], seed or [])
    do_invite(directory, invited, listen, port, minutes)


@ca_app.command("list")
def list_members(directory: Directory = CA) -> None:
    """Show who has a certificate, and for how long."""
    from agent.commands import ca

    ca.list_members(directory)


@ca_app.command()
def renew(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DEVICE]...", help="Whose; by default all due, with --out its member if due."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the one member that is renewed, if it is here.")
    ] = None,
    via: Via = None,
    directory: Directory = CA,
) -> None:
    """Renew certificates; devices take theirs from the mesh."""
    from agent.commands import ca

    ca.renew(directory, names or [], out, via)


@ca_app.command()
def revoke(
    name: Annotated[str, typer.Argument(metavar="DEVICE", help="Whose certificates.")],
    via: Via = None,
    directory: Directory = CA,
) -> None:
    """Let no certificate of a member count any more, and change the key that devices share."""
    from agent.commands import ca

    ca.revoke(directory, name, via)


@ca_app.command("rotate-key")
def rotate_key(via: Via = None, directory: Directory = CA) -> None:
    """Change the key that all devices share; `keep` does it every 30 days, `revoke` at once."""
    from agent.commands import ca

    ca.rotate_key(directory, via)


@ca_app.command()
def publish(
    via: Annotated[str, typer.Option(help="HOST or HOST:PORT of any device that is up.")],
    directory: Directory = CA,
) -> None:
    """Tell the fleet the newest certificates, what is revoked, and the key that devices share."""
    from agent.commands import ca

    ca.publish(directory, via)


@ca_app.command()
def keep(
    via: Annotated[str, typer.Option(help="HOST or HOST:PORT of any device that is up.")],
    directory: Directory = CA,
) -> None:
    """Renew what is due and tell the fleet, every hour until Ctrl-C."""
    from agent.commands import ca

    ca.keep(directory, via)
