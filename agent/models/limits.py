"""Every bound of how models are kept and how they travel, with the reason for its number.

Units stand last in each name. "Guess" means that nobody has measured it yet.
"""

from typing import Final

MODEL_BYTES_MAX: Final = 64 * 1024 * 1024
"""Several times the largest model that an Edge TPU device runs; bounds what is read into memory."""
CHUNK_BYTES_MIN: Final = 32 * 1024
"""A chunk with all around it fits one link frame of 64 KiB, so urgent traffic waits for one at most: 0.3 ms on
1 Gbit/s, 30 ms on a 10 Mbit/s radio."""
CHUNK_BYTES_STEP: Final = 4 * 1024
"""Chunks of larger models grow by this: a page of memory and of most disks."""
CHUNKS_MAX: Final = 384
"""Chunks of one content. Their digests have 16 KiB in a manifest, so that three variants fit its 64 KiB; 384 chunks of
64 MiB have 172 KiB each, which one message of the mesh still takes."""
CHUNK_BYTES_MAX: Final = 192 * 1024
"""Below the 256 KiB of a message of the mesh; as large as CHUNKS_MAX of MODEL_BYTES_MAX need."""
