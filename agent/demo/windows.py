"""When which devices could not reach each other.

Theory of operation. A fault parts the fleet in two groups from `begin_ns` to `end_ns`. What is
published on one side while they are apart cannot arrive in time on the other one. They count as
apart until the first link across is up at both of its ends, as the devices themselves tell it;
a link that lived through the fault joins them at its end.

Decides which pairs were apart when. Assumes one link across joins the groups, since each stays
connected inside. On failure: groups that never meet again stay apart for good.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Links", "Window"]


class Links:
    """Which ends of links are up."""

    def __init__(self) -> None:
        self._up_ns: dict[tuple[str, str], int] = {}

    def changed(self, device: str, peer: str, at_ns: int, *, up: bool) -> None:
        """A device tells of its end."""
        if up:
            self._up_ns[device, peer] = at_ns
        else:
            self._up_ns.pop((device, peer), None)

    def forget(self, device: str) -> None:
        """A device is gone: its ends are."""
        self._up_ns = {end: at for end, at in self._up_ns.items() if end[0] != device}

    def up(self) -> dict[tuple[str, str], int]:
        """Links that are up at both ends, each once, and since when."""
        return {
            (a, b): max(at_ns, self._up_ns[b, a])
            for (a, b), at_ns in self._up_ns.items()
            if a < b and (b, a) in self._up_ns
        }


@dataclass(slots=True)
class Window:
    """A time in which `group` and the others were apart.

    Attributes:
        group: The devices on one side; empty: everybody is alone.
        begin_ns: When it began.
        end_ns: When nothing parted them any more; None: still going on.
        joined_ns: When the first link across was up; None: not yet.
    """

    group: frozenset[str]
    begin_ns: int
    end_ns: int | None = None
    joined_ns: int | None = field(default=None, init=False)

    def parts(self, one: str, other: str) -> bool:
        """Whether these two are on different sides."""
        return not self.group or (one in self.group) != (other in self.group)

    def look(self, links: Links) -> None:
        """See whether the sides have met again."""
        if self.end_ns is None or self.joined_ns is not None:
            return
        across = [at_ns for (a, b), at_ns in links.up().items() if self.parts(a, b)]
        if across:
            self.joined_ns = max(self.end_ns, min(across))

    def kept_apart(self, one: str, other: str, from_ns: int, to_ns: int) -> bool:
        """Whether these two were apart at any moment of that time."""
        if not self.parts(one, other) or to_ns < self.begin_ns:
            return False
        return self.joined_ns is None or from_ns <= self.joined_ns
