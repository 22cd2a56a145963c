"""Certificates of origins, on demand: whoever brings a signed bundle can say whose signature that is.

Theory of operation. A relay checks what it forwards, so whoever brought a bundle has the certificate of its origin, or
is the origin. A device that lacks it parks the bundle, asks that neighbour (WHO) and takes the bundle up again with
the answer (VOUCH). So certificates reach exactly those who need them, one round trip late, once.

Decides what is parked and for how long, and whom to ask how often. Assumes nothing of neighbours: only what was asked
for is looked at, and each look is charged. On failure: what is parked is let go, oldest first, and comes back by repair
where it is kept; a certificate that does not hold is a bad frame of the neighbour that vouches for it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, NamedTuple

from broker.mesh.control import Vouch, Who
from broker.mesh.frame import FrameInvalid
from broker.mesh.limits import (
    MS,
    PARKED_BYTES_MAX,
    PARKED_MAX,
    WHO_AGAIN_MS,
    WHO_ASKED_MAX,
    WORK_CERTIFICATE,
)
from broker.mesh.tags import TagInvalid

if TYPE_CHECKING:
    from broker.mesh.peer import Peer
    from broker.mesh.tags import Seals

__all__ = ["Parked", "Vouching"]


class Parked(NamedTuple):
    """A record that waits for a certificate."""

    signer: int
    peer: str
    kind: int
    data: bytes
    since_ns: int
    """Its lifetime counts from here."""


class Vouching:
    """Of one device.

    Args:
        seals: Who makes and checks tags; None: nobody, and nothing is ever asked.
    """

    __slots__ = ("_asked", "_parked", "_parked_bytes", "_seals")

    def __init__(self, seals: Seals | None) -> None:
        self._seals = seals
        self._asked: OrderedDict[tuple[str, int], int] = OrderedDict()
        """By neighbour and key: when it was asked."""
        self._parked: deque[Parked] = deque()
        self._parked_bytes = 0

    def __len__(self) -> int:
        return len(self._parked)

    def park(self, peer: Peer, signer: int, kind: int, data: bytes, now_ns: int) -> None:
        """Have a record wait for a certificate, and ask the neighbour that brought it."""
        self._parked.append(Parked(signer, peer.name, kind, data, now_ns))
        self._parked_bytes += len(data)
        while len(self._parked) > PARKED_MAX or self._parked_bytes > PARKED_BYTES_MAX:
            self._parked_bytes -= len(self._parked.popleft().data)
        key = (peer.name, signer)
        asked_ns = self._asked.get(key)
        if asked_ns is not None and now_ns - asked_ns < WHO_AGAIN_MS * MS:
            return
        self._asked[key] = now_ns
        self._asked.move_to_end(key)
        if len(self._asked) > WHO_ASKED_MAX:
            self._asked.popitem(last=False)
        peer.say(Who([signer]))

    def answer(self, peer: Peer, who: Who, now_ns: int) -> None:
        """Vouch for those keys whose certificates are here."""
        peer.work.charge(WORK_CERTIFICATE * len(who.signers), "questions for certificates", now_ns)
        if self._seals is None:
            return
        found = [(signer, self._seals.certificate(signer)) for signer in who.signers]
        rows = [(signer, certificate) for signer, certificate in found if certificate is not None]
        if rows:
            peer.say(Vouch(rows))

    def hear(self, peer: Peer, vouch: Vouch, now_ns: int) -> list[Parked]:
        """Take certificates that were asked for; returns what waited for them, to be taken up again.

        Raises:
            FrameInvalid: One of them does not hold.
        """
        peer.work.charge(WORK_CERTIFICATE * len(vouch.certificates), "certificates", now_ns)
        known: set[int] = set()
        for signer, certificate in vouch.certificates:
            if self._seals is None or self._asked.pop((peer.name, signer), None) is None:
                continue
            try:
                learned = self._seals.learn(certificate)
            except TagInvalid as error:
                raise FrameInvalid(
                    f"it vouches for a certificate that does not hold: {error}"
                ) from None
            if learned != signer:
                raise FrameInvalid("it vouches for a key by the certificate of another")
            known.add(signer)
        ready = [parked for parked in self._parked if parked.signer in known]
        if ready:
            self._parked = deque(parked for parked in self._parked if parked.signer not in known)
            self._parked_bytes = sum(len(parked.data) for parked in self._parked)
        return ready
