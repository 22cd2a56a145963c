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
