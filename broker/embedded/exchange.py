"""Sessions, subscriptions and routing: the broker without its sockets.

Decides: which sessions a message reaches and at which QoS (the lower of the message's and the
subscription's), which topics clients may use, when a session is made, taken over, resumed and
forgotten.

Assumes: one event loop; the node calls `route` with topics that are valid, and `flush` once per
turn in which `Ingress.request_flush` was called. On failure: `publish` lets the node's `Refused`
through; nothing else raises.

Why not amqtt's: a publish goes through a central queue without a bound and a task per receiver,
at the subscriber's QoS instead of the lower one; a client that connects gets the retained
messages of everybody's filters; a new SUBSCRIBE does not replace the QoS; a connecting client
without credentials can end somebody's session.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from functools import partial

from broker.embedded.ingress import Ingress
from broker.embedded.limits import TURN_SLICE_S, Limits
from broker.embedded.packets import FLAG_RETAIN, SUBACK_REFUSED, publish_frame, string_field
from broker.embedded.session import OVERHEAD_BYTES, Message, Output, Session
from broker.embedded.session_journal import Change, SessionJournal, StoredSession
from broker.embedded.slices import Slices
from broker.embedded.statistics import Counters
from broker.embedded.trie import Trie, first_level, valid_filter
from broker.embedded.writes import Writes
from broker.errors import NotBelieved
from broker.permissions import client_may
from broker.trust import Holder
from broker.users import ANYBODY, Users

logger = logging.getLogger(__name__)

_LINKS = "mesh"
_SHOWN_CHARACTERS = 80  # of a topic that somebody may not write
_PRIVATE = ("$", _LINKS[0])  # what a topic begins with that deserves a second look

# Of one session, between two looks at the time: 0.4 ms where each has 64 levels.
_FILTERS_AT_ONCE = 16


class Exchange:
    """All sessions of one broker.

    `device` is the broker's own name, as links spell it; `secured`, whether its fleet has identities.
    """

    def __init__(
        self, ingress: Ingress, device: str, limits: Limits, *, secured: bool = False
    ) -> None:
        self.ingress = ingress
        self.device = device
        self.secured = secured
        self.limits = limits
        self.counters = Counters()
        self.journal = SessionJournal()
        self.sessions: dict[str, Session] = {}  # in order of last departure, for eviction
        self.trie: Trie[Session] = Trie()
        self.slices = Slices(TURN_SLICE_S, ingress.has_neighbours)  # of all clients together
        self.writes = Writes(ingress.request_flush, self.slices)
        self._unmeasured_bytes = 0  # of QoS 1 and 2, since all sessions were looked at
        self._own: Counter[tuple[str, str, bytes]] = Counter()  # bridges' publishes of this turn
        # Topic fields of recent topics: one encoding per topic, not per message.
        self._fields: dict[str, bytes] = {}

    # -- messages ------------------------------------------------------------------------------

    def publish(
        self, session: Session | None, topic: str, payload: bytes, qos: int, *, retained: bool
    ) -> None:
        """Hand a client's publish to the node; None: a plugin's, which is a program on the device.

        A topic under `mesh/` or starting with `$`, or one that is not the client's to write, is
        counted and goes nowhere; so is a manifest that no operator has signed. The client still
        gets its acknowledgement: MQTT 3.1.1 offers only that or the end of the connection (3.3.5).

        Raises:
            Refused: the node is full; nothing was published.

        """
        if topic[:1] in _PRIVATE and (topic[:1] == "$" or first_level(topic) == _LINKS):
            self.counters.ignored += 1
            return
        if session is not None:
            if topic not in session.writable and not self._may_write(session, topic):
                return
            if session.bridge:
                self._own[session.client_id, topic, payload] += 1
                self.ingress.request_flush()  # which forgets that
        try:
            self.ingress.client_publish(topic, payload, qos, retained=retained)
        except NotBelieved as error:
            self._forbid(session, topic, f": {error}")

    def _forbid(self, session: Session | None, topic: str, why: str = "") -> None:
        who = "a plugin" if session is None else session.allowed.described(session.client_id)
        self.counters.forbidden += 1
        self.counters.last_forbidden = f"{topic[:_SHOWN_CHARACTERS]} by {who}{why}"

    def _may_write(self, session: Session, topic: str) -> bool:
        identities = session.allowed.identities(self.device)
        may = (client_may(topic, self.device, who, secured=self.secured) for who in identities)
        if not all(may):
            self._forbid(session, topic)
            return False
        if len(session.writable) >= self.limits.writable_topics_max:
            session.writable.clear()
        session.writable.add(topic)
        return True

    def route(self, topic: str, payload: bytes, qos: int, *, retained: bool = False) -> None:
        """Deliver a live message to the sessions that subscribed.

        RETAIN is 0 (3.3.1.3), except to bridges, which get it as it was published and nothing of
        what they published themselves. That comes back from the node within the turn, so it is
        known by being counted until `flush`.
        """
        targets = self.trie.match(topic)
        if not targets:
            return
        field = self._fields.get(topic) or self._topic_field(topic)
        shared: bytes | None = None
        for session, granted in targets:
            if session.forgotten:  # it is gone, and its last filters will be in a moment
                continue
            flags = 0
            if session.bridge:
                if self._is_own(session, topic, payload):
                    continue
                flags = FLAG_RETAIN if retained else 0
            if not session.hasty:
                self.writes.hurry(session)
            if qos and granted:
                session.deliver_kept(min(qos, granted) << 1 | flags, field, payload)
            elif flags:
                session.deliver_fresh(publish_frame(flags, field, payload))
            else:
                if shared is None:
                    shared = publish_frame(0, field, payload)
                session.deliver_fresh(shared)
        if qos:
            self._unmeasured_bytes += len(targets) * (len(payload) + OVERHEAD_BYTES)
            if self._unmeasured_bytes > self.limits.kept_bytes_max // 64:
                self._relieve()

    def _is_own(self, session: Session, topic: str, payload: bytes) -> bool:
        """Whether a bridge published this itself within this turn; once for each time that it did."""
        key = (session.client_id, topic, payload)
        count = self._own.get(key, 0)
        if count:
            self._own[key] = count - 1
        return count > 0

    def _topic_field(self, topic: str) -> bytes:
        if len(self._fields) >= 8192:  # as many as the trie remembers
            self._fields.clear()
        field = self._fields[topic] = string_field(topic)
        return field

    def flush(self, *, committed: bool, pressed: bool, turn: int = 0, durable: int = 0) -> None:
        """End a turn: see `Writes.flush`."""
        self._own.clear()
        self.writes.flush(committed=committed, pressed=pressed, turn=turn, durable=durable)

    def _relieve(self) -> None:
        """Make room where all sessions together hold too much: whoever holds the most gives."""
        self._unmeasured_bytes = 0
        while (
            sum(session.kept_bytes for session in self.sessions.values())
            > self.limits.kept_bytes_max
        ):
            most = max(self.sessions.values(), key=lambda session: session.kept_bytes)
            if most.output is not None:
                most.cut_off("too much waits for all clients together, and most for this one")
            if most.client_id in self.sessions and not most.give_up_half():
                logger.warning(
                    "forgetting the session of %s: too much is in flight", most.client_id
                )
                self._forget(most)

    # -- sessions ------------------------------------------------------------------------------

    def enter(self, client_id: str, output: Output, *, clean: bool) -> tuple[Session, bool]:
        """Give a connection its session; returns it and whether it was there before.

        A connection that has the same client id is taken over.
        """
        known = self.sessions.get(client_id)
        if known is not None and known.output is not None:
            known.output.taken_over()
            known = self.sessions.get(client_id)
        present = known is not None and not clean and not known.clean
        if known is not None and not present:
            self._forget(known)
            known = None
        session = known or self._make(client_id, clean=clean)
        session.attach(output)
        if session.replaying:  # since before a restart
            for topic_filter, qos in session.subscriptions.items():
                self._replay(session, topic_filter, qos)
        self.writes.touch(session)
        return session, present

    def _make(self, client_id: str, *, clean: bool) -> Session:
        journal = None if clean else self.journal
        session = Session(client_id, self.limits, self.counters, journal)
        self.sessions[client_id] = session
        if journal is not None:
            journal.add("open", client_id)
        return session

    def restore(self, stored: Iterable[StoredSession]) -> None:
        """Take up the persistent sessions that a boot has found."""
        for one in stored:
            session = Session(one.client_id, self.limits, self.counters, self.journal)
            self.sessions[one.client_id] = session
            self.journal.restored(message.serial for message in one.messages)
            session.restore(one)
            for topic_filter, qos in one.filters.items():
                self.trie.add(topic_filter, session, qos)

    def everything(self) -> list[Change]:
        """Describe all persistent sessions."""
        return [
            change
            for session in self.sessions.values()
            if not session.clean
            for change in session.changes()
        ]

    def leave(self, session: Session, output: Output) -> None:
        """Take a connection away from its session, unless another one has it by now."""
        if session.output is not None and session.output is not output:
            return
        session.detach()
        if self.sessions.get(session.client_id) is not session:
            return
        if session.clean:
            self._forget(session)
            return
        # To the end: the first absent session in the table is the one longest away.
        self.sessions[session.client_id] = self.sessions.pop(session.client_id)
        if len(self.sessions) > self.limits.sessions_max:
            absent = next(other for other in self.sessions.values() if other.output is None)
            logger.warning("forgetting the session of %s, absent the longest", absent.client_id)
            self._forget(absent)

    def end_changed_users(self, users: Users) -> None:
        """End the connections of users who are not there any more, or not as they were let in."""
        for session in list(self.sessions.values()):
            user, output = session.allowed.user, session.output
            if output is None or user is None or user == ANYBODY:
                continue
            if users.get(user.name) != user:
                output.drop("its user was removed or changed")

    def _forget(self, session: Session) -> None:
        del self.sessions[session.client_id]
        if not session.clean:
            self.journal.add("forget", session.client_id)
        session.forgotten = True
        filters = list(session.subscriptions)
        session.subscriptions.clear()
        self._unsubscribe(session, filters)

    def _unsubscribe(self, session: Session, filters: list[str]) -> None:
        """Take a session's filters away, and go on in a later turn when that takes long.

        A thousand deep ones are 20 ms, and a crowd leaves all at once.
        """
        while filters:
            self.trie.remove(filters.pop(), session)
            if filters and not len(filters) % _FILTERS_AT_ONCE and self.slices.is_over():
                self.slices.later(partial(self._unsubscribe, session, filters))
                return

    def connections_of(self, member: Holder) -> int:
        """Count the connections of one member, by the name in its certificate."""
        name = member.identity.name
        return sum(
            session.output is not None
            and (holder := session.allowed.holder) is not None
            and holder.identity.name == name
            for session in self.sessions.values()
        )

    # -- subscriptions -------------------------------------------------------------------------

    def subscribe(self, session: Session, topic_filter: str, qos: int) -> int:
        """Subscribe a session and send it what is retained; returns the code for the SUBACK.

        The same filter again replaces the QoS and sends the retained messages again (3.8.4).
        """
        if (
            not valid_filter(topic_filter)
            or first_level(topic_filter) == _LINKS
            or (topic_filter not in session.subscriptions and self._full_for(session, topic_filter))
        ):
            self.counters.subscriptions_refused += 1
            return SUBACK_REFUSED
        if topic_filter not in session.subscriptions:
            session.levels += topic_filter.count("/") + 1
        session.subscriptions[topic_filter] = qos
        if not session.clean:
            self.journal.add("subscribe", session.client_id, topic_filter, qos)
        self.trie.add(topic_filter, session, qos)
        self._replay(session, topic_filter, qos)
        return qos

    def _replay(self, session: Session, topic_filter: str, qos: int) -> None:
        retained: list[Message] = [
            (min(qos, published) << 1 | FLAG_RETAIN, string_field(topic), payload)
            for topic, payload, published in self.ingress.retained_matching(topic_filter)
        ]
        session.replay(retained)

    def _full_for(self, session: Session, topic_filter: str) -> bool:
        limits = self.limits
        levels = session.levels + topic_filter.count("/") + 1
        return (
            len(session.subscriptions) >= limits.subscriptions_per_session_max
            or levels > limits.subscription_levels_per_session_max
            or ("+" in topic_filter and self.trie.shapes >= limits.subscription_shapes_max)
            or len(self.trie) >= limits.subscriptions_max
            or self.trie.levels >= limits.subscription_levels_max
        )

    def unsubscribe(self, session: Session, topic_filter: str) -> None:
        """End a subscription; harmless when there is none."""
        if session.subscriptions.pop(topic_filter, None) is not None:
            session.levels -= topic_filter.count("/") + 1
            if not session.clean:
                self.journal.add("unsubscribe", session.client_id, topic_filter)
            self.trie.remove(topic_filter, session)
