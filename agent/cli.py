"""The program `flockmq`: names of commands and options, and how failures are told.

What a command does stands in `agent/commands`; it is imported when it is called, so that `--help` is quick and a
device carries nothing that it does not use. A failure that a person can do something about is one line on standard
error and exit status 2; anything else is a defect and shows its traceback.
"""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from agent.ca_cli import ca_app
from agent.cli_options import Host, IdentityFolder, PasswordFile, Port, UserName, port_of
from agent.errors import AgentError
from agent.model_cli import model_app
from agent.streams import mend_streams
from agent.user_cli import user_app
from broker.errors import FlockmqError

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="An MQTT broker mesh for edge AI: every device its own broker, one picture of the world.",
)

app.add_typer(ca_app, name="ca")
app.add_typer(user_app, name="user")
app.add_typer(model_app, name="model")

BrokerPort = Annotated[int, typer.Option("--port", "-p", min=0, max=65_535, help="Its port.")]
Meant = Annotated[
    str | None,
    typer.Option("--device", help="Its id, if you know it: by TLS nobody else is talked to."),
]


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - as typer calls it
    if wanted:
        typer.echo(f"flockmq {version('flockmq')}")
        raise typer.Exit


@app.callback()
def flockmq(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show it, and end."),
    ] = False,
) -> None:
    """Leave everything to the command."""


@app.command()
def run(
    config: Annotated[Path, typer.Option(help="The device's configuration.")] = Path("device.toml"),
) -> None:
    """Run one device: broker, mesh, sensor, model."""
    from agent.commands.serve import run_device

    run_device(config)


@app.command()
def broker(
    port: BrokerPort = 1883,
    host: Annotated[str, typer.Option(help="Loopback address to listen on.")] = "127.0.0.1",
    name: Annotated[str, typer.Option(help="This broker's id in the mesh.")] = "broker",
    state: Annotated[
        Path | None, typer.Option(help="Directory of its memory; without it, none.")
    ] = None,
    neighbour: Annotated[
        list[str] | None, typer.Option(help="Whom to dial, as name=host:port; may be repeated.")
    ] = None,
) -> None:
    """Run a broker and its mesh without an agent.

    Plain MQTT, on loopback only.
    """
    from agent.commands.options import check_broker, parse_neighbours
    from agent.commands.serve import run_broker

    check_broker(name, host)
    run_broker(name, host, port, state, parse_neighbours(name, neighbour or []))


@app.command()
def watch(
    topic_filter: Annotated[str, typer.Argument(metavar="FILTER", help="What to hear.")] = "#",
    host: Host = "127.0.0.1",
    port: Port = None,
    identity: IdentityFolder = None,
    device: Meant = None,
    user: UserName = None,
    password_file: PasswordFile = None,
    count: Annotated[
        int | None, typer.Option("--count", "-C", min=1, help="End after so many messages.")
    ] = None,
) -> None:
    """Show what is published, with the age of each message."""
    from agent.commands.client import secured_by
    from agent.commands.password import login
    from agent.commands.watch import watch as do_watch
    from broker.topic_names import TopicError, check_topic_filter

    try:
        check_topic_filter(topic_filter)
    except TopicError as error:
        raise typer.BadParameter(str(error)) from None
    secured, known = secured_by(identity, device), login(user, password_file)
    asyncio.run(do_watch(host, port_of(port, identity), secured, known, topic_filter, count))


@app.command()
def status(
    host: Host = "127.0.0.1",
    port: Port = None,
    identity: IdentityFolder = None,
    device: Meant = None,
    user: UserName = None,
    password_file: PasswordFile = None,
    json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Show what a device thinks of its links, peers and models."""
    from agent.commands.client import secured_by
    from agent.commands.password import login
    from agent.commands.status import status as do_status

    secured, known = secured_by(identity, device), login(user, password_file)
    asyncio.run(do_status(host, port_of(port, identity), secured, known, as_json=json))


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Option(help="Check for this device.toml.")] = None,
) -> None:
    """Show what this machine has and lacks, and what to do about it."""
    from agent.commands.doctor import doctor as do_doctor

    raise typer.Exit(do_doctor(config))


@app.command()
def enroll(
    code: Annotated[str, typer.Argument(metavar="CODE", help="What `flockmq ca invite` shows.")],
    at: Annotated[str, typer.Option(help="HOST or HOST:PORT of where it shows it.")],
    identity: Annotated[Path, typer.Option(help="Folder to write.")] = Path("identity"),
    config: Annotated[Path, typer.Option(help="Written unless it is there.")] = Path("device.toml"),
) -> None:
    """Make this device a member of a fleet, by a code."""
    from agent.commands.enroll import enroll as do_enroll

    do_enroll(code, at, identity, config)


@app.command()
def demo(
    headless: Annotated[bool, typer.Option("--headless", help="No live table.")] = False,
    seconds: Annotated[
        float | None, typer.Option(min=1, help="How long; 30 if headless, else until Ctrl-C.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="The figures as one JSON object on the last line.")
    ] = False,
    calm: Annotated[bool, typer.Option("--calm", help="No faults.")] = False,
    speed: Annotated[float, typer.Option(min=0.1, max=100, help="Trace seconds a second.")] = 10.0,
    port: Annotated[int, typer.Option(min=1, max=65_000, help="The first device's port.")] = 18_831,
) -> None:
    """Run five devices on this machine."""
    from agent.demo.command import demo as do_demo

    raise typer.Exit(
        do_demo(
            headless=headless,
            seconds=seconds,
            json_output=json,
            calm=calm,
            speed=speed,
            port=port,
        )
    )


def main() -> None:
    """The entry point."""
    mend_streams()
    try:
        app()
    except (AgentError, FlockmqError) as error:
        sys.stderr.write(f"flockmq: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
