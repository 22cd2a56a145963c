"""What went wrong at one device, as far as it is shown: the last problem, losses, links that were closed.

Decides: what is logged (a problem that repeats itself is logged once) and how much is remembered. Assumes: sentences.
On failure: nothing can fail.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broker.links import LINKS_MAX

if TYPE_CHECKING:
    from broker.mesh.events import CloseLink, Gap

__all__ = ["Troubles"]

logger = logging.getLogger(__name__)


class Troubles:
    """The problems of one device."""

    def __init__(self, device: str) -> None:
        self.last_problem = self.last_gap = ""
        self.gaps = 0
        self.closed_links: dict[str, str] = {}
        """By neighbour, the newest last: why its link was closed."""
        self._device = device

    def problem(self, text: str) -> None:
        """Note what a neighbour or the disk did wrong."""
        if text != self.last_problem:
            logger.warning("%s: %s", self._device, text)
        self.last_problem = text

    def gap(self, gap: Gap) -> None:
        """Note a loss past everyone's retention."""
        self.gaps += 1
        where = f"lane {gap.lane} after {gap.after} up to {gap.upto}"
        self.last_gap = f"what {gap.origin} published on {where}; no neighbour holds it"
        self.problem(f"lost for good: {self.last_gap}")

    def link_closed(self, closed: CloseLink) -> None:
        """Note why a link is closed from this side."""
        self.problem(f"link to {closed.peer} closed: {closed.reason}")
        self.closed_links.pop(closed.peer, None)
        self.closed_links[closed.peer] = closed.reason
        if len(self.closed_links) > LINKS_MAX:
            del self.closed_links[next(iter(self.closed_links))]
