"""The commands `flockmq model ...`: names and options. What they do stands in `agent/commands/model*.py`."""
# ruff: noqa: FBT002, PLC0415 - typer makes flags of boolean parameters; each command imports what it needs when called

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli_options import Host, IdentityFolder, PasswordFile, Port, UserName, port_of

if TYPE_CHECKING:
    from agent.commands.model_fleet import At

__all__ = ["model_app"]

model_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make, sign and publish versions of models.",
)

Name = Annotated[str, typer.Argument(help="The model's name.")]
PackageName = Annotated[
    str, typer.Argument(metavar="PACKAGE", help="A folder by `pack`, or what ships: forecaster-1.")
]
Days = Annotated[float, typer.Option(min=0.001, max=400, help="How long devices may take it up.")]
Wait = Annotated[
    int, typer.Option(min=0, max=10_000, help="Until so many devices run the version that stands.")
]
Within = Annotated[float, typer.Option(min=0.1, max=604_800, help="Seconds to wait at most.")]
CANARY_SHARE = typer.Option(min=0, max=1, help="Of devices that go first.")
HEALTH_WINDOW = typer.Option(min=0, max=86_400, help="Seconds of watching.")
ERROR_SHARE = typer.Option(min=0, max=1, help="Of its inferences that may fail.")
LATENCY_FACTOR = typer.Option(min=0, max=1e6, help="How many times as slow it may be; 0: any.")
LOOPBACK = "127.0.0.1"


@model_app.command()
def pack(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help=".tflite, .onnx")],
    name: Annotated[str, typer.Option(help="The model's name, an id.")],
    version: Annotated[str, typer.Option(help="For people.")],
    task: Annotated[str, typer.Option(help="What it is for.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="By default NAME-VERSION.")
    ] = None,
    low: Annotated[float, typer.Option(help="Least value of the sample's input.")] = 0.0,
    high: Annotated[float, typer.Option(help="Greatest value of the sample's input.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Draws the sample's input.")] = 1,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, help="Of the sample's outputs; by default what runtimes differ by."),
    ] = None,
    canary_share: Annotated[float, CANARY_SHARE] = 0.0,
    health_window: Annotated[float, HEALTH_WINDOW] = 0.0,
    error_share: Annotated[float, ERROR_SHARE] = 0.0,
    latency_factor: Annotated[float, LATENCY_FACTOR] = 3.0,
    base: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PACKAGE",
            help="An earlier version, against which deltas are made; may be repeated.",
        ),
    ] = None,
) -> None:
    """Make a version from its files: shapes, digests, and a sample that each device tries first."""
    from agent.commands import model
    from agent.models.manifest import Rollout
    from agent.models.packing import Described

    rollout = Rollout(
        canary_share=canary_share,
        health_window_s=health_window,
        error_share_max=error_share,
        latency_factor_max=latency_factor,
    )
    described = Described(name, version, task, rollout, low, high, seed, tolerance)
    model.pack(files, described, out or Path(f"{name}-{version}"), base or ())


@model_app.command()
def verify(
    package: PackageName,
    host: Annotated[
        str | None, typer.Option(help="Also check what the fleet of this device was told.")
    ] = None,
    port: Port = None,
    identity: IdentityFolder = None,
    user: UserName = None,
    password_file: PasswordFile = None,
) -> None:
    """Check digests and sample of a version, and the signature of what the fleet was told."""
    from agent.commands import model

    asked = host is not None or port is not None
    model.verify(
        package, _at(host or LOOPBACK, port, identity, user, password_file) if asked else None
    )


@model_app.command()
def publish(
    package: PackageName,
    host: Host = LOOPBACK,
    port: Port = None,
    identity: IdentityFolder = None,
    user: UserName = None,
    password_file: PasswordFile = None,
    days: Days = 365,
    counter: Annotated[
        int | None, typer.Option(min=1, help="By default one more than the fleet's.")
    ] = None,
    first: Annotated[
        bool, typer.Option("--first", help="Only if the fleet has no version of it yet.")
    ] = False,
    upload: Annotated[
        bool,
        typer.Option(help="Give the device the files first; not where one has them already."),
    ] = True,
    canary_share: Annotated[float | None, CANARY_SHARE] = None,
    health_window: Annotated[float | None, HEALTH_WINDOW] = None,
    error_share: Annotated[float | None, ERROR_SHARE] = None,
    latency_factor: Annotated[float | None, LATENCY_FACTOR] = None,
    wait: Wait = 0,
    within: Within = 300,
) -> None:
    """Have the fleet run a version, rolled out as its package says or as said here; by --identity an operator signs."""
    from agent.commands import model_publish

    chosen = {
        "canary_share": canary_share,
        "health_window_s": health_window,
        "error_share_max": error_share,
        "latency_factor_max": latency_factor,
    }
    how = model_publish.Publishing(
        days,
        counter=counter,
        first=first,
        upload=upload,
        rollout={key: value for key, value in chosen.items() if value is not None},
        devices=wait,
        wait_s=within,
    )
    model_publish.publish(package, _at(host, port, identity, user, password_file), how)


@model_app.command()
def rollback(
    name: Name,
    to: Annotated[str | None, typer.Option(help="Version; by default the one before.")] = None,
    host: Host = LOOPBACK,
    port: Port = None,
    identity: IdentityFolder = None,
    user: UserName = None,
    password_file: PasswordFile = None,
    days: Days = 365,
) -> None:
    """Have the fleet run an earlier version again; by --identity an operator signs that."""
    from agent.commands import model_publish

    model_publish.rollback(name, to, _at(host, port, identity, user, password_file), days)


@model_app.command("list")
def list_models(
    host: Host = LOOPBACK,
    port: Port = None,
    identity: IdentityFolder = None,
    user: UserName = None,
    password_file: PasswordFile = None,
) -> None:
    """Show which versions the fleet is to run, and who says so."""
    from agent.commands import model_show

    model_show.list_models(_at(host, port, identity, user, password_file))


@model_app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="Only of this model.")] = None,
    host: Host = LOOPBACK,
    port: Port = None,
    identity: IdentityFolder = None,
    user: UserName = None,
    password_file: PasswordFile = None,
    wait: Wait = 0,
    within: Within = 300,
) -> None:
    """Show what each device runs, and why not."""
    from agent.commands import model_show

    model_show.status(_at(host, port, identity, user, password_file), name, wait, within)


@model_app.command()
def key(
    identity: Annotated[Path, typer.Option("--identity", help="Folder of an operator.")],
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Sign with a new one from now on.")
    ] = False,
) -> None:
    """Show which key signs manifests, or change it; the first is made when it is needed."""
    from agent.commands import model

    model.key(identity, rotate=rotate)


def _at(
    host: str,
    port: int | None,
    identity: Path | None,
    user: str | None,
    password_file: Path | None,
) -> At:
    from agent.commands.model_fleet import At
    from agent.commands.password import login

    return At(host, port_of(port, identity), identity, login(user, password_file))
