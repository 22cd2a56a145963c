"""Who waits for a TLS handshake, and who is next: a queue without sockets or clock.

Decides: a guest that has said nothing costs no handshake, and nobody waits behind it. Of those that have spoken,
neighbours come first: an address from which a device of the fleet was let in before. An address, and all of an IPv6
network together, has few such turns ahead of everybody, so that one that has turned bad does not hold up the others.
When there are too many, a silent stranger goes, the oldest first, then whichever stranger came last.

Assumes: whoever owns the sockets tells when a guest enters, speaks and leaves, and sends away whom it is told to. On
failure: nothing can fail.

Why: a flood of strangers costs a handshake each, milliseconds on a small device, and comes from as many addresses as
the attacker's network has. No rule tells an honest stranger from others; a neighbour is told by where it is.
"""

from collections import Counter
from typing import Final, Generic, TypeVar

from broker.embedded.addresses import network_of
from broker.embedded.limits import Limits

T = TypeVar("T")

# Turns ahead of strangers that one network may have at once: a neighbour tries again each 0.3 s and
# needs one. With a handshake each 20 ms that is 80 ms for those behind it.
_AHEAD_MAX: Final = 4


class Lobby(Generic[T]):
    """Guests by what they are told apart by; each is in one place at a time."""

    def __init__(self, limits: Limits) -> None:
        self._max = limits.guests_max
        self._silent: dict[T, str] = {}  # with their networks, the oldest first
        self._neighbours: dict[T, str] = {}  # have spoken
        self._strangers: dict[T, str] = {}  # have spoken
        self._familiar: set[T] = set()  # of the silent
        self._ahead: Counter[str] = Counter()  # by network, of `_neighbours`

    def __len__(self) -> int:
        return len(self._silent) + len(self._neighbours) + len(self._strangers)

    def enter(self, guest: T, address: str, *, neighbour: bool) -> T | None:
        """Let somebody in to wait. Returns who has to go for it, which may be the guest itself."""
        self._silent[guest] = network_of(address)
        if neighbour:
            self._familiar.add(guest)
        if len(self) <= self._max:
            return None
        silent = (one for one in self._silent if one not in self._familiar)
        goes = next(silent, next(reversed(self._strangers), guest))
        self.leave(goes)
        return goes

    def speaks(self, guest: T) -> None:
        """Note that a guest has begun its handshake, and is to have its turn."""
        network = self._silent.pop(guest)
        if guest in self._familiar and self._ahead[network] < _AHEAD_MAX:
            self._neighbours[guest] = network
            self._ahead[network] += 1
        else:
            self._strangers[guest] = network
        self._familiar.discard(guest)

    def next(self) -> T | None:
        """Whose turn it is; it is not here any more. None: nobody's."""
        for queue in (self._neighbours, self._strangers):
            if queue:
                guest = next(iter(queue))
                self.leave(guest)
                return guest
        return None

    def leave(self, guest: T) -> None:
        """Forget a guest; harmless when it is not here."""
        self._silent.pop(guest, None)
        self._strangers.pop(guest, None)
        self._familiar.discard(guest)
        network = self._neighbours.pop(guest, None)
        if network is not None:
            self._ahead[network] -= 1
            if not self._ahead[network]:
                del self._ahead[network]
