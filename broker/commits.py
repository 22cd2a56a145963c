"""When what a turn changed is stored, and when what was published counts as acknowledged.

Theory of operation. Each turn's changes are one commit: a write that no kill of the process takes back, made in the
event loop since deliveries wait for it (about 10 us). With `Durability.POWER` an acknowledgement waits, besides, until
the disk has synced: syncs run in a thread, one at a time, and each makes durable all turns that were committed before
it began (group commit), so the loop does not wait and a slow disk makes larger groups. A commit that meets a sync may
have to wait for the file system (measured: 1 ms and more for 3 in 100, and 1 in 200 with pauses), so syncs pause for
SYNC_PAUSES times as long as the last one took. Turns that hold no own kept message need none. With
`Durability.PROCESS` a commit acknowledges at once, and is synced within SYNC_S.

When a commit fails, its changes are kept and tried again with the next turn; when a sync fails, the store is
checkpointed before anything is trusted again. In both cases whoever waits is told, and nothing is acknowledged.

Source of the group: DeWitt et al., Implementation Techniques for Main Memory Database Systems (1984).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from broker.errors import StoreFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.embedded.session_journal import SessionChanges
    from broker.mesh.events import Changes
    from broker.store import Store

__all__ = ["Commits", "Durability"]

logger = logging.getLogger(__name__)

SYNC_S: Final = 5.0
"""How often the journal is folded into the database, which syncs everything. What a power cut may take with
`Durability.PROCESS`; one sync in so long wears an SD card little. Guess."""

SYNC_DELAY_S: Final = 0.003
"""From a commit to its sync: first the message goes its way, which takes 0.4 ms over two hops. A sync that begins
beside it made that 0.6 ms (measured, two cores)."""
SYNC_PAUSES: Final = 3
"""Syncs are under way for a quarter of the time at most. Measured: see above."""
SYNC_PAUSE_MAX_S: Final = 0.02
"""A card that takes 50 ms is not waited for much longer. Guess."""


class Durability(StrEnum):
    """What an acknowledged publish survives."""

    POWER = "power"
    """A power cut: it is acknowledged when the disk has synced."""
    PROCESS = "process"
    """The process being killed: it is acknowledged when the kernel has it. A power cut may take the last SYNC_S."""


class Commits:
    """The commits of one node.

    Args:
        store: Where to.
        durability: What an acknowledgement promises.
        flush: Requests a flush: when `durable` has grown, a sync has failed, or somebody waits.
        tell: Called with a problem, as a sentence.
    """

    def __init__(
        self,
        store: Store,
        durability: Durability,
        flush: Callable[[], None],
        tell: Callable[[str], None],
    ) -> None:
        self._store = store
        self._durability = durability
        self._flush = flush
        self._tell = tell
        self._unstored: Changes | None = None
        self._syncing: asyncio.Task[None] | None = None
        self._wanted: asyncio.Future[None] | None = None
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._sync_upto = 0
        self._broken = False
        self._closing = False
        self._pausing: asyncio.Future[None] | None = None
        self._crowded = asyncio.Event()
        self.turn = 0
        """The last turn that was committed."""
        self.durable = 0
        """The last turn of which everything may be acknowledged."""
        self.commits = self.failed = self.syncs = self.syncs_failed = 0

    def commit(self, changes: Changes, sessions: SessionChanges | None = None) -> bool:
        """Store what a turn changed. False: it could not be, or what was stored before could not be synced.

        Changes of sessions that could not be stored are the caller's to bring again, as a whole.
        """
        if self._unstored is not None:
            self._unstored.absorb(changes)
            changes, self._unstored = self._unstored, None
        self.turn += 1
        if changes or sessions is not None:
            try:
                self._store.commit(changes, sessions)
            except StoreFailed as error:
                self.failed += 1
                self._unstored = changes
                self._fail(error)
                return False
            self.commits += 1
            if self._store.crowded:
                self._crowded.set()
        binding = changes.own or (sessions is not None and sessions.binding)
        if binding and self._durability is Durability.POWER:
            self._sync_upto = self.turn
        waiting, self._wanted = self._wanted, None
        if waiting is not None:
            self._waiting.append((self.turn, waiting))
        self._go_on()
        whole, self._broken = not self._broken, False
        return whole

    async def committed(self) -> None:
        """Return when everything published so far is acknowledged.

        Raises:
            StoreFailed: The disk could not be written, or not be synced.
        """
        if self._wanted is None:
            self._wanted = asyncio.get_running_loop().create_future()
        wanted = self._wanted
        self._flush()
        await asyncio.shield(wanted)

    async def keep(self) -> None:
        """Have the store checkpoint now and then, for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._crowded.wait(), SYNC_S)
            try:
                await _in_thread(self._store.checkpoint)
            except StoreFailed as error:
                self._tell(str(error))
                await asyncio.sleep(SYNC_S)
            self._crowded.clear()

    async def close(self) -> None:
        """Make everything durable that can be, and close the store."""
        self._closing = True
        if self._pausing is not None:
            _wake(self._pausing)
        while self._syncing is not None:
            await self._syncing
        try:
            await _in_thread(self._store.checkpoint)
        except StoreFailed as error:
            self._fail(error)
        else:
            self.durable = self._sync_upto = self.turn
            self._release()
        self._store.close()

    def _go_on(self) -> None:
        """Acknowledge what may be, and sync if something waits for it."""
        if self._sync_upto <= self.durable:
            self.durable = self.turn
            self._release()
        elif self._syncing is None:
            self._syncing = asyncio.get_running_loop().create_task(self._sync())

    async def _sync(self) -> None:
        await self._pause(SYNC_DELAY_S)
        upto, began_s = self.turn, time.monotonic()
        try:
            await _in_thread(self._store.sync)
        except StoreFailed as error:
            self.syncs_failed += 1
            self._broken = True
            self._fail(error)
        else:
            self.syncs += 1
            self.durable = max(self.durable, upto)
            self._release()
            self._go_on()
        self._flush()
        await self._pause(min(SYNC_PAUSES * (time.monotonic() - began_s), SYNC_PAUSE_MAX_S))
        self._syncing = None
        if not self._broken:
            self._go_on()

    async def _pause(self, pause_s: float) -> None:
        """Wait so long, or until the end; twice for each sync, so without the task that `asyncio.wait_for` makes."""
        if self._closing:
            return
        loop = asyncio.get_running_loop()
        self._pausing = loop.create_future()
        timer = loop.call_later(pause_s, _wake, self._pausing)
        await self._pausing
        timer.cancel()

    def _release(self) -> None:
        while self._waiting and self._waiting[0][0] <= self.durable:
            future = self._waiting.popleft()[1]
            if not future.done():
                future.set_result(None)

    def _fail(self, error: StoreFailed) -> None:
        """Nothing that waits is acknowledged any more; what was committed meanwhile is no better."""
        self.durable = self._sync_upto = self.turn
        futures = [future for _, future in self._waiting]
        self._waiting.clear()
        if self._wanted is not None:
            futures.append(self._wanted)
            self._wanted = None
        for future in futures:
            if not future.done():
                future.set_exception(error)
                future.exception()  # nobody need be waiting
        self._tell(str(error))


async def _in_thread(step: Callable[[], None]) -> None:
    """Have the store do what blocks.

    Raises:
        StoreFailed: It could not, or there is no room for another thread.
    """
    try:
        await asyncio.to_thread(step)
    except RuntimeError as error:
        raise StoreFailed(f"the disk cannot be waited for: {error}") from error


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
