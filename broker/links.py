"""A node's links: one per neighbour, whoever dialled, and the diallers that keep them up.

Decides which of two links to the same neighbour stays, by a rule that both ends follow alike: a direct one before one
through a hub; of two direct ones the one that the smaller id dialled; of two through hubs the one whose session has the
smaller rank; of two that are alike the newer, since the older is what is left of a lost connection. Diallers go on
while there is only a link through a hub. Assumes that ids are true; `trust.py` decides who may claim one. At most
LINKS_MAX; one more is closed and told of.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from broker.dialler import Dialler, Wish
from broker.link import DialledPipe
from broker.tasks import begin
from broker.topic_names import is_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from broker.embedded.ingress import Pipe
    from broker.link import Neighbour, Owner
    from broker.radio import Radio
    from broker.trust import Trust

__all__ = ["LINKS_MAX", "Links"]

logger = logging.getLogger(__name__)

LINKS_MAX: Final = 64
"""Degree of one device. Plumtree and HyParView work with 5; a hub of a small site may have more. Guess."""


class LinkOwner(Protocol):
    """Whom links are told to; the node."""

    def link_is_up(self, peer: str) -> None:
        """There is a link to the neighbour now."""

    def link_is_down(self, peer: str) -> None:
        """There is none any more."""


class _Link(NamedTuple):
    pipe: Pipe
    dialled_by: str | None
    """None: both ends dialled a hub."""
    rank: tuple[int, int]
    """The smaller one stays: (0, 0 if the smaller id dialled, else 1), or (1, rank of the session at a hub)."""


class Links:
    """The links of one device.

    Args:
        device: This device's id.
        owner: Is told of links that come and go.
        radio: What can be heard.
        random: Jitter.
        trust: Who is believed, where links are TLS; None: plain MQTT.
    """

    def __init__(
        self,
        device: str,
        owner: LinkOwner,
        radio: Radio,
        random: Random,
        trust: Trust | None = None,
    ) -> None:
        self._trust = trust
        self._device = device
        self._owner = owner
        self._radio = radio
        self._random = random
        self._links: dict[str, _Link] = {}
        self._diallers: dict[str, tuple[Dialler, asyncio.Task[None]]] = {}
        self._gone = asyncio.Event()
        self._closed = False
        self.refused = ""
        """Why the last link that was not taken was refused."""

    def __contains__(self, peer: str) -> bool:
        return peer in self._links

    def audible(self) -> Iterator[tuple[str, Pipe]]:
        """Neighbours that can be written to, and how."""
        for peer, link in list(self._links.items()):
            if self._radio.hears(peer):
                yield peer, link.pipe

    def holds(self, peer: str, pipe: Pipe) -> bool:
        """Whether what comes from this pipe is to be heard."""
        link = self._links.get(peer)
        return link is not None and link.pipe is pipe and self._radio.hears(peer)

    def dial(self, neighbour: Neighbour, owner: Owner) -> None:
        """Keep a link to this neighbour up from now on; where it listens takes the place of what was said before."""
        self._stop_dialling(neighbour.name)
        wish = Wish(self._has_direct, self._wait_wanted)
        dialler = Dialler(
            self._device, neighbour, owner, wish, self._radio, self._random, self._trust
        )
        name = f"{self._device} dial {neighbour.name}"
        self._diallers[neighbour.name] = (dialler, begin(dialler.run(), name))

    def judge_again(self) -> None:
        """Close dialled links to those whose certificates have ceased to count; the broker closes the others."""
        for link in list(self._links.values()):
            if isinstance(link.pipe, DialledPipe):
                link.pipe.judge_again()

    def undial(self, peer: str) -> None:
        """Dial a neighbour no more, and let go of the link if it was dialled from here."""
        self._stop_dialling(peer)
        link = self._links.get(peer)
        if link is not None and link.dialled_by == self._device:
            self.drop(peer)

    def wake(self, peer: str) -> None:
        """Somebody says that a neighbour is there."""
        if peer in self._diallers:
            self._diallers[peer][0].wake()

    def absent_s(self, peer: str) -> float:
        """For how long a neighbour has been dialled in vain; 0 if there is a link, or it is not dialled."""
        if peer in self._links or peer not in self._diallers:
            return 0.0
        return self._diallers[peer][0].absent_s

    def failures(self) -> dict[str, str]:
        """By neighbour that is dialled and has no direct link: why the last attempt failed."""
        return {
            name: dialler.last_failure
            for name, (dialler, _) in self._diallers.items()
            if dialler.failures and not self._has_direct(name)
        }

    def wants(self, peer: str) -> bool:
        """Whether a link to the neighbour would be taken because there is none."""
        room = len(self._links) < LINKS_MAX and not self._closed
        return room and peer not in self._links and self._radio.hears(peer)

    def attach(self, peer: str, pipe: Pipe, *, dialled_by: str) -> None:
        """Take a direct link that has come up, or close it."""
        self._attach(peer, _Link(pipe, dialled_by, (0, int(dialled_by != min(peer, self._device)))))

    def attach_at_hub(self, peer: str, pipe: Pipe, rank: int) -> None:
        """Take a link through a hub, or close it. `rank`: of its session."""
        self._attach(peer, _Link(pipe, None, (1, rank)))

    def _attach(self, peer: str, new: _Link) -> None:
        if peer == self._device or not is_id(peer) or self._closed or not self._radio.hears(peer):
            new.pipe.close()
            return
        link = self._links.get(peer)
        if link is None and len(self._links) >= LINKS_MAX:
            self.refused = f"no room for a link to {peer}: there are {LINKS_MAX} already"
            new.pipe.close()
            return
        if link is not None:
            if new.rank > link.rank:
                new.pipe.close()
                return
            self._forget(peer)
            link.pipe.close()
        self._links[peer] = new
        how = "through a hub" if new.dialled_by is None else f"dialled by {new.dialled_by}"
        logger.info("%s: link to %s is up, %s", self._device, peer, how)
        self._owner.link_is_up(peer)

    def detached(self, peer: str, pipe: Pipe) -> None:
        """A pipe has closed."""
        link = self._links.get(peer)
        if link is not None and link.pipe is pipe:
            self._forget(peer)

    def drop(self, peer: str) -> None:
        """Close the link to a neighbour, if there is one."""
        link = self._links.get(peer)
        if link is not None:
            self._forget(peer)
            self._radio.close(peer, link.pipe)

    async def close(self) -> None:
        """Dial nobody, close all, and take none any more."""
        self._closed = True
        tasks = [task for _, task in self._diallers.values()]
        for peer in list(self._diallers):
            self._stop_dialling(peer)
        await asyncio.gather(*tasks, return_exceptions=True)
        for peer in list(self._links):
            self.drop(peer)
        self._radio.restore()

    def _stop_dialling(self, peer: str) -> None:
        _, task = self._diallers.pop(peer, (None, None))
        if task is not None:
            task.cancel()

    def _forget(self, peer: str) -> None:
        del self._links[peer]
        self._gone.set()
        logger.info("%s: link to %s is down", self._device, peer)
        self._owner.link_is_down(peer)

    def _has_direct(self, peer: str) -> bool:
        link = self._links.get(peer)
        return link is not None and link.dialled_by is not None

    async def _wait_wanted(self, peer: str) -> None:
        """Until there is no direct link to the neighbour."""
        while self._has_direct(peer):
            self._gone.clear()
            await self._gone.wait()
