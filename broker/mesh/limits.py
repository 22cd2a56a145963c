"""Every bound of the mesh core, with the reason for its number.

Units stand last in each name. "Guess" means that nobody has measured it yet.
"""

from typing import Final

MS: Final = 1_000_000
"""Nanoseconds in a millisecond."""

# What travels
MESSAGE_BYTES_MAX: Final = 256 * 1024
"""Payload of one message. Larger things travel as chunks, so that nothing urgent waits behind them."""
TOPIC_BYTES_MAX: Final = 1024
"""MQTT allows 65,535; nobody's hierarchy needs a thousand, and retained maps hold every topic."""
BUNDLE_BYTES_MAX: Final = 64 * 1024
"""A bundle is sealed early at this size; measured: 50 to 200 messages a bundle already reach the plateau."""
FRAME_BYTES_MAX: Final = 64 * 1024
"""One MQTT publish between neighbours. About 0.5 ms on 1 Gbit/s, 50 ms on a 10 Mbit/s radio."""
ORIGIN_BYTES_MAX: Final = 32
"""Device ids are `[a-z0-9-]{1,32}` by the topic contract."""
BUNDLE_MESSAGES_MAX: Final = 4096
"""Bounds the work that one header can announce; 64 KiB of the smallest messages are about 4,000."""
BODY_BYTES_MAX: Final = MESSAGE_BYTES_MAX + FRAME_BYTES_MAX
"""One message of the largest size, or as many as fit BUNDLE_BYTES_MAX, and what surrounds them."""
COMPRESS_BYTES_MIN: Final = 1024
"""Below it there is little to find: ten obstacle updates are 1.9 KB."""
COMPRESSION_RATIO_MAX: Final = 64
"""How many bytes of a body one byte of a link may become. JSON that repeats itself gives 5 to 15; LZ4 could give 255,
which would let few bytes cause more work than as many small bundles do."""
TAG_BYTES_MAX: Final = 256
"""A key, a SHA-256 body digest and a signature are 112 bytes; the rest is room."""
CERTIFICATE_BYTES_MAX: Final = 4_096
"""Of an origin, in DER: 600 bytes with a handful of host names."""

# What is not believed yet
PARKED_MAX: Final = 256
"""Bundles that wait for the certificate of their origin, for a round trip. Guess."""
PARKED_BYTES_MAX: Final = 2 * 1024 * 1024
"""The same in bytes: a quarter of what may wait for a hole to close."""
WHO_AGAIN_MS: Final = 1_000
"""A neighbour is asked for the same certificate again after this long. A round trip over a radio is a tenth. Guess."""
WHO_ASKED_MAX: Final = 4_096
"""Questions for certificates that are remembered: those of 2,000 devices by two neighbours."""
VOUCHED_MAX: Final = 16
"""Certificates in one record: half a frame of them at their longest would be eight, at their usual length sixty."""
REPLAYED_MS: Final = 60_000
"""What is stamped so far before the present, or before the end of its lifetime, is yesterday's. A device without time
learns it from its first neighbour; only what it said before is stamped in the past. Guess."""

REFUSED_ORIGINS_MAX: Final = 32
"""Devices whose messages that are not theirs to say are counted by name. As many as a person reads. Guess."""

# What is remembered
STREAMS_MAX: Final = 20_000
"""(origin, lane) pairs: 2,000 devices with every lane in use. About 300 bytes each."""
LOG_BYTES_MAX: Final = 32 * 1024 * 1024
"""Kept bundles held for repair: 30 s of 5,000 messages a second at 200 bytes; a Pi Zero 2 has 512 MB."""
LOG_BUNDLES_MAX: Final = 50_000
"""Small bundles cost about 500 bytes of objects each, which LOG_BYTES_MAX does not see."""
OWN_KEPT_BYTES: Final = 1024 * 1024
"""Of own bundles that neighbours hold, so much of each lane stays on disk: their holders may restart. About 6,000
obstacle updates; a boot decodes them. Guess."""
OWN_KEPT_BUNDLES: Final = 1_024
"""The same in bundles."""
WAITING_BUNDLES_MAX: Final = 1_024
"""Bundles of one stream that wait for a gap to close. Beyond it the farthest is dropped; repair brings it back."""
WAITING_BYTES_MAX: Final = 8 * 1024 * 1024
"""The same over all streams. Guess: half the log."""
WINDOW_NUMBERS: Final = 1_024
"""How far behind the newest a fresh or a unicast bundle may come and still be told from a copy; and how far apart
numbers of unicast under way may lie. Four times UNICAST_FLIGHTS_MAX."""
FRESH_TOPICS_MAX: Final = 20_000
"""Topics whose newest clock is remembered, so that an older value never follows a newer one."""
RETAINED_TOPICS_MAX: Final = 20_000
"""Where a message enters. At 200 bytes each: 4 MB."""
RETAINED_BYTES_MAX: Final = 32 * 1024 * 1024
"""The same in payload and topic bytes."""
PROOFS_BYTES_MAX: Final = RETAINED_BYTES_MAX + 400 * RETAINED_TOPICS_MAX
"""Bundles of retained values, kept as proofs where one is needed: the values that may enter, and 400 bytes around each.
Beyond it a value is given to nobody until its origin says it again."""
RETAINED_HARD_FACTOR: Final = 2
"""A merge may reach this many times the two limits above, then the oldest version goes, everywhere the same."""
TOMBSTONE_MS: Final = 10 * 24 * 3600 * 1000
"""How long a deletion is remembered: Pekko's durable figure of 10 days, since edge fleets sleep for days."""

# Links
OUTBOX_BYTES_MAX: Final = 4 * 1024 * 1024
"""Queued for one neighbour. More is dropped and repaired by digest: a queue is never the promise."""
OUTBOX_BUNDLES_MAX: Final = 8_192
"""The same in bundles."""
PRESSED_BYTES: Final = 2 * 1024 * 1024
"""Queued for one neighbour that reads: beyond it publishers wait, and nobody gets new credit. Half the bound."""
PRESSED_BUNDLES: Final = 4_096
"""The same in bundles."""
CROWDED_BYTES: Final = 2560 * 1024
"""Beyond it clients are refused: what a device itself has to say still finds room. Between the two around it."""
REFUSED_BYTES: Final = 3 * 1024 * 1024
"""Beyond it a kept publish is refused, before the queue's bound would drop it and leave it to repair."""
CREDIT_BYTES: Final = 1024 * 1024
"""What a neighbour may send before it hears that it was logged: 100 Mbit/s over a round trip of 80 ms."""
CREDIT_STEP_BYTES: Final = 128 * 1024
"""Less than this is not worth a record. Two frames."""
STALL_MS: Final = 2_000
"""A neighbour to which nothing could be sent for so long gets no more bundles until it reads again. As SILENCE_MS."""
CONTROL_RECORDS_MAX: Final = 1_024
"""Control records queued for one neighbour; one that asks without reading is not answered any more."""
CONTROL_BYTES_MAX: Final = 2 * 1024 * 1024
"""The same in bytes: twice a digest of STREAMS_MAX streams."""
RECORDS_MAX: Final = 2_048
"""Records in one frame; bounds the work of decoding it."""
BAD_FRAMES_MAX: Final = 8
"""Bad frames from one neighbour before its link is closed. One may be a cosmic ray, eight are a fault. Guess."""
BAD_FRAMES_FORGET_MS: Final = 60_000
"""Bad frames are counted within this window. Guess."""
DIGEST_ENTRIES_MAX: Final = 1_024
"""Entries in one digest record (about 40 bytes each); the rest follows in the next record."""
ACQUAINTANCES_MAX: Final = 16
"""Neighbours without a link whose streams are remembered: more than a device has links. 150 bytes a stream. Guess."""
TOLD_BEFORE_MAX: Final = 2
"""Digests that are said again when one did not add up: the one that was lost and the one that showed it."""
ENTRY_HASHES_MAX: Final = 4_096
"""Hashes of digest entries that are remembered: all neighbours say the same of a stream. About 1.5 MB."""
WANT_RANGES_MAX: Final = 512
"""Ranges in one request."""
RANGE_LIST_MAX: Final = 16
"""Entries of a range that are listed instead of narrowed: 16 versions are about 500 bytes, 16 fingerprints 128."""
RANGES_MAX: Final = 512
"""Ranges, or topics asked for, in one record."""
RECONCILE_RECORD_BYTES: Final = 32 * 1024
"""A record of an exchange is closed at about this size: half a frame."""
RECONCILE_DUE_MAX: Final = RETAINED_TOPICS_MAX * RETAINED_HARD_FACTOR
"""Ranges, values and questions that wait for room in a frame to one neighbour: as many as a map has entries."""
RECONCILE_WORK_MAX: Final = 128 * 1024
"""Ranges and topics that one neighbour may have looked at within RECONCILE_WORK_MS: two whole exchanges of maps at the
hard cap that have nothing in common are 90,000."""
WANT_HOLES_MAX: Final = 16
"""Holes of one stream asked for at a time; the next follow when these are closed."""
WANT_FRUITLESS_MAX: Final = 6
"""Requests that a neighbour may leave unanswered before its claim to hold what is missing counts for nothing. Guess."""
ANNOUNCE_ENTRIES_MAX: Final = 1_024
"""Announcements in one record, about 20 bytes each."""
SHAPE_ORIGINS_MAX: Final = 1_024
"""Origins in one record of grafts and prunes."""
WORK_MAX: Final = 4_000_000
"""Steps of work that one neighbour may cause within WORK_MS, of 0.1 to 1 us each: a log of LOG_BUNDLES_MAX
asked for twenty times over, or a hundred digests of STREAMS_MAX streams. Guess."""
WORK_QUESTION: Final = 500
"""Steps that a ping, a hello or another question is charged: 800 a second, where two pings are usual."""
WORK_SERVED: Final = 4
"""Steps of a bundle that was asked for."""
WORK_CERTIFICATE: Final = 1_000
"""Steps of a certificate: two signatures to verify, 0.3 ms on this machine; 4,000 in a window."""
WORK_PROOF: Final = 3
"""Of RECONCILE_WORK_MAX, for a retained value with its proof: a map at the hard cap in one window. One whose tag has to
be checked takes 70 us; a neighbour can have as many bundles checked."""
WORK_SHAPE: Final = 20
"""Steps of a graft or a prune: a lost link may regraft STREAMS_MAX origins at once, and copies prune as many."""
OPEN_BYTES_MAX: Final = 16 * 1024 * 1024
"""Published and not yet sealed, within one turn: a publisher that never yields is told."""

# Unicast
ROUTES_MAX: Final = 20_000
"""Devices to which a way is known: as many as may have streams, at about 200 bytes each."""
UNICAST_HOPS_MAX: Final = 32
"""A loop of ways ends here. Three times the diameter of a ring of 20; graphs of degree 6 reach thousands in 6."""
UNICAST_LIFETIME_MAX_MS: Final = 600_000
"""What takes longer than ten minutes is no call; publish it kept."""
UNICAST_FLIGHTS_MAX: Final = 256
"""Bundles under way to one device. Guess: more calls at once than one device can serve."""
UNICAST_BYTES_MAX: Final = 1024 * 1024
"""The same in bytes: 50 ms of round trip at 20 MB/s."""
UNICAST_ALL_FLIGHTS_MAX: Final = 2_048
"""Bundles under way to all devices; about 1 KB of objects each."""
UNICAST_ALL_BYTES_MAX: Final = 8 * 1024 * 1024
"""The same in bytes. Guess: half the log."""
UNICAST_DESTINATIONS_MAX: Final = 4_096
"""Devices whose numbers and round trips are remembered; more than UNICAST_ALL_FLIGHTS_MAX, so one is idle."""
UNICAST_SENDERS_MAX: Final = 4_096
"""(origin, incarnation) pairs whose numbers a destination remembers, at about 400 bytes each."""
UNICAST_PASSING_MAX: Final = 4_096
"""Bundles on their way through a relay, remembered for the way back; beyond it the origin's timer has to do."""
UNICAST_RETRIES_MAX: Final = 16
"""How often one bundle is sent again at once because a relay says that it knows another way. Guess."""

# Time
UNICAST_RESEND_FIRST_MS: Final = 500
"""Before a destination's round trip is known. RFC 6298 says 1 s; four hops of 50 ms radio are 400 ms."""
UNICAST_RESEND_MIN_MS: Final = 100
"""No sooner than this: the other side may be busy for a turn. Linux TCP: 200 ms."""
UNICAST_RESEND_MAX_MS: Final = 2_000
"""No later, so that a way that opens is found: a link's silence takes as long to be noticed. Guess."""
TICK_MS: Final = 1_000
"""Housekeeping: expiry of logged bodies, end of joining and rebuilding."""
PING_MS: Final = 500
"""Probe of a link, half as often while it is answered, and not while the neighbour speaks; two may be lost before
SILENCE_MS."""
RTT_MS: Final = 5_000
"""A neighbour that speaks is asked for its round trip so often: a path seldom changes faster. Guess."""
SILENCE_MS: Final = 2_000
"""A link that says nothing for so long is closed and dialled again. TCP alone would wait for minutes."""
DIGEST_MS: Final = 1_000
"""One random link is compared this often, to begin with. VerneMQ: 5 s; Scuttlebutt: 1 s; zenoh: 10 s."""
DIGEST_MS_MIN: Final = 250
"""The same while digests bring losses to light: four a second are what a Pi does without noticing. Guess."""
DIGEST_MS_MAX: Final = 2_000
"""The same while nothing is missing, or queues are long: the last message before a silence may wait so long. Guess."""
DIGEST_LINKS_MAX: Final = 3
"""Links compared at a time while there are losses. Guess."""
WANT_DELAY_MS: Final = 40
"""How long a hole may be merely reordering before it is asked for. Plumtree's second timer in iroh: 40 ms."""
WANT_RETRY_MS: Final = 400
"""A request that brings nothing is put to another neighbour after this long, or four round trips. Guess."""
RECONCILE_SOON_MS: Final = 200
"""Retained maps that differ are compared again after this long: what was under way has arrived by then. Guess."""
RECONCILE_LATE_MS: Final = 1_000
"""They are reconciled after this long even while a log can bring what is missing: under steady load it always can."""
RECONCILE_PAUSE_MS: Final = 500
"""From one exchange with a neighbour to the next; doubles while they change nothing that stays."""
RECONCILE_PAUSE_MAX_MS: Final = 16_000
"""Where the doubling ends. Two maps that cannot agree cost about 1 KB in this time."""
RECONCILE_WORK_MS: Final = 10_000
"""See RECONCILE_WORK_MAX."""
WORK_MS: Final = 10_000
"""See WORK_MAX."""
ANNOUNCE_MS: Final = 80
"""Announcements wait so long for company: fewer frames, and often the neighbour is first. iroh: 5 ms; a guess."""
GRAFT_MS: Final = 80
"""What was announced and does not come within this, or three round trips, shows a broken tree. iroh's first timer."""
GRAFT_AGAIN_MS: Final = 40
"""The next announcer is asked after this, or one round trip. iroh's second timer."""
OPTIMISE_HOPS: Final = 3
"""A lazy path that is so many links shorter replaces the eager one. The paper takes 7 among 10,000 nodes; a guess."""
WANT_HELD_BACK_MS: Final = 2_000
"""The same while the neighbour's own bundles are held back for coming from the future: it would resend in vain."""
GAP_WAIT_MS: Final = 5_000
"""A hole is declared lost when its origin is a neighbour and has not been able to fill it for this long. Guess."""
GAP_AWAY_MS: Final = 15_000
"""The same when the origin is no neighbour: it may be behind a cut that heals. What follows the hole waits. Guess."""
REBUILD_RETRY_MS: Final = 2_000
"""A request for lost memory that brought nothing is put to a neighbour again after this long."""
REBUILD_ASKS_MAX: Final = 15
"""Requests for the memory of one stream; what the log evicts meanwhile would be asked for without end. A bundle in
three parts takes nine through a hub that loses every third frame and lets others overtake."""
JOIN_WAIT_MS: Final = 3_000
"""A device without any memory waits so long for a neighbour with history before it counts what it hears. Guess."""
REBUILD_MS: Final = 60_000
"""After the first link of a boot, older bundles are taken as memory for so long. Guess."""
CLOCK_AHEAD_MAX_MS: Final = 500
"""A neighbour's own bundles from farther in the future wait. uhlc's default."""
BOUND_SLACK_MS: Final = CLOCK_AHEAD_MAX_MS // 2
"""Stamps left out after a boot with a wrong wall clock: a death before the commit forgets those of one turn, a power
cut those that were not synced. As many as nobody holds back."""
CLOCK_HOLD_BACK_MS: Final = 30_000
"""They wait for at most this long, time enough for NTP: a wrong clock must not mute a device. Guess."""
CLOCK_MAX: Final = 1 << 60
"""Hybrid stamps of others stay below it: the year 2527."""
CLOCK_FOLLOWED_MAX: Final = 1 << 59
"""Nobody follows a stamp from 2248 on: a clock put so far would have no room to count on below CLOCK_MAX."""
INCARNATION_KNOWN_MAX: Final = 1 << 31
"""What a neighbour may claim to know; half the range is left for boots."""
CLOCK_BOUND_MS: Final = 10_000
"""The clock bound is written for its own sake at most once in so long: a block of the journal, 4 KB, on an SD card."""

assert BUNDLE_BYTES_MAX <= MESSAGE_BYTES_MAX
assert PING_MS * 3 < SILENCE_MS
assert UNICAST_FLIGHTS_MAX < WINDOW_NUMBERS
assert UNICAST_ALL_FLIGHTS_MAX < UNICAST_DESTINATIONS_MAX
assert WANT_DELAY_MS < WANT_RETRY_MS < GAP_WAIT_MS < GAP_AWAY_MS
assert PRESSED_BYTES < CROWDED_BYTES < REFUSED_BYTES < OUTBOX_BYTES_MAX
assert GRAFT_AGAIN_MS < GRAFT_MS
