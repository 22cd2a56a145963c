"""One neighbour as a source of chunks: what it says it has, how fast it is, and whether it is worth asking.

Decides how many chunks may be under way from it, by how long they take; how long one is waited for; and when it is
left alone. Strikes are for silence, which may pass; wrong bytes cannot be an accident of the way, since every hop
checks what it carries, and end the matter for ten minutes. No clock: `now_ns` is an argument.
"""

from __future__ import annotations

from agent.models.limits import (
    ASK_CHUNKS_MAX,
    AVOID_MAX_NS,
    AVOID_NS,
    DECLINED_MAX,
    PATIENCE_FACTOR,
    PATIENCE_FIRST_NS,
    PATIENCE_MAX_NS,
    PATIENCE_MIN_NS,
    PAUSE_MAX_NS,
    PAUSE_NS,
    QUEUE_NS,
    REASK_FIRST_NS,
    REASK_NS,
    SEED_FACTOR,
    SERVICE_MIN_NS,
    STRIKES_MAX,
)

__all__ = ["Source"]

_WEIGHT = 4
"""Weight of the past in the smoothed times."""


class Source:
    """A neighbour, while there is a link to it."""

    __slots__ = (
        "_asked_ns",
        "_asked_times",
        "_avoided_times",
        "_declined",
        "_latency_ns",
        "_service_ns",
        "_strikes",
        "asking",
        "avoided_until_ns",
        "have",
        "known",
        "paused_until_ns",
        "told",
        "told_ns",
        "under_way",
        "window",
    )

    def __init__(self, now_ns: int) -> None:
        self.have = 0
        """Chunks that it says it has, a bit each."""
        self.known = False
        """Whether it has to do with this content."""
        self.told = 0
        """What it was told that this device has."""
        self.told_ns = 0
        self.under_way: dict[int, tuple[int, int]] = {}
        """By chunk that was asked for: when, and how many were under way with it."""
        self.window = 1
        self.asking = False
        """Whether a question is open."""
        self._asked_ns = now_ns
        self.paused_until_ns = now_ns
        self.avoided_until_ns = now_ns
        self._service_ns = SERVICE_MIN_NS
        self._latency_ns: int | None = None
        self._strikes = self._declined = self._avoided_times = self._asked_times = 0

    def usable(self, now_ns: int) -> bool:
        """Whether it may be asked at all."""
        return now_ns >= self.avoided_until_ns

    def cost_ns(self, everything: int, now_ns: int) -> int:
        """How long the next chunk from it would take; more if it has everything, so that it is spared."""
        cost_ns = (len(self.under_way) + 1) * max(self._service_ns, SERVICE_MIN_NS)
        if self.under_way:
            oldest_ns = next(iter(self.under_way.values()))[0]
            cost_ns = max(cost_ns, now_ns - oldest_ns)
        return cost_ns * SEED_FACTOR if self.have == everything else cost_ns

    def asked(self, now_ns: int) -> None:
        """A question is put. Who has nothing to do with the content may be about to: it is asked again soon."""
        self.asking = True
        self._asked_ns = now_ns
        self._asked_times += 1

    @property
    def due_ns(self) -> int:
        """When to ask what it has, if nothing is wanted of it before."""
        if not self._asked_times:
            return self._asked_ns
        if self.known:
            return self._asked_ns + REASK_NS
        return self._asked_ns + min(REASK_FIRST_NS << min(self._asked_times - 1, 16), REASK_NS)

    @property
    def patience_ns(self) -> int:
        """How long to wait for a chunk."""
        if self._latency_ns is None:
            return PATIENCE_FIRST_NS
        usual_ns = PATIENCE_FACTOR * self._latency_ns
        return min(max(usual_ns, PATIENCE_MIN_NS), PATIENCE_MAX_NS)

    @property
    def late_ns(self) -> int | None:
        """When the oldest chunk under way is late."""
        if not self.under_way:
            return None
        return next(iter(self.under_way.values()))[0] + self.patience_ns

    def came(self, index: int, now_ns: int) -> None:
        """It sent a chunk, and the bytes are right."""
        self._strikes = self._declined = 0
        asked = self.under_way.pop(index, None)
        if asked is None:
            return
        asked_ns, company = asked
        latency_ns = now_ns - asked_ns
        past_ns = latency_ns if self._latency_ns is None else self._latency_ns
        self._latency_ns = past_ns + (latency_ns - past_ns) // _WEIGHT
        self._service_ns += (latency_ns // company - self._service_ns) // _WEIGHT
        if latency_ns <= QUEUE_NS:
            self.window = min(self.window + 1, ASK_CHUNKS_MAX)
        elif latency_ns > 2 * QUEUE_NS:
            self.window = max(1, self.window - 1)

    def declined(self, now_ns: int, *, claims: bool) -> None:
        """It gives nothing of what was asked for; `claims`: though it says that it has it."""
        pause_ns = PAUSE_NS << min(self._declined, 16)
        self.paused_until_ns = now_ns + min(pause_ns, PAUSE_MAX_NS)
        self._declined += 1
        if claims and self._declined >= DECLINED_MAX:
            self._avoid(now_ns)

    def strike(self, now_ns: int) -> None:
        """It was silent, or what it said cannot be read."""
        self._strikes += 1
        self.window = 1
        self._service_ns = max(self._service_ns, PATIENCE_MIN_NS)  # others first, from now on
        if self._strikes >= STRIKES_MAX:
            self._avoid(now_ns)

    def lied(self, now_ns: int) -> None:
        """It sent wrong bytes."""
        self.avoided_until_ns = now_ns + AVOID_MAX_NS

    def _avoid(self, now_ns: int) -> None:
        avoid_ns = AVOID_NS << min(self._avoided_times, 16)
        self.avoided_until_ns = now_ns + min(avoid_ns, AVOID_MAX_NS)
        self._avoided_times += 1
        self._strikes = self._declined = 0
