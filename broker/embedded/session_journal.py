"""What of persistent sessions is to survive a restart: the changes of a turn, and what a boot gives back.

Decides: what of a session is kept (that it exists, its filters, QoS 1 and 2 messages with their
state, the QoS 2 ids that its client has not released), and as which changes. Where they go is the
node's matter: it takes them once per turn and stores them with the mesh's own changes, before
anything is written to a client.

Assumes: sessions report each change as it happens. On failure: changes that could not be stored
are not kept; the next ones are the whole of all sessions, so nothing grows while a disk is full.

Replays of retained messages are not journalled, only that one runs: after a restart it begins anew.
"""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

Change = tuple[str, tuple[object, ...]]
"""A verb of `broker.session_table`, and its values."""

# Half of what SQLite can number: serials count up from here, and down for what is put in front.
_FIRST: Final = 1 << 40


class StoredMessage(NamedTuple):
    """A QoS 1 or 2 message of a session. Without flags only its PUBREL is left to be acknowledged."""

    serial: int
    packet_id: int  # 0: not sent yet
    flags: int
    topic_field: bytes
    payload: bytes


class StoredSession(NamedTuple):
    """A persistent session as a boot finds it."""

    client_id: str
    replaying: bool  # whether retained messages were on their way
    filters: dict[str, int]
    messages: list[
        StoredMessage
    ]  # those in flight in the order in which they were sent, then the others
    incoming: set[int]


class SessionChanges(NamedTuple):
    """What changed in a turn, in order."""

    whole: bool  # everything that was stored before is void
    binding: bool  # a client is to be told, so it must survive what an acknowledgement survives
    changes: list[Change]


class SessionJournal:
    """The changes of all sessions of one broker since they were last taken."""

    def __init__(self) -> None:
        self.binding = False
        self._changes: list[Change] = []
        self._whole = False
        self._serial = _FIRST
        self._front = _FIRST

    def add(self, verb: str, *values: object) -> None:
        """Note a change."""
        self._changes.append((verb, values))

    def serial(self) -> int:
        """Return a number above all that were given."""
        self._serial += 1
        return self._serial

    def front_serial(self) -> int:
        """Return a number below all that were given."""
        self._front -= 1
        return self._front

    def restored(self, serials: Iterable[int]) -> None:
        """Stay clear of numbers that are in use."""
        for serial in serials:
            self._serial = max(self._serial, serial)
            self._front = min(self._front, serial)

    def take(self, everything: Callable[[], list[Change]]) -> SessionChanges | None:
        """Hand over what changed; `everything` describes all sessions, should that be needed."""
        if not self._changes and not self._whole:
            return None
        changes = everything() if self._whole else self._changes
        taken = SessionChanges(self._whole, self.binding, changes)
        self._changes, self._whole, self.binding = [], False, False
        return taken

    def lost(self) -> None:
        """Learn that what was taken could not be stored."""
        self._whole = True
