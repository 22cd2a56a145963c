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

# A client id is a key of several tables and stands in the log; the standard wants 23 to be taken.
CLIENT_ID_BYTES_MAX: Final = 256

# The body of the largest CONNECT: a will of 64 KiB with its topic, and 15 KiB for user name and
# password (a token, say). Whoever is not authenticated yet may hold no more memory than that.
CONNECT_BYTES_MAX: Final = 80 * KIB

# What a browser asks a WebSocket with, cookies and all; servers take 8 KiB as a rule. And what one
# message of a WebSocket may hold, once its client was let in: several packets.
REQUEST_BYTES_MAX: Final = 16 * KIB
WEBSOCKET_MESSAGE_BYTES_MAX: Final = MIB

# The body of the largest PUBLISH: topic length, topic, packet id, payload. No other packet needs
# as much.
PACKET_BYTES_MAX: Final = MESSAGE_BYTES_MAX + TOPIC_BYTES_MAX + 4

# One read: some 500 small messages, about 2 ms of work. More would let one busy client delay the
# rest.
READ_BYTES: Final = 64 * KIB

# What all clients together may take of one turn, to be read and to be written to, before links, timers
# and the agent have theirs: half of one read, since what is read has to be stored and sent on, too. Eight clients that
# send as fast as they can, or a SUBSCRIBE of a thousand filters over a full retained map, would take
# tens of milliseconds and more.
TURN_SLICE_S: Final = 0.001
# Where neighbours are linked, between two slices of clients that have more to do than one. A flood then takes two
# thirds of a core instead of nine tenths, what its messages cost after the slice included, and obstacles are 2.7 ms
# later; 3.8 with 1 ms, 5.8 without a pause (measured on a machine of two cores, docs/bench.md).
SLICE_PAUSE_S: Final = 0.002
# What links that neighbours have dialled may take of one turn together; then whatever came by another
# one has its turn before theirs goes on. A neighbour whose bundles are small and signed costs a
# millisecond for each 2 KB.
LINK_SLICE_S: Final = 0.002


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that a test or a small device may change; units as the names say."""

    # Below the usual limit of 1024 open files of a process, which the links and the store share.
    connections_max: int = 512
    # New connections from one address, of IPv6 from one network (`addresses.py`): everybody at once
    # after a restart (containers and NAT hide many clients behind one address), then as many a
    # second as cost a Pi a fifth of a core by TLS handshakes of 4 ms (guess).
    connections_burst_per_address: int = 512
    connections_per_address_per_s: float = 50.0
    # Addresses and networks that this is remembered of; the one longest silent is forgotten, which
    # forgives it.
    addresses_max: int = 1024
    # Packets that have come in part, of all connections together: 512 clients that each begin the
    # largest message would be 128 MiB.
    incomplete_bytes_max: int = 32 * MIB
    # Wills of all connections together, topics included: 64 of the largest, or 8 KiB for each of 512.
    # Beyond it whoever brings one is not let in.
    wills_bytes_max: int = 4 * MIB
    # Persistent sessions without a connection keep memory; past this the one longest away goes.
    sessions_max: int = 1024
    subscriptions_per_session_max: int = 1024
    # Topics that a session was found to be free to write; emptied when full, finding out takes 2 us.
    writable_topics_max: int = 1024
    # Of all sessions together. A fleet's debugging tools make tens, ten applications hundreds; the
    # broker is measured with 10,000. A level of its own costs 370 bytes (measured), so filters as
    # deep as they may be are bounded by the second figure, to 37 MB.
    subscriptions_max: int = 20_000
    subscription_levels_max: int = 100_000
    # Levels of one session's filters: eight a filter, as the topic contract has. To forget so many
    # with their session takes 4 ms.
    subscription_levels_per_session_max: int = 8192
    # Ways in which wildcards are placed, down to each level, in all filters: a topic is looked for
    # along each, 0.3 us (measured). A fleet's tools make tens; 1,024 filters of `+` and words in
    # turn would make a million.
    subscription_shapes_max: int = 1024

    # A socket that says nothing is worth nothing; a slow radio needs a few seconds for the
    # handshake.
    connect_timeout_s: float = 10.0
    # From CONNECT to its answer: as long as all passwords that may wait take on a Pi (guess: 0.8 s
    # each).
    admission_s: float = 30.0
    # Passwords that wait to be tried, one at a time, each for as long as `broker/passwords.py` says:
    # all programs of a device after its restart.
    passwords_waiting_max: int = 32
    # What one address may have waiting or wrong at once, and how many a second are forgiven: 8,640
    # guesses a day.
    passwords_burst_per_address: int = 16
    passwords_per_address_per_s: float = 0.1
    # After a wrong one nothing is tried for so many times as long: all guessing together takes 20 %
    # of one core.
    wrong_password_pauses: float = 4.0
    # A handshake of TLS or of a WebSocket takes milliseconds; on a Pi behind a mobile network perhaps
    # two seconds.
    handshake_s: float = 10.0
    # At once, of each kind. One holds some 50 KB; beyond it the oldest goes, hardly an honest one.
    handshakes_max: int = 64
    # That begin, of all addresses together, evenly spread. On a Pi a handshake takes 4 ms (guess;
    # 0.8 ms on an x86 server, measured), so that this is a fifth of a core, and what it holds up is
    # held up for one handshake.
    handshakes_per_s: float = 50.0
    # Connections that wait for theirs: a file descriptor each. As many as have their turn in 2.5 s,
    # after which most clients give up and try again.
    guests_max: int = 128
    # Connections beyond `connections_max` that only neighbours may have: as many as links
    # (`links.py`), so that clients never take all places.
    neighbours_max: int = 64
    # Of one member, by its certificate: a message to all of them is a write each, 10 us. A person
    # has a few programs open, a site's computer a few dozen.
    connections_per_member_max: int = 32
    # Connected and without CONNECT, of each listener; beyond it the oldest goes. A client says
    # CONNECT with its first packet.
    strangers_max: int = 128
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
    # Both of all sessions together, in memory and on disk: a few full queues, or a thousand clients
    # with 64 KiB each. Past it the session with the most gives: its client is cut off if it is
    # there, and the older half of its queue goes. Looked at after each 1/64 of it.
    kept_bytes_max: int = 64 * MIB
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
