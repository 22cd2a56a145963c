"""How a device speaks: typed messages onto its own topics.

A message that cannot be taken now (a limit is reached) or that is not valid is left out and logged; the caller learns
it from the answer. Nothing here waits.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import orjson

from agent.messages import Message, PayloadInvalid, encode
from broker.errors import Refused
from broker.mesh.clock import wall_ms_of

if TYPE_CHECKING:
    from broker.node import Node

__all__ = ["Publisher"]

logger = logging.getLogger(__name__)


class Publisher:
    """Publishes for one device.

    Args:
        node: Where to.
        site: The site in every topic.
    """

    def __init__(self, node: Node, site: str) -> None:
        self.node = node
        self.site = site
        self.device = node.device

    def say(self, topic: str, message: Message) -> bool:
        """Publish a message of the contract. True if it was taken."""
        try:
            self.node.publish_nowait(topic, encode(message))
        except (Refused, PayloadInvalid) as error:
            logger.warning("%s: %s was not published: %s", self.device, topic, error)
            return False
        return True

    def show(self, topic: str, report: dict[str, Any]) -> None:
        """Publish a retained value on one of this device's own `local/` topics."""
        try:
            self.node.publish_nowait(topic, orjson.dumps(report), retained=True)
        except Refused as error:
            logger.warning("%s: %s was not published: %s", self.device, topic, error)

    def now_ms(self) -> int:
        """The fleet's time, in milliseconds since 1970."""
        return wall_ms_of(self.node.clock())
