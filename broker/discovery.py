"""Finds devices of the same site by mDNS, and lets them find this one.

Each device announces itself as a service of type SERVICE_TYPE, with its site, id, protocol and incarnation beside the
address, and hears what others announce. It speaks on the interfaces that its broker listens on and on no others, IPv4
only: a broker on loopback is announced on loopback. Other sites and this device itself are passed over, what is
malformed is counted; the address book bounds how many are believed.

Assumes nothing of the network: where there is no multicast (many containers, some access points) it stays silent, says
so in `problem`, and tries again every AGAIN_S. Announcements are as true as the network is closed; who may take a name
is the listener's matter. Sources: RFC 6762 and 6763.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

import ifaddr
from zeroconf import Error as ZeroconfError
from zeroconf import IPVersion, NonUniqueNameException, ServiceStateChange
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from broker.link import Neighbour
from broker.mesh.frame import PROTOCOL
from broker.topic_names import is_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from zeroconf import Zeroconf

__all__ = ["SERVICE_TYPE", "Mdns", "Own", "pick_address", "read_announcement"]

logger = logging.getLogger(__name__)

SERVICE_TYPE: Final = "_flockmq._tcp.local."
AGAIN_S: Final = 10.0
"""Between attempts to open the sockets, and between looks at which addresses this machine has."""
RESOLVE_MS: Final = 2_000
"""How long the address of an announcement without one is asked for."""
RESOLVING_MAX: Final = 16
"""Announcements asked for at once; what comes beside them waits for its next announcement. Complete ones, which all
devices send, are read at once and need no place."""
INSTANCES_MAX: Final = 1_024
"""Announcements whose end is told of. Others are forgotten when they do not answer. About 200 bytes each."""
LABEL_BYTES_MAX: Final = 63
"""Of a name in DNS."""
CLOSE_S: Final = 2.0
"""A goodbye takes a second."""


class Own(NamedTuple):
    """What this device announces."""

    device: str
    site: str
    incarnation: int
    host: str
    """Address that its broker listens on."""
    port: int


class Mdns:
    """Announces one device and hears the others.

    Args:
        own: What to announce.
        found: Called with each announcement of another device of the site.
        lost: Called with the id of a device that has said goodbye, or has not been announced for over an hour.
    """

    def __init__(
        self, own: Own, found: Callable[[Neighbour], None], lost: Callable[[str], None]
    ) -> None:
        self._own = own
        self._found = found
        self._lost = lost
        self._names: dict[str, str] = {}
        """By instance: its device, of those that were told of."""
        self._resolving: dict[str, asyncio.Task[None]] = {}
        self._addresses: list[str] = []
        self.problem = ""
        """Why nothing can be found, or what is wrong with what is; empty if nothing is."""
        self.malformed = 0
        self.last_malformed = ""
        self.passed_over = 0
        """Announcements that came while too many others were asked for."""

    async def run(self) -> None:
        """Announce and listen until cancelled."""
        while True:
            try:
                self._addresses = await own_addresses(self._own.host)
                await self._session()
            except (OSError, RuntimeError, ValueError, ZeroconfError) as error:
                self._say(
                    f"mDNS cannot be used: {str(error) or type(error).__name__}; name seeds instead"
                )
            await asyncio.sleep(AGAIN_S)

    async def _session(self) -> None:
        """As long as this machine's addresses stay the same."""
        zeroconf = AsyncZeroconf(interfaces=self._addresses, ip_version=IPVersion.V4Only)
        try:
            await self._announce(zeroconf)
            browser = AsyncServiceBrowser(
                zeroconf.zeroconf, SERVICE_TYPE, handlers=[self._service_changed]
            )
            try:
                await self._addresses_change()
            finally:
                await browser.async_cancel()
        finally:
            resolving = list(self._resolving.values())
            for task in resolving:
                task.cancel()
            await asyncio.gather(*resolving, return_exceptions=True)
            with contextlib.suppress(TimeoutError, ZeroconfError):
                async with asyncio.timeout(CLOSE_S):
                    await zeroconf.async_unregister_all_services()
            await zeroconf.async_close()

    async def _addresses_change(self) -> None:
        while True:
            await asyncio.sleep(AGAIN_S)
            if await own_addresses(self._own.host) != self._addresses:
                return

    async def _announce(self, zeroconf: AsyncZeroconf) -> None:
        device, site, incarnation, _, port = self._own
        key = blake2b(f"{site}/{device}/{port}".encode(), digest_size=8).hexdigest()
        info = AsyncServiceInfo(
            SERVICE_TYPE,
            f"{f'{device} at {site}'[:LABEL_BYTES_MAX]}.{SERVICE_TYPE}",
            port=port,
            parsed_addresses=self._addresses,
            # The incarnation makes a boot news to those who still hold the last announcement.
            properties={
                "device": device,
                "site": site,
                "protocol": str(PROTOCOL),
                "incarnation": str(incarnation),
            },
            server=f"flockmq-{key}.local.",
        )
        try:
            await zeroconf.async_register_service(info)
        except NonUniqueNameException:
            self._say(f"another device of site {site} calls itself {device}; rename one")
            await zeroconf.async_register_service(info, allow_name_change=True)
        else:
            self.problem = ""

    def _service_changed(
        self,
        zeroconf: Zeroconf,
        service_type: str,
        name: str,
        state_change: ServiceStateChange,
    ) -> None:
        """Called by zeroconf, by the names of these arguments."""
        if state_change is ServiceStateChange.Removed:
            device = self._names.pop(name, None)
            if device is not None and device not in self._names.values():
                self._lost(device)
            return
        try:
            info = AsyncServiceInfo(service_type, name)
        except ZeroconfError:
            self.malformed += 1
            return
        if info.load_from_cache(zeroconf):
            self._read(info)
        elif name not in self._resolving:
            if len(self._resolving) >= RESOLVING_MAX:
                self.passed_over += 1
                return
            task = asyncio.get_running_loop().create_task(self._resolve(info, zeroconf))
            self._resolving[name] = task
            task.add_done_callback(lambda _: self._resolving.pop(name, None))

    async def _resolve(self, info: AsyncServiceInfo, zeroconf: Zeroconf) -> None:
        with contextlib.suppress(ZeroconfError, OSError):
            if await info.async_request(zeroconf, RESOLVE_MS):
                self._read(info)
                return
        self.malformed += 1

    def _read(self, info: AsyncServiceInfo) -> None:
        try:
            found = read_announcement(
                info.decoded_properties,
                info.parsed_addresses(IPVersion.V4Only),
                info.port,
                self._own,
                self._addresses,
            )
        except ValueError as error:
            self.malformed += 1
            self.last_malformed = f"{info.name}: {error}"
            return
        if found is None:
            return
        if len(self._names) < INSTANCES_MAX:
            self._names[info.name] = found.name
        self._found(found)

    def _say(self, problem: str) -> None:
        if problem != self.problem:
            logger.warning("%s: %s", self._own.device, problem)
        self.problem = problem


def read_announcement(
    properties: Mapping[str, str | None],
    addresses: Sequence[str],
    port: int | None,
    own: Own,
    own_addresses: Sequence[str],
) -> Neighbour | None:
    """Where another device of the site listens; None for this device and for other sites.

    Raises:
        ValueError: It is no announcement of a device that could be linked to; says why.
    """
    site, device = properties.get("site") or "", properties.get("device") or ""
    if not is_id(site) or not is_id(device):
        raise ValueError("its site or device is no id")
    if site != own.site or device == own.device:
        return None
    if properties.get("protocol") != str(PROTOCOL):
        raise ValueError(f"it does not speak protocol {PROTOCOL}")
    if not port or not addresses:
        raise ValueError("it has no address or no port")
    return Neighbour(device, pick_address(addresses, own_addresses), port)


def pick_address(addresses: Sequence[str], own: Sequence[str]) -> str:
    """Of a device's addresses the one that shares the most leading bits with one of this machine's.

    One that is this machine's too comes last: bridges of containers have the same address everywhere.
    """
    own_bits = [int(ipaddress.IPv4Address(address)) for address in own]

    def nearness(address: str) -> tuple[bool, int]:
        bits = int(ipaddress.IPv4Address(address))
        shared = max((32 - (bits ^ mine).bit_length() for mine in own_bits), default=0)
        return shared < 32, shared

    return max(addresses, key=nearness)


async def own_addresses(host: str) -> list[str]:
    """The IPv4 addresses that a broker listening on `host` can be reached at.

    Raises:
        OSError: There is none.
        ValueError: The host cannot be a name.
    """
    if host == "0.0.0.0":  # noqa: S104 - compared with, not bound to
        addresses = [ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if ip.is_IPv4]
        found = {str(ip.ip) for ip in addresses} - {"127.0.0.1"}
    else:
        loop = asyncio.get_running_loop()
        answers = await loop.getaddrinfo(host, None, family=socket.AF_INET)
        found = {str(answer[4][0]) for answer in answers}
    if not found:
        raise OSError("this machine has no IPv4 address but loopback")
    return sorted(found)
