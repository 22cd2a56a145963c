"""How often one address may connect.

Decides: whether a connection that was just accepted is kept, by a token bucket per address: a
burst at once, then a steady rate. Assumes: a clock that does not go back. On failure: a
connection over the rate is closed at once and counted; the table of addresses is bounded, and
an address that it forgets begins with a full bucket.
"""

from broker.embedded.limits import Limits


class Admission:
    """A token bucket per address, the address that connected last at the end."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens, and when that was, in seconds

    def take(self, address: str, now_s: float) -> bool:
        """Let one connection in, if its address has not had too many."""
        burst = float(self._limits.connections_burst_per_address)
        tokens, then_s = self._buckets.pop(address, (burst, now_s))
        tokens = min(burst, tokens + (now_s - then_s) * self._limits.connections_per_address_per_s)
        allowed = tokens >= 1
        self._buckets[address] = (tokens - allowed, now_s)
        if len(self._buckets) > self._limits.addresses_max:
            del self._buckets[next(iter(self._buckets))]
        return allowed
