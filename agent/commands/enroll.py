"""`flockmq enroll`: joins a fleet by a code from `flockmq ca invite`.

Makes this device's key here, where it stays; believes only the authority that shows the certificate in the code; stores
the identity, and writes a device.toml if there is none. The protocol stands in broker/enrolment.py.

Assumes nothing of the clock. On failure: `EnrolmentFailed` in one sentence, and nothing is left behind. A connection
that breaks is tried again with the same key, since the authority may have signed already.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agent.addresses import parse_address
from agent.commands.paths import is_there
from agent.commands.text import say
from broker import certificates
from broker.enrolment import (
    ENROLMENT_PORT,
    EXCHANGE_S,
    LINE_BYTES_MAX,
    Answer,
    Question,
    fingerprint,
    proof,
    read_code,
)
from broker.errors import EnrolmentFailed, IdentityUnusable
from broker.identity import Moment
from broker.identity_folder import KEY_FILE, write_identity
from broker.secret_file import write_file
from broker.trust import Trust
from broker.words import in_words

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.enrolment import Code

__all__ = ["enroll"]

ATTEMPTS: Final = 3
AGAIN_S: Final = 1.0
"""Between attempts: a device that was just started listens by then. Both guesses; whoever sits there can try again."""


def enroll(text: str, at: str, identity: Path, config: Path) -> None:
    """Join.

    Args:
        text: The code.
        at: `host` or `host:port` of the authority.
        identity: Folder to write.
        config: device.toml to write if it is not there.

    Raises:
        EnrolmentFailed: This device was not enrolled.
        SecretUnusable: Something cannot be written.
    """
    code = read_code(text)
    address = parse_address(at if ":" in at else f"{at}:{ENROLMENT_PORT}")
    if address is None:
        raise EnrolmentFailed(
            f"--at {at} is not HOST or HOST:PORT; write 192.0.2.7:{ENROLMENT_PORT}, say"
        )
    if is_there(identity / KEY_FILE):
        raise EnrolmentFailed(
            f"there is an identity in {identity} already; remove it, or name another folder with --identity"
        )
    asyncio.run(_join(code, *address, identity, config))


async def _join(code: Code, host: str, port: int, identity: Path, config: Path) -> None:
    key = certificates.make_key()
    request = certificates.make_request(key).decode()
    question = msgspec.json.encode(Question(request, proof(code, request))) + b"\n"
    stored = False
    for attempt in range(1, ATTEMPTS + 1):
        try:
            async with asyncio.timeout(EXCHANGE_S):
                async with _connected(code, host, port) as (reader, writer):
                    writer.write(question)
                    line = await reader.readuntil(b"\n")
                    _store(_granted(line), certificates.key_bytes(key), identity, config)
                    stored = True
                    writer.write(b"stored\n")
                    await reader.read()  # until the authority has heard it
                    return
        except (OSError, EOFError, TimeoutError, ValueError, asyncio.LimitOverrunError) as error:
            if stored:
                return
            if attempt == ATTEMPTS:
                reason = in_words(error, "no answer in time")
                raise EnrolmentFailed(
                    f"no authority at {host}:{port}: {reason}; is `flockmq ca invite` still running there?"
                ) from None
            await asyncio.sleep(AGAIN_S)


def _granted(line: bytes) -> Answer:
    answer = msgspec.json.decode(line, type=Answer)
    if answer.refused:
        raise EnrolmentFailed(f"the authority refuses: {answer.refused}")
    return answer


@contextlib.asynccontextmanager
async def _connected(
    code: Code, host: str, port: int
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the authority that the code names, and to nobody else.

    Raises:
        EnrolmentFailed: Somebody else answers.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the code says which certificate it has to be
    reader, writer = await asyncio.open_connection(
        host, port, ssl=context, server_hostname="", limit=LINE_BYTES_MAX
    )
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if fingerprint(shown) != code.fingerprint:
            raise EnrolmentFailed(
                f"who answers at {host}:{port} is not who made this code; it was told nothing. Is the address right?"
            )
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _store(answer: Answer, key: bytes, identity: Path, config: Path) -> None:
    authority, certificate = answer.authority.encode(), answer.certificate.encode()
    fleet_key = answer.fleet_key.encode()
    with tempfile.TemporaryDirectory() as folder:
        write_identity(Path(folder), authority, certificate, key)
        try:
            own = Trust(Path(folder), lambda: Moment(0, synchronised=False)).identity
        except IdentityUnusable as error:
            raise EnrolmentFailed(f"what the authority sent does not fit: {error}") from None
    write_identity(identity, authority, certificate, key, fleet_key)
    say(f"this is {own.role} {own.name} of fleet {own.fleet}: its identity is in {identity}")
    if own.role != "device":
        return
    if is_there(config):
        say(f'{config} is there already; see that it says device = "{own.name}" and has a [tls]')
    else:
        where = identity.absolute()
        with contextlib.suppress(ValueError):  # it is elsewhere, and stands there in full
            where = where.relative_to(config.absolute().parent)
        write_file(config, _device_toml(answer, own.name, where).encode())
        say(f"start it with `flockmq run --config {config}`")


def _device_toml(answer: Answer, name: str, identity: Path) -> str:
    """JSON's strings and lists of strings are TOML's, too."""
    found = f"seeds = {json.dumps(answer.seeds)}" if answer.seeds else "mdns = true"
    return (
        f"device = {json.dumps(name)}\nsite = {json.dumps(answer.site)}\n\n"
        f"[tls]\nidentity = {json.dumps(str(identity))}\n\n[discovery]\n{found}\n"
    )
