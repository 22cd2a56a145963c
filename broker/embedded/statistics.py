"""What the embedded broker counts, and an immutable record of it for whoever asks.

Decides: nothing. Assumes: one event loop. On failure: nothing can fail. Counts go up only and
start at zero with the process; a reader takes differences.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Counts since start."""

    messages_in: int = 0  # PUBLISH taken from clients, link frames not included
    messages_out: int = 0  # PUBLISH written to clients, link frames not included
    bytes_in: int = 0  # all connections, links included
    bytes_out: int = 0
    link_frames_in: int = 0
    link_frames_out: int = 0
    shed: int = 0  # QoS 0 dropped because a subscriber does not keep up
    dropped_offline: int = 0  # QoS 1 and 2 dropped from the full queue of an absent client
    slow_consumers: int = 0  # connections ended because a client does not keep up
    malformed: int = 0  # connections ended because of what a client sent
    ignored: int = 0  # publishes on topics that clients may not write: $... and mesh/...
    forbidden: int = 0  # publishes on topics that are not the client's to write
    last_forbidden: str = ""  # the last one's topic, and who it was
    subscriptions_refused: int = 0  # filters that a SUBACK answered with 0x80
    refused: int = 0  # publishes lost at QoS 0, or clients given up on, because the node was full
    wills_refused: int = 0  # connections refused since all wills together are too long
    logins_refused: int = 0  # wrong user name or password, or none where there must be one
    logins_put_off: int = 0  # passwords that were not tried: too many, or too many wrong ones
    last_login_refused: str = ""  # the last of both: why, and from where
    connections_refused: int = 0  # over the limit of connections, or of their rate
    handshakes_dropped: int = 0  # of TLS, the oldest of too many at once
    timed_out: int = 0  # no CONNECT in time, or silent for longer than the keep-alive allows
    not_committed: int = 0  # connections ended because the node could not keep what they published
    last_slow_consumer: str = ""  # the last one's client id, and why


@dataclass(frozen=True, slots=True)
class Statistics:
    """The broker at one moment: how many of each now, and the counters."""

    connections: int
    sessions: int
    subscriptions: int
    counters: Counters
    users: int | None = None  # who may come by a password; None: names are not looked at
    users_problem: str = ""  # why none of them can now
