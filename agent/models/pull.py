"""Fetches one content from neighbours: whom to ask for which chunk, whom to believe, whom to tell. Sans-I/O.

Theory of operation. Neighbours tell each other what they have, in every question, answer and chunk, and by a note when
there is nothing else to say. A device asks several at a time, a window for each that follows how long chunks take. Of
what a neighbour has it asks the rarest first, in an order of its own, so that devices fetch different chunks from the
first one and the rest from each other. What several have is asked of the one that is soonest done, and one that has
everything is spared: it is needed for what nobody else has. So a chain is a pipeline, and a publisher in a clique sends
little more than one copy. All of it is paced, since a model has time and what is urgent has not.

A chunk counts when its digest is right. Wrong bytes, silence, slowness and empty claims are judged by `source.py`. A
chunk that comes unasked is taken if it is missing and right: it was on its way when this device was restarted.

Assumes that the content's digests are trusted. `now_ns` is monotonic. On failure: nothing raises; a pull without a
usable neighbour waits for one. Sources: rarest first, BitTorrent (Cohen, 2003); delay as the sign of a queue, LEDBAT.
"""

from __future__ import annotations

import hashlib
from itertools import chain, islice
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from agent.models.limits import (
    MASKED_NS,
    NOTE_NS,
    REASK_NS,
    SEED_WINDOW,
    SOURCES_MAX,
    UNDER_WAY_MAX,
)
from agent.models.pace import Pace
from agent.models.source import Source

if TYPE_CHECKING:
    from collections.abc import Collection

    from agent.models.content import Content

__all__ = ["Ask", "PullStatistics", "Puller"]


class Ask(NamedTuple):
    """A question to put to a neighbour."""

    peer: str
    want: tuple[int, ...]
    """May be empty: what does it have?"""


class PullStatistics(NamedTuple):
    """What was counted since the pull began in this process."""

    fetched: int
    """Chunks that came and were right and missing."""
    twice: int
    """Chunks that came though they were there."""
    wrong: int
    """Chunks whose bytes were wrong."""
    late: int
    """Chunks that were waited for in vain."""
    avoided: tuple[str, ...]
    """Neighbours that are left alone."""


class Puller:
    """The fetching of one content.

    Args:
        content: What.
        have: The chunks that are there already, a bit each.
        device: This device's id: it gives the order in which equal chunks are asked for.
    """

    def __init__(self, content: Content, have: int, device: str, now_ns: int) -> None:
        self.content = content
        self.have = have
        self._everything = (1 << content.count) - 1
        self._digests = content.digests()
        self._order = list(range(content.count))
        Random(f"{device} {content.sha256}").shuffle(self._order)  # noqa: S311 - an order, nothing secret
        self._sources: dict[str, Source] = {}
        self._pace = Pace(content, now_ns)
        self._left_alone: dict[str, int] = {}
        """Neighbours without a link that are still to be left alone, and until when."""
        self._masked = self._paced = False
        """Why chunks that could be asked for were not, when that was last looked at."""
        self._fetched = self._twice = self._wrong = self._late = 0

    @property
    def whole(self) -> bool:
        """Whether nothing is missing."""
        return self.have == self._everything

    @property
    def sources(self) -> list[str]:
        """The devices that are asked."""
        return list(self._sources)

    @property
    def peers(self) -> list[str]:
        """The neighbours that have something."""
        return [peer for peer, source in self._sources.items() if source.have]

    def is_fed(self, now_ns: int) -> bool:
        """Whether somebody who may be asked has something that is missing."""
        return any(s.have & ~self.have and s.usable(now_ns) for s in self._sources.values())

    def statistics(self, now_ns: int) -> PullStatistics:
        """What was counted so far."""
        avoided = tuple(p for p, source in self._sources.items() if not source.usable(now_ns))
        return PullStatistics(self._fetched, self._twice, self._wrong, self._late, avoided)

    # What happens.

    def link_up(self, peer: str, now_ns: int) -> None:
        """There is a link to a neighbour, or a device farther away is to be asked as if it were one."""
        if peer not in self._sources and len(self._sources) < SOURCES_MAX:
            source = self._sources[peer] = Source(now_ns)
            source.avoided_until_ns = self._left_alone.pop(peer, now_ns)

    def link_down(self, peer: str, now_ns: int) -> None:
        """There is none any more; what was under way from it is asked of others."""
        source = self._sources.pop(peer, None)
        if source is not None and not source.usable(now_ns) and len(self._left_alone) < SOURCES_MAX:
            self._left_alone[peer] = source.avoided_until_ns  # a new link makes nobody honest

    def told(self, peer: str, have: int | None) -> None:
        """A neighbour says what it has; None: nothing to do with this content."""
        source = self._sources.get(peer)
        if source is not None:
            source.known = have is not None
            source.have = (have or 0) & self._everything

    def answered(
        self, peer: str, want: tuple[int, ...], coming: Collection[int], now_ns: int
    ) -> None:
        """A question is over: so much of what was wanted is on its way. What the neighbour has is told before."""
        source = self._sources.get(peer)
        if source is None:
            return
        source.asking = False
        declined = [index for index in want if index not in coming and index in source.under_way]
        for index in declined:
            del source.under_way[index]
        if declined and len(declined) == len(want):
            claims = any(source.have >> index & 1 for index in declined)
            source.declined(now_ns, claims=claims)

    def unanswered(self, peer: str, want: tuple[int, ...], now_ns: int) -> None:
        """A question had no answer, or one that cannot be read."""
        source = self._sources.get(peer)
        if source is None:
            return
        source.asking = False
        for index in want:
            source.under_way.pop(index, None)
        source.strike(now_ns)
        self._release_if_avoided(source, now_ns)

    def invalid(self, peer: str, now_ns: int) -> None:
        """A neighbour sent a chunk message that cannot be read."""
        source = self._sources.get(peer)
        if source is not None:
            source.strike(now_ns)
            self._release_if_avoided(source, now_ns)

    def chunk(self, peer: str, index: int, data: bytes, now_ns: int) -> bool:
        """A neighbour sent a chunk. True if it is right and was missing: it counts, so write it."""
        source = self._sources.get(peer)
        if source is None or not source.usable(now_ns):
            return False
        if self.have >> index & 1:
            self._twice += 1
            source.under_way.pop(index, None)
            return False
        if not self.given(index, data):
            source.lied(now_ns)
            self._release_if_avoided(source, now_ns)
            return False
        source.came(index, now_ns)
        return True

    def awaits(self, peer: str, index: int) -> bool:
        """Whether a neighbour was asked for a chunk that has not come."""
        source = self._sources.get(peer)
        return source is not None and index in source.under_way

    def given(self, index: int, data: bytes) -> bool:
        """A chunk that is missing comes, or is handed over. True if it is right: write it."""
        if self.have >> index & 1:
            self._twice += 1
            return False
        if hashlib.sha256(data).digest() != self._digests[index]:
            self._wrong += 1
            return False
        self._fetched += 1
        self.have |= 1 << index
        return True

    def lost(self, index: int) -> None:
        """A chunk that counted could not be written, or has decayed."""
        self.have &= ~(1 << index)

    def spoke(self, peer: str, now_ns: int) -> None:
        """The neighbour was told what this device has."""
        source = self._sources.get(peer)
        if source is not None:
            source.told, source.told_ns = self.have, now_ns

    # What is to be done.

    def next_ns(self, now_ns: int) -> int:
        """When to look at `asks` and `notes` again, if nothing happens before."""
        due_ns = now_ns + REASK_NS
        if self._masked:
            due_ns = now_ns + MASKED_NS
        if self._paced:
            due_ns = min(due_ns, self._pace.next_ns)
        for source in self._sources.values():
            if self._owes_note(source):
                due_ns = min(due_ns, max(now_ns, source.told_ns + NOTE_NS))
            if self.whole:
                continue
            if (late_ns := source.late_ns) is not None:
                due_ns = min(due_ns, late_ns)
            if not source.asking:
                rests_until_ns = max(source.paused_until_ns, source.avoided_until_ns)
                resumes = source.have & ~self.have and rests_until_ns > now_ns
                again_ns = rests_until_ns if resumes else max(source.due_ns, rests_until_ns)
                due_ns = min(due_ns, again_ns)
        return due_ns

    def asks(self, now_ns: int) -> list[Ask]:
        """The questions to put now. Each counts as put, and tells the neighbour what this device has."""
        self._masked = False
        if self.whole:
            return []
        self._expire(now_ns)
        ready = [
            (source.cost_ns(self._everything, now_ns), source.due_ns, peer)
            for peer, source in self._sources.items()
            if source.usable(now_ns) and not source.asking and now_ns >= source.paused_until_ns
        ]
        asks = []
        for _, _, peer in sorted(ready):  # of equals, who was asked longest ago
            source = self._sources[peer]
            want = self._wanted(source, now_ns)
            if want or now_ns >= source.due_ns:
                source.asked(now_ns)
                self._pace.take(len(want), now_ns)
                company = len(source.under_way) + len(want)
                source.under_way.update(dict.fromkeys(want, (now_ns, company)))
                self.spoke(peer, now_ns)
                asks.append(Ask(peer, want))
        self._paced = not self._pace.chunks(now_ns)
        return asks

    def notes(self, now_ns: int) -> list[str]:
        """The neighbours to be told now what this device has; when it has everything, at once."""
        peers = [
            peer
            for peer, source in self._sources.items()
            if self._owes_note(source) and (self.whole or now_ns >= source.told_ns + NOTE_NS)
        ]
        for peer in peers:
            self.spoke(peer, now_ns)
        return peers

    # Inside.

    def _owes_note(self, source: Source) -> bool:
        return source.known and bool(self.have & ~source.told & ~source.have)

    def _wanted(self, source: Source, now_ns: int) -> tuple[int, ...]:
        """What to ask of a neighbour: as much as its window has room for, half a window at least."""
        window = source.window
        if source.have == self._everything and self._has_company(source):
            window = min(window, SEED_WINDOW)
        room = window - len(source.under_way)
        if room < max(1, window // 2):
            return ()
        taken = [index for each in self._sources.values() for index in each.under_way]
        room = min(room, UNDER_WAY_MAX - len(taken), self._pace.chunks(now_ns))
        open_ = source.have & ~self.have
        for index in taken:
            open_ &= ~(1 << index)
        if not open_ or room <= 0:
            return ()
        elsewhere, own_ns = 0, source.cost_ns(self._everything, now_ns)
        held_once = held_more = 0
        for each in self._sources.values():
            if not each.usable(now_ns):
                continue
            held_more |= held_once & each.have
            held_once |= each.have
            if each is not source and each.cost_ns(self._everything, now_ns) < own_ns:
                elsewhere |= each.have
        self._masked |= bool(open_ & elsewhere)
        open_ &= ~elsewhere
        rare, rest = open_ & ~held_more, open_ & held_more
        wanted = chain(
            (index for index in self._order if rare >> index & 1),
            (index for index in self._order if rest >> index & 1),
        )
        return tuple(islice(wanted, room))

    def _has_company(self, source: Source) -> bool:
        """Whether another neighbour deals with this content, too: then both could ask for the same."""
        return any(each.known and each is not source for each in self._sources.values())

    def _expire(self, now_ns: int) -> None:
        """What was waited for too long is asked of others; once for each silence, however many chunks it holds."""
        for source in self._sources.values():
            late_ns = source.late_ns
            if late_ns is None or now_ns < late_ns:
                continue
            patience_ns = source.patience_ns
            late = [i for i, asked in source.under_way.items() if now_ns >= asked[0] + patience_ns]
            for index in late:
                del source.under_way[index]
            self._late += len(late)
            source.strike(now_ns)
            self._release_if_avoided(source, now_ns)

    @staticmethod
    def _release_if_avoided(source: Source, now_ns: int) -> None:
        if not source.usable(now_ns):
            source.under_way.clear()
