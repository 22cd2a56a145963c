"""When a device may try a new version: canaries first, the rest after them.

Theory of operation. Each device decides for itself, from what it sees now: who is alive, and what each says of the very
manifest in question on `model-status/`.

    what is seen                                            what this device does
    the manifest asks for no canaries                       goes
    somebody tried it and did not keep it                   holds for good; says who, and why
    less than SETTLE_NS has gone by                         waits: others have not heard of it yet
    as many are healthy on it as there are canaries         goes
    FALLEN_MAX devices fell silent while they watched it    holds; says who
    it is one of the canaries itself                        goes
    a round is over, and its canaries are not healthy       passes over those, and draws anew
    else                                                    waits; says for whom

Those who take part are the devices alive that have said anything of the manifest, and those that died while they
watched it, whose place nobody takes before the round is over. The canaries are the share of them, rounded up, that try
it already or come first by a hash over manifest, round and device. So all draw the same ones as far as they see the
same; where views differ a few more may go first.

Assumes that most devices say what is true: who lies can hold a version back, or wave one through that harmed the
canaries. On failure: a canary that died or says nothing costs a round; each round takes somebody out who did not
answer, until whoever is left is a canary itself. So nobody waits for ever, except where it holds: there an operator
has to publish something newer.
"""

from __future__ import annotations

import math
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["FALLEN_MAX", "ROUND_NS", "RUNNING", "SETTLE_NS", "Clearance", "Rollout", "Said"]

SETTLE_NS: Final = 3_000_000_000
"""From having accepted a manifest to the first draw. A manifest and the answers to it cross a mesh in well under a
second; a device that was just about to say its heartbeat takes one more. Guess, with room."""
ROUND_NS: Final = 60_000_000_000
"""How long a round lasts beyond the health window: to fetch 4 MB at 100 kB/s, and to try it. Guess."""
FALLEN_MAX: Final = 3
"""Devices that died while they watched a version, before it counts as what they died of. Two may be a plug. Guess."""
NAMED_MAX: Final = 3
"""Devices that a reason names."""
ROUNDING: Final = 1e-9
"""A tenth of thirty is three, though as floats it is a little more."""
BAD: Final = frozenset({"failed", "rolled-back"})
RUNNING: Final = frozenset({"watched", "active"})
"""States of a version that is in use."""


class Said(NamedTuple):
    """What a device says of the manifest."""

    state: str
    """As `agent.messages.ModelStatus` has it."""
    reason: str = ""


class Clearance(NamedTuple):
    """Whether this device may try it."""

    state: Literal["go", "waiting", "held"]
    reason: str = ""


GO: Final = Clearance("go")


class Rollout:
    """Of one manifest on one device.

    Args:
        manifest: Its digest.
        share: Of the devices, those that go first; 0: all at once.
        window_s: For how long a device watches the version before it counts as healthy.
        device: This one.
        now_ns: Monotonic; when the manifest was accepted.
    """

    def __init__(
        self, manifest: str, share: float, window_s: float, device: str, now_ns: int
    ) -> None:
        self._manifest = manifest
        self._share = share
        self._device = device
        self._settled_ns = now_ns + SETTLE_NS
        self._lasts_ns = round(window_s * 1e9) + ROUND_NS
        self._ends_ns = self._settled_ns
        self._passed_over: set[str] = set()
        """Canaries of earlier rounds that did not get well in time."""
        self.round = 0
        """0: nothing was drawn yet."""
        self._harmed: Clearance | None = None
        """Once somebody did not keep it nothing undoes that: who restarts says something else for a moment."""

    def look(self, alive: Collection[str], said: Mapping[str, Said], now_ns: int) -> Clearance:
        """What to do now.

        Args:
            alive: The other devices that are alive.
            said: What other devices said last, of those that said it of this manifest.
            now_ns: Monotonic.
        """
        if not self._share:
            return GO
        bad = sorted(name for name, each in said.items() if each.state in BAD)
        if bad and self._harmed is None:
            self._harmed = Clearance(
                "held", f"{_names(bad)} did not keep it: {said[bad[0]].reason}"
            )
        if self._harmed is not None:
            return self._harmed
        if now_ns < self._settled_ns:
            return Clearance("waiting", "others may not have heard of it")
        healthy = {name for name in alive if name in said and said[name].state == "active"}
        if now_ns >= self._ends_ns:
            if self.round:
                self._passed_over |= set(self._canaries(alive, said)) - healthy
            self.round += 1
            self._ends_ns = now_ns + self._lasts_ns
        canaries = self._canaries(alive, said)
        if len(healthy) >= len(canaries):
            return GO
        fallen = sorted(name for name in _watching(said) if name not in alive)
        if len(fallen) >= FALLEN_MAX:
            return Clearance("held", f"{_names(fallen)} fell silent while they watched it")
        if self._device in canaries:
            return GO
        awaited = [name for name in canaries if name not in healthy]
        return Clearance("waiting", f"for {_names(awaited)} to try it, round {self.round}")

    def _canaries(self, alive: Collection[str], said: Mapping[str, Said]) -> list[str]:
        """Those of this round."""
        taking_part = {name for name in alive if name in said}.union(_watching(said))
        taking_part -= self._passed_over
        taking_part.add(self._device)
        count = math.ceil(self._share * len(taking_part) - ROUNDING)

        def place(name: str) -> tuple[bool, bytes]:
            trying = name in said and said[name].state in RUNNING
            drawn = f"{self._manifest} {self.round} {name}"
            return not trying, sha256(drawn.encode()).digest()

        return sorted(taking_part, key=place)[: max(count, 1)]


def _watching(said: Mapping[str, Said]) -> list[str]:
    return [name for name, each in said.items() if each.state == "watched"]


def _names(names: list[str]) -> str:
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more
