"""Observed-remove set without tombstones: whoever adds while another removes, the addition stays.

Theory of operation. Every addition gets a dot, (replica, number), never used again. A set is its
elements with the dots that keep them, and a context: by replica, how many of its dots were seen. A
dot inside the context that keeps no element was removed; that is all there is to remember about it.
A join keeps a dot that both hold, and a dot that one holds and the other has not seen:

    held here   held there   seen there      joined
    yes         yes          -               kept
    yes         no           no              kept: news to them
    yes         no           yes             dropped: they removed it

Decides: which elements are in. Assumes: a replica numbers its additions 1, 2, 3 without a hole and
nobody else adds under its name; dots stand inside the context. On failure of that, elements may
vanish, yet all devices that join the same sets still agree.
Source: Bieniusa et al. 2012 (arXiv 1210.3368); Pekko `ORSet.scala`, `riak_dt_orswot.erl`.
"""

from collections.abc import Mapping

import msgspec

__all__ = ["Dot", "OrSet"]

Dot = tuple[str, int]
"""(replica, number from 1)."""


class OrSet(msgspec.Struct, frozen=True):
    """The set. Immutable: `add`, `remove` and `join` give a new one."""

    elements: Mapping[str, frozenset[Dot]] = {}
    """Element to the dots that keep it, at least one."""
    context: Mapping[str, int] = {}
    """Replica to how many of its dots were seen."""

    @property
    def value(self) -> frozenset[str]:
        """What is in the set."""
        return frozenset(self.elements)

    def add(self, replica: str, element: str) -> "OrSet":
        """`replica` adds; its new dot stands for all that kept the element before."""
        number = self.context.get(replica, 0) + 1
        return OrSet(
            {**self.elements, element: frozenset([(replica, number)])},
            {**self.context, replica: number},
        )

    def remove(self, element: str) -> "OrSet":
        """Without `element`, as far as this set has seen it; it need not be in."""
        kept = {name: dots for name, dots in self.elements.items() if name != element}
        return OrSet(kept, self.context)

    def join(self, other: "OrSet") -> "OrSet":
        """What both know."""
        elements = {}
        for element in {**self.elements, **other.elements}:
            mine = self.elements.get(element, frozenset())
            theirs = other.elements.get(element, frozenset())
            dots = (mine & theirs) | other.unseen(mine) | self.unseen(theirs)
            if dots:
                elements[element] = dots
        context = dict(self.context)
        for replica, number in other.context.items():
            context[replica] = max(number, context.get(replica, 0))
        return OrSet(elements, context)

    def covers(self, other: "OrSet") -> bool:
        """Whether a join with `other` would change nothing."""
        return self.join(other) == self

    def unseen(self, dots: frozenset[Dot]) -> frozenset[Dot]:
        """Those of `dots` that are outside of this set's context: news to it."""
        return frozenset(dot for dot in dots if dot[1] > self.context.get(dot[0], 0))

    def canonical(self) -> bytes:
        """Equal bytes for equal sets."""
        elements = [(element, sorted(dots)) for element, dots in sorted(self.elements.items())]
        return msgspec.json.encode((elements, sorted(self.context.items())))
