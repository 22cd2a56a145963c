"""Which sessions are written at the end of a turn, and whose acknowledgements wait.

Decides: each session that has something to write is written once per turn, however often it was
touched; messages that came outside of a flush need not wait for one. Acknowledgements wait as long as
a subscriber lags or the mesh is pressed, and those of a turn until it is durable; then their sessions
are written again.

To write messages is clients' work, within their slice of a turn: 64 KB to one by TLS are 0.2 ms
(measured), so one read that goes to twenty would be 4 ms in which nobody else is heard. Who has not
been written when the slice is over is written in a later turn; meanwhile what comes for it shares
that write. Answers are small and wait for no slice.

Assumes: `flush` once per turn in which a flush was asked for. On failure: nothing can fail.
"""

from collections.abc import Callable

from broker.embedded.session import Output, Session
from broker.embedded.slices import Slices


class Writes:
    """Those of one broker; `request_flush` asks for the end of this turn, `slices` are those of clients."""

    def __init__(self, request_flush: Callable[[], None], slices: Slices) -> None:
        self.lagging: set[Output] = set()  # connections whose sessions lag (see `Session`)
        self._request_flush = request_flush
        self._slices = slices
        self._dirty: list[Session] = []
        self._hasty: list[Session] = []  # with messages that need not wait for a flush
        self._goes_on = False  # whether a later turn writes to those
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
        hasty, self._hasty = self._hasty, []
        for number, session in enumerate(hasty):
            if number and self._slices.is_over():
                self._hasty = hasty[number:]
                self._later()
                return
            if session.hasten():
                self.touch(session)

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
        for number, session in enumerate(dirty):
            session.dirty = False
            messages = not number or not self._slices.is_over()
            session.flush(
                committed=committed,
                acknowledge=not wait,
                turn=turn,
                durable=durable,
                messages=messages,
            )
            if session.answers.owed:
                self._owed.append(session)
            if session.answers.await_disk:
                self._awaited[session] = None
            if session.writes_more:
                if messages:
                    self.touch(session)
                    self._request_flush()
                else:
                    self.hurry(session)
        if self._hasty:
            self._later()
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

    def _later(self) -> None:
        """Go on with hasty sessions in a later turn."""
        if not self._goes_on:
            self._goes_on = True
            self._slices.later(self._go_on)

    def _go_on(self) -> None:
        self._goes_on = False
        self.hasten()
        if self._dirty:
            self._request_flush()

    def _acknowledge_again(self) -> None:
        for session in self._owed:
            self.touch(session)
        self._owed.clear()
        self._request_flush()
