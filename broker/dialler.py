"""Keeps a link to one neighbour up: connect, introduce, wait for its end, connect again.

Decides when to try. A packet that a cut swallows is sent again by the kernel after 1, 3 and 7 s only, so a dialler does
not wait for it: it starts another attempt every ATTEMPT_S, beside those that are still pending, and the first that gets
through becomes the link. So a neighbour that is reachable again has a link within half a second. The cost is a SYN each
ATTEMPT_S for a neighbour that is away, 150 bytes a second with its answer. After ABSENT_S attempts become rarer, down
to one each ATTEMPT_S_MAX, until somebody says that the neighbour is there (`wake`).

One that is reachable, and is not whom it should be or does not take this device for whom it is, will hardly think
better of it in half a second: after each such refusal the pause doubles, up to UNWELCOME_S_MAX.

Assumes that a neighbour which is there answers within CONNECT_TIMEOUT_S. One that does not, or refuses, or hangs up at
once, is tried again, and the reason kept for people.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from typing import TYPE_CHECKING, Final, NamedTuple

from broker.link import DialledPipe, Unwelcome
from broker.lookup import Lookup
from broker.tls import HANGS_UP, explain
from broker.words import in_words

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from broker.link import Neighbour, Owner
    from broker.radio import Radio
    from broker.trust import Trust

__all__ = ["Dialler", "Wish"]

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 2.0
"""From SYN to connection, and again from CONNECT to SUBACK. A LAN answers in milliseconds, a busy Pi in tenths of a
second, a neighbour behind a mobile network in one. Guess."""
ATTEMPT_S: Final = 0.4
"""An attempt starts so long after the last one, less up to a quarter by chance. With 100 ms for connecting and greeting
that is half a second to a link."""
ATTEMPT_S_MAX: Final = 5.0
ABSENT_S: Final = 120.0
"""A cut that heals in this time heals at once. Longer, and the machine is off rather than cut off. Guess."""
RARER_S: Final = 60.0
"""From then on attempts become half as frequent each time this passes, down to ATTEMPT_S_MAX."""
UNWELCOME_S_MAX: Final = 20.0
"""A refusal ends when somebody renews or corrects something, or a clock is set, which a newly booted device has done
within half a minute. A handshake costs both ends some 10 ms on a Pi. Guess."""
ATTEMPTS_MAX: Final = 8
"""Pending at once: CONNECT_TIMEOUT_S over the shortest interval is 7."""
AGAIN_S: Final = 0.05
"""After a link that has lived: both ends dial again, and should not do so at the same instant."""
LIVED_S_MIN: Final = 1.0
"""A link that ends sooner counts as a failure, so that a neighbour that will not have us is not dialled in a loop."""


class Wish(NamedTuple):
    """Whether a link is wanted, because there is none."""

    has_link: Callable[[str], bool]
    """Whether there is one to the neighbour."""
    wanted: Callable[[str], Awaitable[None]]
    """Returns as soon as there is none."""


class Dialler:
    """Keeps a link to one neighbour up.

    Args:
        device: This device's id.
        neighbour: Whom to dial.
        owner: The node.
        wish: Whether a link is wanted.
        radio: Whether anything that is sent gets there.
        random: Jitter.
        trust: Who is believed, where links are TLS; None: plain MQTT.
    """

    def __init__(
        self,
        device: str,
        neighbour: Neighbour,
        owner: Owner,
        wish: Wish,
        radio: Radio,
        random: Random,
        trust: Trust | None = None,
    ) -> None:
        self._trust = trust
        self.neighbour = neighbour
        self._device = device
        self._owner = owner
        self._wish = wish
        self._radio = radio
        self._random = random
        self._lookup = Lookup(neighbour.host, neighbour.port)
        self._loop = asyncio.get_running_loop()
        self._absent_since = self._loop.time()
        self._news = asyncio.Event()
        self._unwelcome = 0
        """Refusals in a row."""
        self.failures = 0
        """Since the last link."""
        self.last_failure = ""

    @property
    def absent_s(self) -> float:
        """For how long it has been dialled in vain; 0 while it has not failed."""
        return self._loop.time() - self._absent_since if self.failures else 0.0

    def wake(self) -> None:
        """It is there, somebody says: try at once, and often again, if attempts had become rare."""
        if self.absent_s > ABSENT_S:
            self._absent_since = self._loop.time()
            self._news.set()

    async def run(self) -> None:
        """Dial for ever; cancel to stop. A link that is up outlives this."""
        name = self.neighbour.name
        while True:
            if self._wish.has_link(name):
                await self._wish.wanted(name)
                self._seen()
            try:
                pipe = await self._connected()
                if pipe is None:
                    continue
                await self._introduced(pipe)
                up_at = self._loop.time()
                await asyncio.shield(pipe.closed)
            except (OSError, TimeoutError) as error:
                self._note(error)
            else:
                if self._loop.time() - up_at >= LIVED_S_MIN:
                    self._seen()
                    await asyncio.sleep(AGAIN_S * self._random.random())
                    continue
                if self._wish.has_link(name):
                    continue  # both have dialled, and the neighbour's one has stayed
                self._note(OSError("it closes the link as soon as it is up; see its log"))
            await asyncio.sleep(self._pause_s())

    async def _connected(self) -> DialledPipe | None:
        """The first of overlapping attempts that gets through; None when a link has come up otherwise.

        Raises:
            Unwelcome: It got through, and one end did not believe the other.
        """
        attempts: set[asyncio.Task[None]] = set()
        through: list[DialledPipe | Unwelcome] = []
        try:
            while not self._wish.has_link(self.neighbour.name):
                if len(attempts) < ATTEMPTS_MAX:
                    task = self._loop.create_task(self._attempt(through))
                    attempts.add(task)
                    task.add_done_callback(attempts.discard)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._interval_s()):
                        await self._news.wait()
                self._news.clear()
                if through:
                    first = through.pop(0)
                    if isinstance(first, Unwelcome):
                        raise first
                    return first
            return None
        finally:
            for task in attempts:
                task.cancel()
            await asyncio.gather(*attempts, return_exceptions=True)
            for pipe in through:
                if isinstance(pipe, DialledPipe):
                    pipe.abandon()

    async def _attempt(self, through: list[DialledPipe | Unwelcome]) -> None:
        pipe = DialledPipe(self._device, self.neighbour.name, self._owner, self._trust)
        context = self._trust.client if self._trust is not None else None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                if not self._radio.hears(self.neighbour.name):
                    await asyncio.sleep(CONNECT_TIMEOUT_S + 1)
                await self._lookup.connect(lambda: pipe, context)
        except ssl.SSLError as error:
            pipe.abandon()
            if self._trust is not None:
                self._trust.refuse_handshake(error, self.neighbour.name)
            if isinstance(error, HANGS_UP):
                self._note(OSError(explain(error)))
                return
            through.append(Unwelcome(explain(error)))
            self._news.set()
        except (OSError, TimeoutError, ValueError, OverflowError) as error:
            pipe.abandon()
            self._note(error)
        except BaseException:
            pipe.abandon()
            raise
        else:
            through.append(pipe)
            self._news.set()

    async def _introduced(self, pipe: DialledPipe) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                pipe.introduce()
                await pipe.ready
        except BaseException:
            pipe.abandon()
            raise

    def _interval_s(self) -> float:
        late_s = max(0.0, self.absent_s - ABSENT_S)
        ceiling = min(ATTEMPT_S_MAX, ATTEMPT_S * 2 ** min(10.0, late_s / RARER_S))
        return ceiling * (1 - self._random.random() / 4)

    def _pause_s(self) -> float:
        if not self._unwelcome:
            return self._interval_s()
        pause_s = min(UNWELCOME_S_MAX, ATTEMPT_S * 2.0 ** min(10, self._unwelcome))
        return pause_s * (1 - self._random.random() / 4)

    def _seen(self) -> None:
        self.failures = self._unwelcome = 0
        self._absent_since = self._loop.time()

    def _note(self, error: Exception) -> None:
        self.failures += 1
        self._unwelcome = self._unwelcome + 1 if isinstance(error, Unwelcome) else 0
        reason = in_words(error)
        if reason != self.last_failure:
            self.last_failure = reason
            logger.info("%s: no link to %s yet: %s", self._device, self.neighbour.name, reason)
