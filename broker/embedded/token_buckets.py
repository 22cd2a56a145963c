"""How often one address may do something: connect, or be wrong about a password.

Decides: whether this time is one too many, by a token bucket per address: a burst at once, then a
steady rate. Assumes: a clock that does not go back. On failure: what is over the rate is for the
caller to refuse; the table of addresses is bounded, and an address that it forgets begins with a
full bucket.
"""


class TokenBuckets:
    """A token bucket per address, the address that asked last at the end."""

    def __init__(self, burst: int, per_s: float, addresses_max: int) -> None:
        self._burst = float(burst)
        self._per_s = per_s
        self._addresses_max = addresses_max
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens, and when that was, in seconds

    def take(self, address: str, now_s: float) -> bool:
        """Take a token, if the address has one."""
        tokens, then_s = self._buckets.pop(address, (self._burst, now_s))
        tokens = min(self._burst, tokens + (now_s - then_s) * self._per_s)
        allowed = tokens >= 1
        self._buckets[address] = (tokens - allowed, now_s)
        if len(self._buckets) > self._addresses_max:
            del self._buckets[next(iter(self._buckets))]
        return allowed

    def give_back(self, address: str) -> None:
        """Return a token that was taken: it was for nothing wrong."""
        if address in self._buckets:
            tokens, then_s = self._buckets[address]
            self._buckets[address] = (min(self._burst, tokens + 1), then_s)
