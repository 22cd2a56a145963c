"""Content from neighbours and to them: joins pulls and the store to the mesh. Decides nothing of whom to ask.

Questions are calls, chunks come in the bulk lane, so what is urgent overtakes them on every link. A turn serves a few
chunks at most, and what takes long (digests of whole files, syncs) happens in threads. Whoever has asked
for content gets what there is of it, while the rest is still being fetched.

Assumes one event loop. On failure: `fetch` raises an error of `agent.models.errors`; what was fetched stays for the
next time. While nobody has the content, it waits. A neighbour's nonsense costs that neighbour (pull.py).
"""

from __future__ import annotations

import asyncio
import logging
import time
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple
from weakref import WeakValueDictionary

import msgspec

from agent.models.chunks import (
    SERVICE,
    Answer,
    ChunkInvalid,
    Question,
    bits_of,
    decode_answer,
    decode_chunk,
    decode_question,
    encode_chunk,
    text_of,
    transfer_of,
)
from agent.models.errors import DiskFailed, TransferError
from agent.models.limits import (
    ASK_DEADLINE_MS,
    CHUNK_DEADLINE_MS,
    CHUNKS_SYNC,
    FAR_MAX,
    FAR_NS,
    PATIENCE_MAX_NS,
    PULLS_MAX,
    SERVE_CHUNKS,
    UPLOADS_MAX,
)
from agent.models.pull import Puller
from agent.models.steps import to_its_end
from broker.errors import CallFailed, CallTimeout, Refused, Unreachable
from broker.topic_names import chunk_topic
from broker.topics import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from agent.models.chunks import Chunk
    from agent.models.content import Content
    from agent.models.partial import Partial
    from agent.models.pull import Ask, PullStatistics
    from agent.models.store import ContentStore
    from broker.calls import Calls, Request
    from broker.node import Delivered, Node

__all__ = ["Progress", "Transfers"]

logger = logging.getLogger(__name__)

_S: Final = 1_000_000_000


def _nobody(sha256: str) -> Iterable[str]:
    del sha256
    return ()


class Progress(NamedTuple):
    """How far a pull has come."""

    chunks_there: int
    chunks: int
    peers: tuple[str, ...]
    """Neighbours that have something of it."""
    counted: PullStatistics


class _Pull:
    """One content on its way."""

    def __init__(self, puller: Puller, partial: Partial) -> None:
        self.puller = puller
        self.partial = partial
        self.whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.timer: asyncio.Handle | None = None
        self.unsynced = 0
        self.fed_ns = time.monotonic_ns()
        """When somebody had something for it, or others were looked for."""

    def fail(self, error: TransferError) -> None:
        if not self.whole.done():
            self.whole.set_exception(error)


class Transfers:
    """What one device fetches and serves.

    Args:
        node: The device's node.
        calls: Its calls.
        store: Its content.
        site: The site in the topics.
        holders: Devices that are said to have content, by its digest; asked where no neighbour has it.
    """

    def __init__(
        self,
        node: Node,
        calls: Calls,
        store: ContentStore,
        site: str,
        holders: Callable[[str], Iterable[str]] = _nobody,
    ) -> None:
        self._node = node
        self._calls = calls
        self._store = store
        self._site = site
        self._holders = holders
        self._prefix = f"flock/v1/{site}/chunk/{node.device}/"
        self._pulls: dict[str, _Pull] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Of content that somebody waits for: it is pulled once, however many do."""
        self._room = asyncio.Semaphore(PULLS_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        self.giver = node.device
        """Who may hand over chunks that were not asked for, besides this device's own clients: `handover.py`."""
        self.uploaded: dict[str, int] = {}
        """By content: bytes of chunks that were given to others."""
        self._random = Random(node.device)  # noqa: S311 - which of several to ask, nothing secret
        node.subscribe(self._heard)
        node.watch_links(self._link)
        calls.serve(SERVICE, self._serve)

    async def fetch(self, content: Content) -> None:
        """Have content in the store, whole and checked; at once if it is there.

        Raises:
            TransferError: It is too large, there is no room, the disk fails, or its digests contradict each other.
        """
        name = content.sha256
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            if not self._store.holds(name):
                self._store.check(content)
                async with self._room:
                    await self._pull(content)

    def progress(self) -> dict[str, Progress]:
        """What is being fetched, by digest."""
        now_ns = time.monotonic_ns()
        return {
            name: Progress(
                pull.puller.have.bit_count(),
                pull.puller.content.count,
                tuple(pull.puller.peers),
                pull.puller.statistics(now_ns),
            )
            for name, pull in self._pulls.items()
        }

    async def close(self) -> None:
        """End what is under way; whoever waits in `fetch` is to be cancelled before."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Fetching.

    async def _pull(self, content: Content) -> None:
        store = self._store
        partial = await to_its_end(asyncio.to_thread(store.open, content), store.leave)
        now_ns = time.monotonic_ns()
        puller = Puller(content, partial.have, self._node.device, now_ns)
        pull = self._pulls[content.sha256] = _Pull(puller, partial)
        for peer, _ in self._node.links.audible():
            puller.link_up(peer, now_ns)
        try:
            self._act(pull)
            await pull.whole
            await to_its_end(asyncio.to_thread(self._store.finish, partial))
        finally:
            if pull.timer is not None:
                pull.timer.cancel()
            del self._pulls[content.sha256]
            self._store.leave(partial)

    def _act(self, pull: _Pull) -> None:
        """Do what the pull wants now, and come back when it may want something again."""
        if pull.whole.done():
            return
        puller = pull.puller
        now_ns = time.monotonic_ns()
        self._look_farther(pull, now_ns)
        for ask in puller.asks(now_ns):
            self._spawn(self._ask(pull, ask))
        for peer in puller.notes(now_ns):
            self._give(peer, puller.content, 0, puller.have, b"")
        if puller.whole:
            pull.whole.set_result(None)
            return
        if pull.timer is not None:
            pull.timer.cancel()
        delay_s = max(0, puller.next_ns(now_ns) - now_ns) / _S
        pull.timer = asyncio.get_running_loop().call_later(delay_s, self._act, pull)

    def _look_farther(self, pull: _Pull, now_ns: int) -> None:
        """Where no neighbour has anything for long, take in devices that are no neighbours, a few at a time."""
        # A neighbour that has begun may itself wait for a slow link, which is then better left to it.
        patience_ns = PATIENCE_MAX_NS if pull.puller.have else FAR_NS
        if pull.puller.is_fed(now_ns):
            pull.fed_ns = now_ns
        elif now_ns - pull.fed_ns >= patience_ns:
            pull.fed_ns = now_ns
            known = {self._node.device, *pull.puller.sources}
            holders = sorted(set(self._holders(pull.puller.content.sha256)) - known)
            for device in self._random.sample(holders, min(FAR_MAX, len(holders))):
                pull.puller.link_up(device, now_ns)

    async def _ask(self, pull: _Pull, ask: Ask) -> None:
        puller, content = pull.puller, pull.puller.content
        have = text_of(puller.have, content.count)
        question = Question(content.sha256, content.chunk_bytes, have, ask.want)
        coming: tuple[int, ...] | None = None
        try:
            payload = msgspec.json.encode(question)
            reply = await self._calls.call(ask.peer, SERVICE, payload, deadline_ms=ASK_DEADLINE_MS)
            answer = decode_answer(reply)
            bits = None if answer.have is None else bits_of(answer.have, content.count)
            puller.told(ask.peer, bits)
            coming = answer.coming
        except Refused:
            coming = ()  # this device's own trouble, which passes
        except CallFailed as error:
            if error.kind == "no-service":
                puller.told(ask.peer, None)
                coming = ()
        except (CallTimeout, Unreachable, ChunkInvalid):
            pass
        now_ns = time.monotonic_ns()
        if coming is None:
            puller.unanswered(ask.peer, ask.want, now_ns)
        else:
            puller.answered(ask.peer, ask.want, coming, now_ns)
        self._act(pull)

    def _heard(self, batch: list[Delivered]) -> None:
        for message in batch:
            if not message.topic.startswith(self._prefix) or message.rebuild:
                continue
            names = parse(message.topic)
            if not names or names["from"] != message.origin:
                continue
            for pull in list(self._pulls.values()):
                if transfer_of(pull.puller.content.sha256) == names["id"]:
                    self._take(pull, message.origin, message.payload)

    def _take(self, pull: _Pull, peer: str, payload: bytes) -> None:
        puller = pull.puller
        now_ns = time.monotonic_ns()
        try:
            chunk = decode_chunk(payload, puller.content.count)
        except ChunkInvalid as error:
            logger.warning("%s: %s sent no chunk: %s", self._node.device, peer, error)
            puller.invalid(peer, now_ns)
            return
        puller.told(peer, chunk.have)
        if chunk.data and self._counts(puller, peer, chunk, now_ns):
            try:
                pull.partial.write(chunk.index, chunk.data)
            except DiskFailed as error:
                puller.lost(chunk.index)
                pull.fail(error)
                return
            pull.unsynced += 1
            if pull.unsynced >= CHUNKS_SYNC:
                pull.unsynced = 0
                self._spawn(self._sync(pull))
        self._soon(pull)

    def _counts(self, puller: Puller, peer: str, chunk: Chunk, now_ns: int) -> bool:
        """Whether a chunk is news; an operator hands over in the name of this device, or of the one they came to."""
        givers = {self._node.device, self.giver}
        if peer in givers and not puller.awaits(peer, chunk.index):
            return puller.given(chunk.index, chunk.data)
        return puller.chunk(peer, chunk.index, chunk.data, now_ns)

    def _soon(self, pull: _Pull) -> None:
        """Act at the end of this turn, however many chunks it brought."""
        if pull.timer is not None:
            pull.timer.cancel()
        pull.timer = asyncio.get_running_loop().call_soon(self._act, pull)

    async def _sync(self, pull: _Pull) -> None:
        if pull.whole.done():
            return  # it is synced as it is finished
        try:
            await asyncio.to_thread(pull.partial.sync)
        except DiskFailed as error:
            pull.fail(error)

    def _link(self, peer: str, up: bool) -> None:  # noqa: FBT001 - the node's callback
        now_ns = time.monotonic_ns()
        for pull in self._pulls.values():
            if up:
                pull.puller.link_up(peer, now_ns)
            else:
                pull.puller.link_down(peer, now_ns)
            self._soon(pull)

    # Serving.

    async def _serve(self, request: Request) -> bytes:
        question = decode_question(request.payload)
        pull = self._pulls.get(question.sha256)
        content = pull.puller.content if pull else self._store.content(question.sha256)
        if content is None or content.chunk_bytes != question.chunk_bytes:
            return msgspec.json.encode(Answer())
        if pull is not None:
            pull.puller.told(request.sender, bits_of(question.have, content.count))
        coming: list[int] = []
        for index in question.want:
            if coming and len(coming) % SERVE_CHUNKS == 0:
                await asyncio.sleep(0)  # the next ones have a turn of their own
            data = self._read(content, index)
            if data is None:
                continue
            if not self._give(request.sender, content, index, self._have(content), data):
                break
            coming.append(index)
        if pull is not None:
            pull.puller.spoke(request.sender, time.monotonic_ns())
            self._soon(pull)
        have = text_of(self._have(content), content.count)
        return msgspec.json.encode(Answer(have, tuple(coming)))

    def _have(self, content: Content) -> int:
        pull = self._pulls.get(content.sha256)
        if pull is not None:
            return pull.puller.have
        return (1 << content.count) - 1 if self._store.holds(content.sha256) else 0

    def _read(self, content: Content, index: int) -> bytes | None:
        pull = self._pulls.get(content.sha256)
        if pull is None:
            return self._store.chunk(content.sha256, index)
        if not pull.puller.have >> index & 1:
            return None
        data = pull.partial.read(index)
        if data is None:
            pull.puller.lost(index)
        return data

    def _give(self, peer: str, content: Content, index: int, have: int, data: bytes) -> bool:
        """Send a chunk, or a note. False if too much is under way."""
        topic = chunk_topic(
            site=self._site,
            to=peer,
            sender=self._node.device,
            transfer=transfer_of(content.sha256),
        )
        payload = encode_chunk(index, have, content.count, data)
        try:
            self._node.publish_nowait(topic, payload, deadline_ms=CHUNK_DEADLINE_MS)
        except Refused:
            return False
        if data:
            self.uploaded[content.sha256] = self.uploaded.get(content.sha256, 0) + len(data)
            if len(self.uploaded) > UPLOADS_MAX:
                del self.uploaded[next(iter(self.uploaded))]
        return True

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
