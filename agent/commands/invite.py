"""`flockmq ca invite`: lets one new device join, by a code that is good once and for a few minutes.

Listens with a certificate made for the occasion, signs one request of who knows the code (broker/enrolment.py), and
ends: with success once the device says that it has stored its identity, else when the time or the tries are over.

Assumes that the new device can reach this machine. On failure: `EnrolmentFailed` in one sentence, and nobody has a
certificate more; only if the device's last word is lost there is one that it may hold, and `flockmq ca list` shows it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from agent.addresses import parse_address
from agent.commands.text import say
from agent.errors import ConfigError
from broker import certificates
from broker.authority import Authority
from broker.discovery import own_addresses
from broker.enrolment import (
    EXCHANGE_S,
    LINE_BYTES_MAX,
    Answer,
    Invitation,
    Question,
    make_code,
)
from broker.errors import AuthorityUnusable, EnrolmentFailed
from broker.identity import CertificateInvalid, Role
from broker.identity_folder import CERTIFICATE_FILE, KEY_FILE
from broker.secret_file import write_file
from broker.topic_names import is_id
from broker.wall_clock import wall_ms
from broker.words import in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Invited", "invite"]

GUESTS_MAX: Final = 8
"""Exchanges at once, each of EXCHANGE_S at most. One device is expected."""
ELSEWHERE: Final = ("198.51.100.1", 9)
"""Nobody's address (RFC 5737): reached, if at all, by the default route."""
HANG_UP_S: Final = 1.0
"""For the last words to leave; who does not take them is not waited for."""


class Invited(NamedTuple):
    """Who may join, and what it is told."""

    name: str
    role: Role
    site: str
    hosts: Sequence[str]
    """Addresses and names at which clients reach it."""
    seeds: Sequence[str]
    """`host:port` of devices that are up."""


def invite(directory: Path, invited: Invited, host: str, port: int, minutes: float) -> None:
    """Show a code, and wait until a device has used it.

    Raises:
        AuthorityUnusable: There is no authority, or the name has a holder.
        ConfigError: The site or a seed cannot be one.
        EnrolmentFailed: Nobody joined.
    """
    if not is_id(invited.site):
        raise ConfigError(f"--site {invited.site} is no id; take 1 to 32 of a-z, 0-9 and -")
    for seed in invited.seeds:
        if parse_address(seed) is None:
            raise ConfigError(f"--seed {seed} is not HOST:PORT; write 192.0.2.7:8883, say")
    with Authority.at(directory) as authority:
        authority.check_free(invited.name, wall_ms())
    asyncio.run(_serve(directory, invited, host, port, minutes))


async def _serve(directory: Path, invited: Invited, host: str, port: int, minutes: float) -> None:
    context, shown = _context(timedelta(minutes=minutes))
    now_s = asyncio.get_running_loop().time()
    invitation = Invitation(make_code(shown), now_s + minutes * 60)
    desk = _Desk(directory, invited, invitation)
    try:
        server = await asyncio.start_server(
            desk.receive,
            host,
            port,
            ssl=context,
            ssl_handshake_timeout=EXCHANGE_S,
            limit=LINE_BYTES_MAX,
        )
    except OSError as error:
        raise EnrolmentFailed(
            f"nobody can be received on {host}:{port}: {in_words(error)}; choose another with --listen or --port"
        ) from None
    async with server:
        first, *others = await _reachable(host)
        port = server.sockets[0].getsockname()[1]
        say(f"on {invited.name}, within {minutes:g} minutes:")
        say(f"  flockmq enroll {invitation.code} --at {first}:{port}")
        if others:
            say(f"this machine is also {', '.join(others)}, should it not be reached there")
        try:
            async with asyncio.timeout_at(invitation.until_s):
                await desk.over
            await desk.say_goodbye()
        except TimeoutError:
            raise EnrolmentFailed(
                f"{invited.name} did not join within {minutes:g} minutes; the code is worth nothing now"
            ) from None
    say(f"{invited.role} {invited.name} has joined")


async def _reachable(host: str) -> list[str]:
    """The addresses of this machine, for people: the one on the way to everybody else, then those of bridges, say."""
    try:
        addresses = await own_addresses(host)
    except (OSError, ValueError):
        return [host]
    outward = _outward_address()
    return sorted(addresses, key=lambda address: address != outward)


def _outward_address() -> str | None:
    """The address that the default route goes out from; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(ELSEWHERE)
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _context(life: timedelta) -> tuple[ssl.SSLContext, bytes]:
    """For TLS with a certificate that nobody has seen before; and that certificate."""
    key = certificates.make_key()
    certificate = certificates.self_signed("invitation", key, wall_ms(), life)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with tempfile.TemporaryDirectory() as folder:
        certificate_file, key_file = Path(folder, CERTIFICATE_FILE), Path(folder, KEY_FILE)
        write_file(certificate_file, certificate.public_bytes(Encoding.PEM))
        write_file(key_file, certificates.key_bytes(key), secret=True)
        context.load_cert_chain(certificate_file, key_file)
    return context, certificate.public_bytes(Encoding.DER)


class _Desk:
    """Receives devices."""

    def __init__(self, directory: Path, invited: Invited, invitation: Invitation) -> None:
        self._directory = directory
        self._invited = invited
        self._invitation = invitation
        self._guests: set[asyncio.Task[None]] = set()
        self._answer: Answer | None = None
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """A device has stored its identity; an error says why none ever will."""

    def receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Begin an exchange, in a task of our own: asyncio complains of its own ones that are cancelled."""
        if len(self._guests) >= GUESTS_MAX:
            writer.transport.abort()
            return
        guest = asyncio.get_running_loop().create_task(self._talk(reader, writer))
        self._guests.add(guest)
        guest.add_done_callback(self._guests.discard)

    async def say_goodbye(self) -> None:
        """Let last words leave."""
        if self._guests:
            await asyncio.wait(self._guests, timeout=HANG_UP_S)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One exchange; nothing that a stranger says gets further than this."""
        try:
            async with asyncio.timeout(EXCHANGE_S):
                question = msgspec.json.decode(await reader.readuntil(b"\n"), type=Question)
                answer = self._grant(question)
                writer.write(msgspec.json.encode(answer) + b"\n")
                await writer.drain()
                if not answer.refused and await reader.readuntil(b"\n") == b"stored\n":
                    self._end(None)
        except (
            OSError, EOFError, TimeoutError, ValueError, RecursionError, asyncio.LimitOverrunError,
        ):  # fmt: skip
            pass  # it hung up, was too slow, or is no device; the next one may be
        finally:
            await _hang_up(writer)

    def _grant(self, question: Question) -> Answer:
        now_s = asyncio.get_running_loop().time()
        refused = self._invitation.check(question, now_s)
        if refused:
            say(f"a device was refused: {refused}")
            if not self._invitation.tries_left:
                self._end(EnrolmentFailed("the code was tried too often, and is worth nothing now"))
            return Answer(refused=refused)
        if self._answer is None:
            try:
                self._answer = self._sign(question)
            except (AuthorityUnusable, CertificateInvalid) as error:
                self._end(EnrolmentFailed(f"{self._invited.name} cannot join: {error}"))
                return Answer(refused="the authority cannot sign; see what it says there")
        return self._answer

    def _sign(self, question: Question) -> Answer:
        name, role, site, hosts, seeds = self._invited
        key = certificates.read_request(question.request.encode())
        with Authority.at(self._directory) as authority:
            issued = authority.issue(name, role, key, wall_ms(), hosts=hosts)
            return Answer(
                name=name,
                site=site,
                seeds=tuple(seeds),
                authority=authority.pem.decode(),
                certificate=issued.pem,
                fleet_key=authority.key_share(issued, wall_ms()).decode(),
            )

    def _end(self, error: EnrolmentFailed | None) -> None:
        if self.over.done():
            return
        if error is None:
            self.over.set_result(None)
        else:
            self.over.set_exception(error)


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    """Close a connection once what was said has left, or at once when that takes too long."""
    writer.close()
    try:
        async with asyncio.timeout(HANG_UP_S):
            await writer.wait_closed()
    except OSError:
        pass  # it was closed from the other side; TimeoutError is one, too
    finally:
        writer.transport.abort()
