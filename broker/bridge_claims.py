"""Which of the devices that are attached to one foreign broker is active; no I/O.

Each attached device claims once a second, on a topic that all devices hear, whether it is active and whether its
connection to the foreign broker lives. The active one stays so for as long as both are true and nobody with a smaller
id is active as well. When there is none, the smallest id among the connected takes over. A claim holds for CLAIM_MS;
whoever takes over first waits SETTLE_MS for claims that cross its own.

Assumes that claims reach all attached devices within SETTLE_MS. Where they do not, because the mesh is cut, each part
has an active one: its devices stay connected to the foreign broker, and what comes from there enters the mesh once for
each part. After the cut the smaller id stays.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from broker.mesh.limits import MS

__all__ = ["Claim", "Claims"]

CLAIM_MS: Final = 3_000
"""Three claims may be lost: the lifetime of the topic."""
CLAIM_EVERY_MS: Final = 1_000
LISTEN_MS: Final = 3_500
"""A device listens so long after its start before it takes over: a claim's lifetime, and links must come up. Guess."""
SETTLE_MS: Final = 300
"""What a claim takes through the mesh, with room to spare. Guess."""
CLAIMS_MAX: Final = 64
"""Devices attached to one foreign broker; two make sense."""


class Claim(msgspec.Struct, frozen=True):
    """What an attached device says of itself."""

    state: Literal["active", "standby", "gone"]
    connected: bool


_read: Final = msgspec.json.Decoder(Claim).decode
_write: Final = msgspec.json.Encoder().encode


class Claims:
    """The view of one attached device.

    Args:
        device: Its id.
        now_ns: Monotonic time, of its start.
    """

    def __init__(self, device: str, now_ns: int) -> None:
        self.active = False
        self.invalid = 0
        self._device = device
        self.listen_s = LISTEN_MS / 1000
        """Before that it is too early to know who else is attached."""
        self._listen_until_ns = now_ns + LISTEN_MS * MS
        self._others: dict[str, tuple[Claim, int]] = {}
        self._free_since_ns: int | None = None
        self._next_claim_ns = now_ns

    def hear(self, device: str, payload: bytes, now_ns: int) -> None:
        """Take another device's claim; what is none is counted."""
        if device == self._device:
            return
        try:
            claim = _read(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.invalid += 1
            return
        if claim.state == "gone":
            self._others.pop(device, None)
        elif device in self._others or len(self._others) < CLAIMS_MAX:
            self._others[device] = (claim, now_ns)

    def others(self, now_ns: int) -> dict[str, Claim]:
        """The other attached devices that live."""
        for device, (_, heard_ns) in list(self._others.items()):
            if now_ns - heard_ns >= CLAIM_MS * MS:
                del self._others[device]
        return {device: claim for device, (claim, _) in self._others.items()}

    def decide(self, now_ns: int, *, connected: bool) -> bool:
        """Whether this device is the active one now. True when that has changed."""
        before = self.active
        others = self.others(now_ns)
        rivals = [device for device, claim in others.items() if claim.state == "active"]
        if self.active:
            self.active = connected and not any(device < self._device for device in rivals)
        elif (
            not connected
            or rivals
            or now_ns < self._listen_until_ns
            or any(claim.connected and device < self._device for device, claim in others.items())
        ):
            self._free_since_ns = None
        else:
            self._free_since_ns = self._free_since_ns or now_ns
            self.active = now_ns - self._free_since_ns >= SETTLE_MS * MS
        if self.active != before:
            self._free_since_ns = None
            self._next_claim_ns = now_ns
        return self.active != before

    def due(self, now_ns: int) -> bool:
        """Whether this device's claim is to be said again; it is taken as said."""
        if now_ns < self._next_claim_ns:
            return False
        self._next_claim_ns = now_ns + CLAIM_EVERY_MS * MS
        return True

    def claim(self, *, connected: bool) -> bytes:
        """This device's claim."""
        return _write(Claim("active" if self.active else "standby", connected))

    def goodbye(self) -> bytes:
        """The last claim, so that another takes over at once."""
        self.active = False
        return _write(Claim("gone", connected=False))
