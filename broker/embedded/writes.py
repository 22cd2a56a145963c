"""Which sessions are written at the end of a turn, and whose acknowledgements wait.

Decides: each session that has something to write is written once per turn, however often it was
touched; messages that came outside of a flush need not wait for one. Acknowledgements wait as long as
a subscriber lags or the mesh is pressed, and those of a turn until it is durable; then their sessions
are written again.

Assumes: `flush` once per turn in which a flush was asked for. On failure: nothing can fail.
"""

from collections.abc import Callable

from broker.embedded.session import Output, Session


class Writes:
    """Those of one broker; `request_flush` asks for the end of this turn."""

    def __init__(self, request_flush: Callable[[], None]) -> None:
        self.lagging: set[Output] = set()  # connections whose sessions lag (see `Session`)
        self._request_flush = request_flush
        self._dirty: list[Session] = []
        self._hasty: list[Session] = []  # of those, the ones with messages since the last write
        self._prepared = False
        self._owed: list[Session] = []  # wait for their acknowledgements until nobody lags
        self._awaited: dict[Session, None] = {}  # wait for theirs until the disk has synced
        self._durable = 0

    def touch(self, session: Session) -> None:
        """Include a session in the next flush."""
        if not session.dirty:
            session.dirty = True
            self._dirty.append(session)

    def hurry(self, session: Session) -> None:
        """Include a session that has messages in the next `hasten`, or in the next flush if that is sooner."""
        session.hasty = True
        self._hasty.append(session)

    def hasten(self) -> None:
        """Write the messages that were routed outside of a flush, which need not wait for one."""
        for session in self._hasty:
            if session.hasten():
                self.touch(session)
        self._hasty.clear()

    @property
    def due(self) -> bool:
        """Whether a flush has something to write."""
        return bool(self._dirty)

    def prepare(self) -> None:
        """Let persistent sessions choose what they write, before their changes are taken and stored."""
        self._prepared = True
        self._include_hasty()
        for session in self._dirty:
            session.prepare()

    def flush(self, *, committed: bool, pressed: bool, turn: int = 0, durable: int = 0) -> None:
        """Write every session that has something to write; nobody is acknowledged while the mesh is pressed."""
        if not self._prepared:
            self.prepare()
        self._prepared = False
        self._include_hasty()  # what programs of this device published since
        if self._awaited and (durable > self._durable or not committed):
            for session in self._awaited:
                self.touch(session)
            self._awaited.clear()
        self._durable = durable
        dirty, self._dirty = self._dirty, []
        wait = pressed or bool(self.lagging)
        for session in dirty:
            session.dirty = False
            session.flush(committed=committed, acknowledge=not wait, turn=turn, durable=durable)
            if session.answers.owed:
                self._owed.append(session)
            if session.answers.await_disk:
                self._awaited[session] = None
            if session.goes_on:
                self.touch(session)
                self._request_flush()
        if self._owed and not wait:
            self._acknowledge_again()

    def caught_up(self, output: Output) -> None:
        """Let publishers go on, if this was the last connection that lagged."""
        self.lagging.discard(output)
        if not self.lagging:
            self._acknowledge_again()

    def _include_hasty(self) -> None:
        for session in self._hasty:
            session.hasty = False
            self.touch(session)
        self._hasty.clear()

    def _acknowledge_again(self) -> None:
        for session in self._owed:
            self.touch(session)
        self._owed.clear()
        self._request_flush()
