"""Who is alive: a phi accrual failure detector, fed by heartbeats and by links that break.

Theory of operation. Every device's heartbeats arrive at intervals of a certain mean and spread. The
longer the present silence is by comparison, the less likely it is mere delay; phi is the negative
logarithm of that likelihood. A device is taken for alive until phi reaches the threshold.

    event                      patience with that device from its last heartbeat
    first heartbeat            that of a device heard once a second, give or take a quarter
    heartbeat while alive      learns the interval
    heartbeat while dead       alive again; the silence is an outage and is not learnt
    a link to it broke         the acceptable pause is withdrawn until its next heartbeat
    it said goodbye            none, and no heartbeat of that incarnation revives it
    our own loop is late       longer: it is us who did not listen (Lifeguard's local health)

Decides: who is alive now, as far as this device can tell. Assumes: `now_ns` is monotonic, and
heartbeats come about once a second. On failure: slow heartbeats raise the patience by themselves; a
device suspected wrongly comes back with its next heartbeat.
Source: Hayashibara et al. 2004 with the parameters of Pekko's `PhiAccrualFailureDetector`, its
logistic approximation of the normal distribution, and memberlist's `awareness.go`.
"""

import math
from array import array
from typing import Final, NamedTuple

from agent.limits import HEALTH_MAX, LAG_TOLERATED_NS, PEERS_MAX
from agent.view import View

__all__ = ["Liveness", "Peer", "patience_ms", "phi"]

THRESHOLD: Final = 8.0
"""One wrong suspicion in 10**8 silences of this length. Pekko's default."""
HEARTBEAT_MS: Final = 1_000
"""Expected of a device that was heard only once."""
PAUSE_MS: Final = 3_000
"""Silence that is acceptable beyond the mean. Pekko's default."""
DEVIATION_MS_MIN: Final = 100.0
"""However regular the heartbeats are. Pekko's default."""
INTERVALS_MAX: Final = 1_000
"""Intervals that are remembered per device: 8 KB. Pekko's default."""

_MS: Final = 1_000_000
_US: Final = 1_000


def phi(elapsed_ms: float, mean_ms: float, deviation_ms: float) -> float:
    """Suspicion after a silence: -log10 of how likely it is to be this long or longer."""
    y = (elapsed_ms - mean_ms) / deviation_ms
    exponent = y * (1.5976 + 0.070566 * y * y)
    if exponent > 500:
        return math.inf  # beyond what a float's exponent can say of e**-x / (1 + e**-x)
    if exponent < -500:
        return 0.0
    tail = math.exp(-exponent)
    return -math.log10(tail / (1.0 + tail))


def _deviations_at(threshold: float) -> float:
    """How many standard deviations beyond the mean `phi` reaches `threshold`."""
    exponent = math.log(10.0**threshold - 1.0)
    y = 1.0
    for _ in range(40):  # Newton's method; it doubles the right digits each time
        y -= (y * (1.5976 + 0.070566 * y * y) - exponent) / (1.5976 + 0.211698 * y * y)
    return y


_DEVIATIONS: Final = _deviations_at(THRESHOLD)


def patience_ms(mean_ms: float, deviation_ms: float) -> float:
    """The silence at which `phi` reaches the threshold; its inverse, so that asking is cheap."""
    return mean_ms + deviation_ms * _DEVIATIONS


class Peer(NamedTuple):
    """What is known of another device's life."""

    incarnation: int
    """Its boot, as its newest heartbeat says."""
    heard_ns: int
    """When its newest heartbeat came, monotonic."""
    patience_ns: int
    """Silence after which it is taken for dead, before our own lateness is allowed for."""

    def is_alive(self, now_ns: int, factor: int) -> bool:
        """Whether its silence is within the patience, times `factor`."""
        return now_ns - self.heard_ns < self.patience_ns * factor


class _Intervals:
    """The last intervals between heartbeats, in microseconds, with their sums kept exactly."""

    __slots__ = ("_at", "_sum", "_sum_of_squares", "_window")

    def __init__(self) -> None:
        self._window = array("q")
        self._at = 0
        self._sum = 0
        self._sum_of_squares = 0
        quarter_us = HEARTBEAT_MS * _US // 4
        self.add(HEARTBEAT_MS * _US - quarter_us)
        self.add(HEARTBEAT_MS * _US + quarter_us)

    def add(self, interval_us: int) -> None:
        if len(self._window) < INTERVALS_MAX:
            self._window.append(interval_us)
        else:
            oldest = self._window[self._at]
            self._window[self._at] = interval_us
            self._at = (self._at + 1) % INTERVALS_MAX
            self._sum -= oldest
            self._sum_of_squares -= oldest * oldest
        self._sum += interval_us
        self._sum_of_squares += interval_us * interval_us

    def mean_and_deviation_ms(self) -> tuple[float, float]:
        count = len(self._window)
        # count**2 times the variance is an integer, so nothing is lost by cancellation.
        scaled = count * self._sum_of_squares - self._sum * self._sum
        deviation_ms = math.sqrt(scaled) / count / _US
        return self._sum / count / _US, max(deviation_ms, DEVIATION_MS_MIN)


class Liveness:
    """All other devices of the site, by what was heard of them."""

    __slots__ = ("_ended", "_intervals", "health", "peers")

    def __init__(self) -> None:
        self.peers: View[str, Peer] = View()
        """By device: all that were heard and have not left, at most `PEERS_MAX`."""
        self._intervals: dict[str, _Intervals] = {}
        self._ended: dict[str, int] = {}
        self.health = 0
        """0 (well) to `HEALTH_MAX`: how late our own event loop has been lately."""

    @property
    def factor(self) -> int:
        """What every patience is multiplied by: 1 when our own loop is well."""
        return self.health + 1

    def heartbeat(self, device: str, incarnation: int, now_ns: int) -> None:
        """A heartbeat came."""
        if incarnation <= self._ended.get(device, -1):
            return  # it was under way when the device said goodbye
        self._ended.pop(device, None)
        known = self.peers.get(device)
        if known is None:
            self._make_room()
            intervals = self._intervals[device] = _Intervals()
        else:
            intervals = self._intervals[device]
            if known.incarnation == incarnation and known.is_alive(now_ns, self.factor):
                intervals.add((now_ns - known.heard_ns) // _US)
        mean_ms, deviation_ms = intervals.mean_and_deviation_ms()
        patience_ns = int(patience_ms(mean_ms + PAUSE_MS, deviation_ms) * _MS)
        self.peers.set(device, Peer(incarnation, now_ns, patience_ns))

    def link_lost(self, device: str) -> None:
        """A link to `device` broke, ours or another's: expect its next heartbeat without delay."""
        known = self.peers.get(device)
        if known is not None:
            mean_ms, deviation_ms = self._intervals[device].mean_and_deviation_ms()
            patience_ns = int(patience_ms(mean_ms, deviation_ms) * _MS)
            self.peers.set(device, known._replace(patience_ns=patience_ns))

    def left(self, device: str, incarnation: int) -> None:
        """`device` said goodbye in this incarnation."""
        known = self.peers.get(device)
        if known is not None and known.incarnation > incarnation:
            return
        self._forget(device)
        self._ended[device] = max(incarnation, self._ended.pop(device, -1))
        if len(self._ended) > PEERS_MAX:
            del self._ended[next(iter(self._ended))]

    def loop_lag(self, lag_ns: int) -> None:
        """How late our event loop ran a timer; tell it about once a second."""
        step = 1 if lag_ns > LAG_TOLERATED_NS else -1
        self.health = min(max(self.health + step, 0), HEALTH_MAX)

    def alive(self, now_ns: int) -> tuple[str, ...]:
        """The devices that are alive, sorted."""
        factor = self.factor
        return tuple(
            sorted(
                name for name, peer in self.peers.frozen().items() if peer.is_alive(now_ns, factor)
            )
        )

    def phi(self, device: str, now_ns: int) -> float:
        """Suspicion of `device`, the acceptable pause allowed for; infinite if it is unknown."""
        known = self.peers.get(device)
        if known is None:
            return math.inf
        mean_ms, deviation_ms = self._intervals[device].mean_and_deviation_ms()
        return phi((now_ns - known.heard_ns) / _MS, mean_ms + PAUSE_MS, deviation_ms)

    def _make_room(self) -> None:
        """Forget whoever was silent for the longest, when there are too many."""
        if len(self.peers) >= PEERS_MAX:
            known = self.peers.frozen()
            self._forget(min(known, key=lambda device: (known[device].heard_ns, device)))

    def _forget(self, device: str) -> None:
        self.peers.set(device, None)
        self._intervals.pop(device, None)
