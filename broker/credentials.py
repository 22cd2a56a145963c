"""Keeps a device's trust up to date: takes renewed certificates and revocation lists from the mesh.

Decides: what is published on this device's `certificate` topic and on the fleet's `revocation` topic is believed as far
as the authority has signed it, whoever published it; so is the notice of the key that all devices share. Connections of
those who are revoked, or whose time is over, end at once, or within JUDGE_S. Whoever finds on the topic of the list or
of the notice something other than the newest that it knows puts that back, so it reaches devices that were away, and
nobody makes the fleet forget one. Others' renewed certificates are taken where they have signed bundles.

Assumes a node whose memory is there, since it tells the time: the latest of the system's clock and the stored bound of
the hybrid clock. On failure: what does not hold is counted and told, and everything stays as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

import msgspec

from broker.errors import Refused, SecretUnusable
from broker.identity import CertificateInvalid, Moment
from broker.mesh.clock import wall_ms_of
from broker.topic_names import certificate_topic, fleet_key_topic, revocation_topic
from broker.wall_clock import is_synchronised, wall_ms

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.delivered import Delivered
    from broker.node import Node
    from broker.seals import FleetSeals, SealStatistics
    from broker.signers import Signers
    from broker.trust import Trust

__all__ = ["Credentials", "notice", "system_moment"]

logger = logging.getLogger(__name__)

JUDGE_S: Final = 60.0
"""How often open connections are judged again, and the revocation topic is looked at. Time passes slowly."""


class _Notice(msgspec.Struct):
    """Payload of all three topics."""

    pem: str


_read: Final = msgspec.json.Decoder(_Notice).decode


def notice(pem: bytes) -> bytes:
    """The payload that tells a certificate or a revocation list."""
    return msgspec.json.encode(_Notice(pem.decode()))


def _pem_in(payload: bytes) -> bytes:
    """The same back.

    Raises:
        CertificateInvalid: It is no such payload.
    """
    try:
        return _read(payload).pem.encode()
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors, bad UTF-8 too
        raise CertificateInvalid(str(error)) from None


def system_moment() -> Moment:
    """The time, as long as there is no mesh to ask."""
    return Moment(wall_ms(), is_synchronised())


class Credentials:
    """Of one device.

    Args:
        node: Its node.
        trust: Its trust.
        site: The site in every topic.
        seals: What makes and checks the tags of its bundles; None: nothing does.
    """

    def __init__(
        self, node: Node, trust: Trust, site: str, seals: FleetSeals | None = None
    ) -> None:
        self._node = node
        self._site = site
        self._seals = seals
        self._trust = trust
        fleet = trust.identity.fleet
        self._revocation_topic = revocation_topic(site=site, fleet=fleet)
        self._fleet_key_topic = fleet_key_topic(site=site, fleet=fleet)
        self._takers: dict[str, tuple[str, Callable[[bytes], bool]]] = {
            self._revocation_topic: ("revocation list", trust.adopt_revocations),
            certificate_topic(site=site, device=node.device): (
                "renewed certificate",
                self._adopt_certificate,
            ),
        }
        if seals is not None:
            self._takers[self._fleet_key_topic] = ("notice of the fleet's key", seals.adopt_key)
        self._seen: dict[str, bytes] = {}
        """By topic: what was looked at last."""
        self.refused = 0
        """Certificates and lists that do not hold."""
        self.last_refused = ""
        trust.clock = self._moment
        node.subscribe(self._hear)

    @property
    def seal_statistics(self) -> SealStatistics | None:
        """What there is to say of the tags of its bundles; None: they have none."""
        return None if self._seals is None else self._seals.statistics()

    async def run(self) -> None:
        """Look at everything again and again; cancel to stop."""
        while True:
            for topic in self._takers:
                self._take(topic, self._node.retained_value(topic) or b"")
            self._node.judge_again()
            self._hear_renewed()
            self._tell(self._revocation_topic, self._trust.revocations_pem.encode())
            if self._seals is not None:
                self._tell(self._fleet_key_topic, self._seals.notice_pem)
                await self._save(self._seals.signers)
            await asyncio.sleep(JUDGE_S)

    def _hear(self, batch: list[Delivered]) -> None:
        for message in batch:
            if message.topic in self._takers:
                self._take(message.topic, message.payload)

    def _take(self, topic: str, payload: bytes) -> None:
        if not payload or self._seen.get(topic) == payload:
            return
        self._seen[topic] = payload
        what, adopt = self._takers[topic]
        try:
            if adopt(_pem_in(payload)):
                logger.info("%s: a %s is in force", self._node.device, what)
                self._node.judge_again()
        except (CertificateInvalid, SecretUnusable) as error:
            self.refused += 1
            self.last_refused = f"{what} on {topic}: {error}"
            logger.warning("%s: refused a %s", self._node.device, self.last_refused)

    def _adopt_certificate(self, pem: bytes) -> bool:
        adopted = self._trust.adopt_certificate(pem)
        if adopted and self._seals is not None:
            self._seals.signers.hear(pem)
        return adopted

    async def _save(self, signers: Signers) -> None:
        """Store certificates that have come; in a thread, since an SD card may take a tenth of a second to sync."""
        pem = signers.take_unsaved()
        if pem is None:
            return
        try:
            await asyncio.to_thread(signers.save, pem)
        except (SecretUnusable, RuntimeError) as error:  # the latter where no thread can be had
            logger.warning("%s: certificates of others: %s", self._node.device, error)

    def _hear_renewed(self) -> None:
        """Take the renewed certificates of those who sign; what does not hold is theirs to tell."""
        if self._seals is None:
            return
        for name in self._seals.signers.names():
            payload = self._node.retained_value(certificate_topic(site=self._site, device=name))
            if payload:
                with contextlib.suppress(CertificateInvalid):
                    self._seals.signers.hear(_pem_in(payload))

    def _tell(self, topic: str, known: bytes) -> None:
        """Put the newest list, or notice, back where it is missing."""
        if known and self._node.retained_value(topic) != (payload := notice(known)):
            try:
                self._node.publish_nowait(topic, payload)
            except Refused as error:
                logger.info("%s: what belongs on %s waits: %s", self._node.device, topic, error)

    def _moment(self) -> Moment:
        wall, synchronised = system_moment()
        return Moment(max(wall, wall_ms_of(self._node.clock())), synchronised)
