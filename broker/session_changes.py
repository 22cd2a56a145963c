"""Changes of persistent sessions that were journalled and are not in the database yet, as few as they come to.

Decides: what of many changes is left. A message that was queued and acknowledged meanwhile is nothing; that is most of
them, and spares the disk. Assumes: changes in the order in which they happened. On failure: a verb that is not known is
a defect, and raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.embedded.session_journal import SessionChanges

if TYPE_CHECKING:
    from broker.embedded.session_journal import Change

__all__ = ["PendingSessions"]


class _Pending:
    """What changed of one session."""

    def __init__(self, *, anew: bool) -> None:
        self.anew = anew  # what the database has of it is void
        self.single: dict[object, Change] = {}  # by what it sets: the last word counts
        self.messages: dict[object, Change] = {}  # by serial: how it is queued, or DONE
        self.steps: dict[tuple[str, object], Change] = {}  # of messages that the database has

    def changes(self, client_id: str) -> list[Change]:
        """The changes, in an order that the database takes."""
        first: list[Change] = [("forget", (client_id,))] if self.anew else []
        return [*first, *self.single.values(), *self.messages.values(), *self.steps.values()]


class PendingSessions:
    """What many turns changed, together."""

    def __init__(self) -> None:
        self._whole = False
        self._sessions: dict[str, _Pending] = {}

    def absorb(self, newer: SessionChanges) -> None:
        """Take in what came after."""
        if newer.whole:
            self._whole = True
            self._sessions.clear()
        for change in newer.changes:
            verb, (client_id, *rest) = change
            assert isinstance(client_id, str), "each change begins with the session's name"
            pending = self._sessions.get(client_id)
            if pending is None:
                pending = self._sessions[client_id] = _Pending(anew=False)
            self._take(pending, change, verb, client_id, rest)

    def changes(self) -> SessionChanges:
        """What is left of it, for the database or another of these."""
        changes = [
            change
            for client_id, pending in self._sessions.items()
            for change in pending.changes(client_id)
        ]
        return SessionChanges(self._whole, binding=False, changes=changes)

    def _take(
        self, pending: _Pending, change: Change, verb: str, client_id: str, rest: list[object]
    ) -> None:
        match verb:
            case "forget":
                self._sessions[client_id] = _Pending(anew=True)
            case "open" | "replaying":
                pending.single[verb] = change
            case "subscribe" | "unsubscribe":
                pending.single["filter", rest[0]] = change
            case "take" | "release":
                pending.single["id", rest[0]] = change
            case "queue":
                pending.messages[rest[0]] = change
            case "sent" | "received" | "done":
                _step(pending, change, verb, client_id, rest)
            case _:
                raise ValueError(verb)


def _step(pending: _Pending, change: Change, verb: str, client_id: str, rest: list[object]) -> None:
    serial = rest[0]
    known = pending.messages.get(serial)
    if known is None:
        if verb == "done":
            pending.steps.pop(("sent", serial), None)
            pending.steps.pop(("received", serial), None)
        pending.steps[verb, serial] = change
    elif verb == "done":
        del pending.messages[serial]
    else:
        _, (_, _, packet_id, sent, flags, topic_field, payload) = known
        if verb == "sent":
            packet_id, sent = rest[1:]
        else:
            flags, topic_field, payload = 0, b"", b""
        values = (client_id, serial, packet_id, sent, flags, topic_field, payload)
        pending.messages[serial] = ("queue", values)
