"""`flockmq ca`: what an operator does with the fleet's authority, and how the fleet is told of it.

Decides that everything is done on the machine where the authority's folder is, and that the fleet is told through any
one device that is up: renewed certificates and the revocation list are retained messages, so devices that are off hear
of them when they are back. To say it, an operator's certificate of a few minutes is made for the occasion.

Assumes that this machine's clock is right. On failure: one sentence; what was signed or revoked stays so, and
`flockmq ca publish` tells it later.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.addresses import parse_address
from agent.commands.client import Secured, connect
from agent.commands.paths import is_there
from agent.commands.text import count_of, say
from agent.errors import ConfigError, NoDevice
from broker.authority import LIFE_DAYS, Authority
from broker.credentials import notice, system_moment
from broker.errors import AuthorityUnusable
from broker.identity import DAY_MS, Moment, Role
from broker.identity_folder import CERTIFICATE_FILE, FLEET_KEY_FILE, KEY_FILE, write_identity
from broker.introduction import Unanswered, meet
from broker.secret_file import write_file
from broker.topic_names import certificate_topic, fleet_key_topic, revocation_topic
from broker.trust import Trust
from broker.wall_clock import wall_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["init", "issue", "keep", "list_members", "publish", "renew", "revoke", "rotate_key"]

TLS_PORT: Final = 8883
ERRAND_LIFE: Final = timedelta(minutes=10)
KEEP_S: Final = 3_600.0
"""Between looks at what is due; each tells everything anew, for devices that lost their disk."""
KEEP_AGAIN_S: Final = 10.0
"""Between attempts while the device does not answer."""


def init(directory: Path, fleet: str) -> None:
    """Make the authority of a new fleet."""
    Authority.create(directory, fleet, wall_ms())
    say(f"made the authority of fleet {fleet} in {directory}")
    say(
        "whoever has ca.key can make devices of this fleet: keep the folder off them, and keep a backup"
    )


def issue(
    directory: Path, name: str, role: Role, out: Path | None, hosts: Sequence[str], days: float
) -> None:
    """Make key and certificate of a new member, to be carried there by hand."""
    out = out or Path(f"identity-{name}")
    with Authority.at(directory) as authority:
        if is_there(out / KEY_FILE):
            raise AuthorityUnusable(
                f"there is an identity in {out} already; name another folder with --out"
            )
        authority.equip(out, name, role, wall_ms(), hosts=hosts, days=days)
    say(f"{role} {name}: ca.pem, own.pem and own.key in {out}, for {days:g} days")


def list_members(directory: Path) -> None:
    """Show who has a certificate."""
    now_ms = wall_ms()
    with Authority.at(directory) as authority:
        members = authority.members(now_ms)
        say(f"fleet {authority.fleet}: {count_of(len(members), 'member')}")
    for member in members:
        left_days = (member.not_after_ms - now_ms) / DAY_MS
        due = ", due for renewal" if member.due(now_ms) else ""
        say(f"  {member.role} {member.name}: {left_days:.0f} days left{due}")


def renew(directory: Path, names: Sequence[str], out: Path | None, via: str | None) -> None:
    """Renew the certificates of these members, or of all that are due, and tell the fleet.

    Args:
        directory: The authority's.
        names: Whose, due or not; empty: who is due.
        out: The folder of the only one that is meant, if it is here.
        via: Through which device the fleet is told.

    Raises:
        ConfigError: Several are renewed, and one folder is to take them.
        IdentityUnusable: That folder does not say whose it is.
    """
    if out is not None:
        _renew_here(directory, names, out)
        return
    now_ms = wall_ms()
    with Authority.at(directory) as authority:
        due = [member.name for member in authority.members(now_ms) if member.due(now_ms)]
        for name in names or due:
            authority.renew(name, now_ms)
            say(f"renewed {name} for {LIFE_DAYS} days")
        if not names and authority.key_due(now_ms):
            due.append("key")
            say(f"the fleet's key is number {authority.rotate_key(now_ms)} now")
    if not names and not due:
        say("nothing is due")
    _tell(directory, via)


def _renew_here(directory: Path, names: Sequence[str], out: Path) -> None:
    """Renew one member, and put its certificate into its folder; one that is not named, if it is due."""
    if len(names) > 1:
        raise ConfigError("--out takes the certificate of one member")
    now_ms = wall_ms()
    name = names[0] if names else Trust(out, system_moment).identity.name
    with Authority.at(directory) as authority:
        members = authority.members(now_ms)
        if not names and any(one.name == name and not one.due(now_ms) for one in members):
            say("nothing is due")
            return
        renewed = authority.renew(name, now_ms)
        share = authority.key_share(renewed, now_ms)
    write_file(out / CERTIFICATE_FILE, renewed.pem.encode())
    if share:
        write_file(out / FLEET_KEY_FILE, share, secret=True)
    say(f"renewed {name} for {LIFE_DAYS} days: own.pem in {out}")


def rotate_key(directory: Path, via: str | None) -> None:
    """Change the key that all devices share, and tell the fleet."""
    with Authority.at(directory) as authority:
        number = authority.rotate_key(wall_ms())
    say(f"the fleet's key is number {number} now")
    _tell(directory, via)


def revoke(directory: Path, name: str, via: str | None) -> None:
    """Let no certificate of a member count any more, and tell the fleet."""
    with Authority.at(directory) as authority:
        count = authority.revoke(name, wall_ms())
    say(f"revoked {count_of(count, 'certificate')} of {name}, and changed the fleet's key")
    _tell(directory, via)


def publish(directory: Path, via: str) -> None:
    """Tell the fleet the newest certificates, what is revoked, and the key that devices share.

    Raises:
        NoDevice: The device cannot be reached, or is not of this fleet.
    """
    asyncio.run(_publish(directory, *_address(via)))
    say(f"told the fleet through {via}")


def keep(directory: Path, via: str) -> None:
    """Renew what is due and tell the fleet, again and again, until it is ended."""
    while True:
        pause_s = KEEP_S
        try:
            renew(directory, (), None, via)
        except (NoDevice, AuthorityUnusable) as error:
            pause_s = KEEP_AGAIN_S
            sys.stderr.write(f"flockmq ca keep: {error}; it is tried again in {pause_s:g} s\n")
        time.sleep(pause_s)  # a program of its own, with nothing else to do


def _tell(directory: Path, via: str | None) -> None:
    if via is None:
        say(
            "the fleet does not know yet: `flockmq ca publish --via HOST` tells it, through any device that is up"
        )
    else:
        publish(directory, via)


async def _publish(directory: Path, host: str, port: int) -> None:
    now_ms = wall_ms()
    with tempfile.TemporaryDirectory() as folder:
        with Authority.at(directory) as authority:
            fleet, revocations = authority.fleet, authority.revocation_list(now_ms)
            shared = authority.fleet_key_notice(now_ms)
            members = authority.members(now_ms)
            write_identity(Path(folder), authority.pem, *authority.errand(now_ms, ERRAND_LIFE))
        trust = Trust(Path(folder), lambda: Moment(now_ms, synchronised=True))
        trust.adopt_revocations(revocations)
        try:
            met = await meet(host, port, trust)
        except Unanswered as error:
            raise NoDevice(
                f"the fleet was not told through {host}:{port}: {error}; name a device that is up with --via"
            ) from None
        site = met.introduction.site
        told = {
            revocation_topic(site=site, fleet=fleet): revocations,
            fleet_key_topic(site=site, fleet=fleet): shared,
        }
        for member in members:
            if member.role is Role.DEVICE:
                topic = certificate_topic(site=site, device=member.name)
                told[topic] = member.pem.encode()
        async with connect(host, port, Secured(trust, met.introduction.device)) as client:
            for topic, pem in told.items():
                await client.publish(topic, notice(pem), qos=1, retain=True)


def _address(via: str) -> tuple[str, int]:
    """Host and port from `host` or `host:port`.

    Raises:
        ConfigError: It is neither.
    """
    address = parse_address(via if ":" in via else f"{via}:{TLS_PORT}")
    if address is None:
        raise ConfigError(f"--via {via} is not HOST or HOST:PORT; write 192.0.2.7:{TLS_PORT}, say")
    return address
