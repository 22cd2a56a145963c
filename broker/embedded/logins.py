"""Lets local users in by name and password, without letting those who guess cost the device much.

Decides: when a password is tried. Trying one is slow on purpose (`broker/passwords.py`), so it is
done in a thread, one at a time, and after a wrong one nothing is tried for some times as long: that
bounds what all guessing together takes of a processor, and 16 MiB are all that it takes of memory.
What waits is bounded, altogether and for each address; an address that was wrong too often is put
off. A password that was found right once is known by a keyed digest, in memory only, and not tried
again, so that guessers hold up nobody who was here before. Nor is one that was found wrong, so a
program that repeats an old password costs nothing.

Assumes: one event loop. On failure: `NotLetIn` with the return code to say. A wrong password, an
unknown name and no password at all are the same to whoever asks, in code and in time; whoever
is put off learns nothing of his password.
"""

import asyncio
import logging
import secrets
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import NamedTuple

from broker.embedded.addresses import network_of
from broker.embedded.bodies import (
    REFUSED_CREDENTIALS,
    REFUSED_NOT_AUTHORIZED,
    REFUSED_UNAVAILABLE,
)
from broker.embedded.limits import Limits
from broker.embedded.statistics import Counters
from broker.embedded.token_buckets import TokenBuckets
from broker.passwords import NOBODY, matches
from broker.users import User, Users

logger = logging.getLogger(__name__)

_REMEMBERED_MAX = 256  # right and wrong passwords; as many as there may be users
_clock_s = time.monotonic


class NotLetIn(Exception):
    """A client is refused; `code` is the CONNACK's."""

    def __init__(self, code: int = REFUSED_NOT_AUTHORIZED) -> None:
        super().__init__(code)
        self.code = code


class _Trial(NamedTuple):
    password: bytes
    stored: str
    digest: bytes
    address: str
    answer: asyncio.Future[bool]


class Logins:
    """Those at one device."""

    def __init__(self, users: Users, limits: Limits, counters: Counters) -> None:
        self._users = users
        self._limits = limits
        self._counters = counters
        self._key = secrets.token_bytes(32)
        self._right: dict[bytes, str] = {}  # by digest of name and password: the hash it fits
        self._wrong: dict[bytes, str] = {}  # the same: the hash that it does not fit
        self._attempts = TokenBuckets(
            limits.passwords_burst_per_address,
            limits.passwords_per_address_per_s,
            limits.addresses_max,
        )
        self._trials: deque[_Trial] = deque()
        self._trying: asyncio.Task[None] | None = None
        # One of its own: the allocator keeps, for each thread that has done it, what trying takes.
        self._thread = ThreadPoolExecutor(1, "passwords")

    async def login(self, name: str, password: bytes | None, address: str) -> User:
        """Return the user, if this is the password.

        Raises:
            NotLetIn: it is not, or this is not the time to try.

        """
        self._users.refresh()
        user = self._users.get(name)
        stored = NOBODY if user is None else user.stored
        if password is None:
            raise self._refuse(address)
        digest = blake2b(name.encode() + b"\0" + password, key=self._key, digest_size=32).digest()
        if self._wrong.get(digest) == stored:
            raise self._refuse(address)
        if self._right.get(digest) != stored and not await self._try(
            password, stored, digest, address
        ):
            raise self._refuse(address)
        if user is None or self._users.get(name) != user:
            raise self._refuse(address)  # changed while it was tried
        return user

    def close(self) -> None:
        """Try nothing any more."""
        if self._trying is not None:
            self._trying.cancel()
        self._thread.shutdown(wait=False)

    async def _try(self, password: bytes, stored: str, digest: bytes, address: str) -> bool:
        loop = asyncio.get_running_loop()
        if len(self._trials) >= self._limits.passwords_waiting_max:
            raise self._put_off("too many passwords wait to be tried", address)
        network = network_of(address)
        if not self._attempts.take(network, loop.time()):
            raise self._put_off("too many wrong passwords", address)
        trial = _Trial(password, stored, digest, address, loop.create_future())
        self._trials.append(trial)
        if self._trying is None:
            self._trying = loop.create_task(self._keep_trying(), name="passwords")
        try:
            right = await trial.answer
        except asyncio.CancelledError:  # who asked has hung up, and takes nobody's place
            if trial in self._trials:
                self._trials.remove(trial)
            raise
        if right:
            self._attempts.give_back(network)
        return right

    async def _keep_trying(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._trials:
                trial = self._trials.popleft()
                began_s = _clock_s()
                try:
                    right = await loop.run_in_executor(
                        self._thread, matches, trial.password, trial.stored
                    )
                # OpenSSL says either of the first two when it gets no memory, a pool the last when it gets no thread.
                except (MemoryError, ValueError, RuntimeError):
                    if not trial.answer.done():  # unless who asked has hung up meanwhile
                        why = "there is no memory, or no thread, to try a password"
                        trial.answer.set_exception(self._put_off(why, trial.address))
                    continue
                took_s = _clock_s() - began_s
                self._remember(trial.digest, trial.stored, right=right)
                if not trial.answer.done():
                    trial.answer.set_result(right)
                if not right:
                    await asyncio.sleep(took_s * self._limits.wrong_password_pauses)
        finally:
            self._trying = None

    def _remember(self, digest: bytes, stored: str, *, right: bool) -> None:
        known = self._right if right else self._wrong
        known[digest] = stored
        if len(known) > _REMEMBERED_MAX:
            del known[next(iter(known))]

    def nameless(self, address: str) -> NotLetIn:
        """Count a client without a user name that needs one."""
        self._counters.logins_refused += 1
        return self._told(REFUSED_NOT_AUTHORIZED, f"no user name, from {address}")

    def _refuse(self, address: str) -> NotLetIn:
        self._counters.logins_refused += 1
        return self._told(REFUSED_CREDENTIALS, f"wrong user name or password, from {address}")

    def _put_off(self, why: str, address: str) -> NotLetIn:
        self._counters.logins_put_off += 1
        return self._told(REFUSED_UNAVAILABLE, f"{why}, from {address}")

    def _told(self, code: int, reason: str) -> NotLetIn:
        if reason != self._counters.last_login_refused:  # who guesses does not fill the log
            logger.info("not let in: %s", reason)
        self._counters.last_login_refused = reason
        return NotLetIn(code)
