"""Every bound of what an agent believes and remembers, with the reason for its number.

Units stand last in each name. "Guess" means that nobody has measured it yet.
"""

from typing import Final

# Payloads
PAYLOAD_BYTES_MAX: Final = 64 * 1024
"""A whole task set fits; one link frame carries it. Larger things travel as chunks."""
AT_MS_MAX: Final = 2**47 - 1
"""Year 6429. Shifted by the 16 bits of the logical clock it still fits a signed 64-bit integer."""
COUNT_MAX: Final = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly."""
REPLICAS_MAX: Final = 1_024
"""Incarnations in one counter, replicas in one task set: three years of a boot a day."""
TASKS_MAX: Final = 512
"""Tasks in one set; at 100 bytes each they fit the payload. A site has tens."""
DOTS_MAX: Final = 64
"""Concurrent additions of one task; each needs its own device."""
REASON_CHARACTERS_MAX: Final = 200
"""A reason is one line on a terminal or two, whoever wrote it."""

# The world
KEPT_TOPICS_MAX: Final = 40_000
"""Retained topics with their deletions: where the mesh's retained map ends by itself."""
FRESH_TOPICS_MAX: Final = 10_000
"""Newest readings, inferences, resources and links: 1,000 devices with ten each, about 10 MB."""
OBSTACLES_MAX: Final = 8_192
"""Unexpired ones, removed ones included: 100 devices with 80 each, about 6 MB."""

# Liveness
PEERS_MAX: Final = 1_024
"""At 8 KB of heartbeat intervals each: 8 MB."""
LAG_TOLERATED_NS: Final = 250_000_000
"""A quarter of a heartbeat: later than that, our own loop delays what it judges. Guess."""
HEALTH_MAX: Final = 7
"""Every patience at most eight times as long: memberlist's awareness multiplier."""
