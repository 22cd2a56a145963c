"""Every bound of the embedded broker, each with its reason.

Decides: how much of the device one client, one session or all of them may take. Assumes: a
Raspberry Pi class device that also runs an agent within 150 MB. On failure: passing a bound
sheds, stalls or closes as `session.py` and `connection.py` say, and counts it in `statistics()`;
no bound is passed silently.
"""

from dataclasses import dataclass
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * 1024

# Topic names and filters. MQTT allows 65,535 bytes; nothing in the topic contract passes 200, and
# a topic is kept as a key in several tables. Levels bound the depth of the trie. Both a guess
# with room to spare.
TOPIC_BYTES_MAX: Final = 1024
TOPIC_LEVELS_MAX: Final = 64

# A larger thing travels as chunks: one message may not hold a link or the event loop for long.
MESSAGE_BYTES_MAX: Final = 256 * KIB

# The body of the largest PUBLISH: topic length, topic, packet id, payload. No other packet needs
# as much.
PACKET_BYTES_MAX: Final = MESSAGE_BYTES_MAX + TOPIC_BYTES_MAX + 4

# One read: some 500 small messages, about 2 ms of work. More would let one busy client delay the
# rest.
READ_BYTES: Final = 64 * KIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that a test or a small device may change; units as the names say."""

    # Below the usual limit of 1024 open files of a process, which the links and the store share.
    connections_max: int = 512
    # Persistent sessions without a connection keep memory; past this the one longest away goes.
    sessions_max: int = 1024
    subscriptions_per_session_max: int = 1024

    # A socket that says nothing is worth nothing; a slow radio needs a few seconds for the
    # handshake.
    connect_timeout_s: float = 10.0
    # MQTT 3.1.1 section 3.1.2.10.
    keep_alive_factor: float = 1.5

    # QoS 0 waiting for a socket that does not drain, per session. Oldest shed first.
    fresh_queue_bytes_max: int = MIB
    # QoS 1 and 2 sent and not acknowledged. Wide enough that one read of 64 KiB of small messages
    # passes through without stopping (some 500); MQTT 3.1.1 has no way for a client
    # to ask for less.
    inflight_messages_max: int = 1024
    inflight_bytes_max: int = MIB
    # QoS 1 and 2 waiting for that window, or for an absent client to come back.
    kept_queue_messages_max: int = 10_000
    kept_queue_bytes_max: int = 8 * MIB
    # A connected client whose queue is over half full lags. Meanwhile local publishers get no
    # PUBACK and PUBREC, which stops them at their own window (20 for most clients); after this
    # long without catching up to 3/8 the laggard is cut off, so one stuck reader holds them up
    # once.
    lag_max_s: float = 2.0
    # Retained messages on their way to one subscriber: references, not copies, so many are cheap;
    # a client that subscribes over and over without reading stops here.
    replay_messages_max: int = 100_000
    # QoS 2 identifiers that a client has opened and not released.
    incoming_qos2_max: int = 4096

    # Socket buffers: QoS 0 stops being written above high and goes on below low; above the
    # maximum (acknowledgements and in-flight messages that are never read) the client is dropped.
    unsent_bytes_high: int = 256 * KIB
    unsent_bytes_low: int = 64 * KIB
    unsent_bytes_max: int = 4 * MIB
    # Links: two frames of 64 KiB on their way, so that urgent frames wait for at most that much.
    # Above low the node is called once half of it is left: with at most low unsent it has room for
    # a whole frame anyway.
    link_unsent_bytes_high: int = 128 * KIB
    link_unsent_bytes_low: int = 32 * KIB

    # A publisher that the node refuses is not read from for this long altogether, trying at this
    # interval.
    refused_stall_s: float = 10.0
    refused_retry_s: float = 0.02
