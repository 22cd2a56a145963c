"""What the broker owes one client in answer to what it sent: acknowledgements, and everything else.

Decides when an answer may go. An acknowledgement of what the client published waits for the node's
commit, then until that is durable, then as long as a subscriber lags (`Writes.lagging`). Of a
session that is persistent, the other answers wait for the first two as well, since they confirm a
change that is to survive.

Assumes: `turn_ended` once per turn in which something was added. On failure: what a turn could not
keep is forgotten with `lose`, so that the client's repetition counts as new.
"""

from collections import deque

from broker.embedded.packets import PUBCOMP, PUBREC, encode_ack
from broker.embedded.session_journal import SessionJournal


class Answers:
    """Those of one session. Without a `journal` it ends with its connection."""

    def __init__(self, client_id: str, journal: SessionJournal | None) -> None:
        self._client_id = client_id
        self._journal = journal
        self.incoming: set[int] = set()  # QoS 2 packet ids that the client has not released
        self.ready: list[bytes] = []  # for the next write
        self.wait = False  # whether anything below is not empty
        self._held: list[bytes] = []  # PUBACK and PUBREC that wait for the commit
        self._held_replies: list[bytes] = []  # other answers that wait for it
        # Both, where they wait for the sync of a turn.
        self._unsynced: deque[tuple[int, list[bytes], list[bytes]]] = deque()
        self._uncommitted: list[int] = []  # the QoS 2 ids among them
        self._acknowledgements: list[bytes] = []  # committed, and not written while somebody lags

    @property
    def due(self) -> bool:
        """Whether the next flush answers the client."""
        return bool(self._held or self._held_replies or self._acknowledgements or self.ready)

    @property
    def owed(self) -> bool:
        """Whether acknowledgements were left out of the last flush."""
        return bool(self._acknowledgements)

    @property
    def await_disk(self) -> bool:
        """Whether acknowledgements wait for a later turn's word that they are durable."""
        return bool(self._unsynced)

    def reply(self, packet: bytes) -> None:
        """Answer the client with the next write."""
        self.ready.append(packet)

    def reply_stored(self, packet: bytes) -> None:
        """Answer the client, once what the answer confirms is durable if the session is to survive."""
        if self._journal is None:
            self.ready.append(packet)
        else:
            self._journal.binding = True
            self._held_replies.append(packet)
            self.wait = True

    def hold(self, packet_type: int, packet_id: int) -> None:
        """Answer a PUBLISH with PUBACK or PUBREC once the node has made it durable."""
        self._held.append(encode_ack(packet_type, packet_id))
        self.wait = True
        if packet_type == PUBREC and packet_id not in self.incoming:
            self.incoming.add(packet_id)
            self._uncommitted.append(packet_id)
            if self._journal is not None:
                self._journal.binding = True
                self._journal.add("take", self._client_id, packet_id)

    def release(self, packet_id: int) -> None:
        """Take a PUBREL: the id is free, and PUBCOMP says so."""
        if packet_id in self.incoming:
            self.incoming.remove(packet_id)
            if self._journal is not None:
                self._journal.add("release", self._client_id, packet_id)
        self.reply_stored(encode_ack(PUBCOMP, packet_id))

    def lose(self) -> bool:
        """Learn that what this turn brought could not be kept. False if nothing waits for that."""
        if not (self._held or self._held_replies or self._uncommitted or self._unsynced):
            return False
        self.incoming.difference_update(self._uncommitted)
        self._uncommitted.clear()
        self.forget()
        return True

    def turn_ended(self, turn: int, durable: int, *, acknowledge: bool) -> None:
        """Make ready what may go, now that this turn is committed and `durable` is on the disk."""
        self._uncommitted.clear()
        if self._held or self._held_replies:
            self._unsynced.append((turn, self._held, self._held_replies))
            self._held, self._held_replies = [], []
        while self._unsynced and self._unsynced[0][0] <= durable:
            _, acknowledgements, replies = self._unsynced.popleft()
            self._acknowledgements += acknowledgements
            self.ready += replies
        if acknowledge:
            self.ready += self._acknowledgements
            self._acknowledgements.clear()
        self.wait = bool(self._unsynced or self._acknowledgements)

    def forget(self) -> None:
        """Let go of all answers: the connection that they were for is gone."""
        self._held.clear()
        self._held_replies.clear()
        self._unsynced.clear()
        self._acknowledgements.clear()
        self.ready.clear()
