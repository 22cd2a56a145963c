"""Every bound of how models are kept and how they travel, with the reason for its number.

Units stand last in each name. "Guess" means that nobody has measured it yet.
"""

from typing import Final

MODEL_BYTES_MAX: Final = 64 * 1024 * 1024
"""Several times the largest model that an Edge TPU device runs; bounds what is read into memory."""
CHUNK_BYTES_MIN: Final = 60 * 1024
"""A chunk with all around it fits one link frame of 64 KiB, so urgent traffic waits for one at most: 0.5 ms on
1 Gbit/s, 50 ms on a 10 Mbit/s radio. What a chunk costs is its messages, not its bytes: with 32 KiB, and notes twice as
often, a version took each of ten devices 0.32 s of processor time instead of 0.2 s (measured)."""
CHUNK_BYTES_STEP: Final = 4 * 1024
"""Chunks of larger models grow by this: a page of memory and of most disks."""
CHUNKS_MAX: Final = 384
"""Chunks of one content. Their digests have 16 KiB in a manifest, those of three variants 48 of its 224; 384 chunks of
64 MiB have 172 KiB each, which one message of the mesh still takes."""
CHUNK_BYTES_MAX: Final = 192 * 1024
"""Below the 256 KiB of a message of the mesh; as large as CHUNKS_MAX of MODEL_BYTES_MAX need."""

# The store
STORE_BYTES_MAX: Final = 256 * 1024 * 1024
"""Four of the largest models, or sixty vision models with their deltas; a 16 GB card does not notice. Guess."""
SLICE_BYTES: Final = 1024 * 1024
"""A whole file is read and digested in such slices, at 1 ms each."""

# Pulling
ASK_CHUNKS_MAX: Final = 8
"""Chunks in one question, and under way from one neighbour: 480 KiB, 0.1 s of round trip at 5 MB/s. Half of what the
mesh takes for one device."""
UNDER_WAY_MAX: Final = 16
"""Chunks under way from all neighbours: 1 MiB, which is what a kill may have to be sent again."""
SOURCES_MAX: Final = 64
"""Neighbours that are asked; a device has no more links."""
PULLS_MAX: Final = 4
"""Contents fetched at once: a model's variants, or two models with their deltas."""
PACE_BYTES_PER_S: Final = 1_200_000
"""How fast one content is fetched: 4 MB in 3.4 s. Meanwhile ten devices on two cores take 0.45 of a core for it.
Measured there: unpaced, with what is urgent behind it for 0.1 s."""
PACE_S_MAX: Final = 20
"""What would take longer at that pace is fetched faster: the largest model at 3.4 MB/s. Guess."""
BURST_CHUNKS: Final = 2
"""Chunks that are asked for in one go when the pace is what limits: half the questions, and 0.1 s of waiting. What is
on its way to a device that is killed may come to it twice: with four, two did (measured)."""
SERVE_CHUNKS: Final = 2
"""Chunks that a turn gives to one that asks: one bundle, after which others have their turn."""
PACE_CHUNKS_MAX: Final = 4
"""What may be asked for at once after a pause: twice a burst, so that who comes a little late falls behind nothing."""
QUEUE_NS: Final = 200_000_000
"""A chunk that takes longer shows a queue on its way: the window grows no more, and beyond twice that it shrinks. Bulk
goes last on every link, but what a radio's driver holds is in no lane. LEDBAT (RFC 6817) aims at 100 ms."""
SERVICE_MIN_NS: Final = 8_000_000
"""A neighbour that takes less counts as taking this long: who is quicker than the pace is no better a choice. One that
was not tried yet counts as good, or it never would be."""
SEED_FACTOR: Final = 8
"""A neighbour that has everything is asked for what another has only if that one would take so many times as long. It
keeps the first one free for what nobody else has. Guess."""
SEED_WINDOW: Final = 3
"""Chunks under way from such a neighbour while others fetch, too: what several ask of it at once it uploads several
times. Measured with nine that pull from one (tests/models/test_fleet.py): 1.7 copies, 2.2 with the full window, and
sooner done."""
PATIENCE_FIRST_NS: Final = 5_000_000_000
"""A chunk that was asked for and has not come after this long is asked of another. 60 KiB at 100 kbit/s take 4.9 s."""
PATIENCE_MIN_NS: Final = 1_000_000_000
"""The same once its neighbour's speed is known; the mesh sends again what is lost within 0.1 to 0.5 s."""
PATIENCE_MAX_NS: Final = 15_000_000_000
"""The same for a slow one: a chunk of 172 KiB at 100 kbit/s."""
PATIENCE_FACTOR: Final = 4
"""How many times the usual a chunk may take. Guess."""
STRIKES_MAX: Final = 3
"""Silences in a row before a neighbour is left alone for a while. One may be a lost link, three are a fault. Guess."""
AVOID_NS: Final = 10_000_000_000
"""For how long, the first time; doubles with each."""
AVOID_MAX_NS: Final = 600_000_000_000
"""Where the doubling ends, and how long one is left alone that sent wrong bytes."""
DECLINED_MAX: Final = 8
"""Answers in a row that bring nothing of what the neighbour says it has, before it counts as silent. Guess."""
PAUSE_NS: Final = 50_000_000
"""After such an answer it is asked again so much later; doubles up to a second."""
PAUSE_MAX_NS: Final = 1_000_000_000
REASK_FIRST_NS: Final = 50_000_000
"""A neighbour that has nothing to do with the content is asked again after so long, then after twice that and so on: it
may still be taking in what was published on it, 50 ms for 4 MB. Measured: asked again after REASK_NS, ten devices began
2 s after the publish."""
REASK_NS: Final = 2_000_000_000
"""A neighbour of whom nothing is wanted is asked again what it has: it may have begun, or its word was lost."""
FAR_NS: Final = 2_000_000_000
"""When no neighbour has had anything new for so long, devices farther away are asked, if any are known to have the
content: a neighbour that is only a relay never will. What they send crosses every link between. As REASK_NS."""
FAR_MAX: Final = 2
"""Devices that are taken in at a time; the next ones follow after as long again. Guess."""
NOTE_NS: Final = 200_000_000
"""Word of new chunks waits so long for company, about as long as two bursts take to come due. A chain of five loses
0.3 s by it. With half of that, ten devices said twice as much of it (tests/models/test_fleet.py)."""
MASKED_NS: Final = 20_000_000
"""When to look again whether a chunk is better asked of a faster neighbour than waited for."""
ASK_DEADLINE_MS: Final = 5_000
"""Of a question and its answer. Guess."""
CHUNK_DEADLINE_MS: Final = 10_000
"""Of a chunk under way; longer than most patience, so what is slow arrives all the same."""
CHUNKS_SYNC: Final = 128
"""Chunks written before a thread syncs them: 7.5 MiB, as much as a power cut may have to be fetched again. Guess."""
STALE_S: Final = 10.0
"""A delta of which no chunk comes for so long is given up for the full file. Guess."""
OFFER_IDLE_S: Final = 30.0
"""What an operator hands over is waited for so long; a program that was ended will not come back by itself. Guess."""
UPLOADS_MAX: Final = 256
"""Contents of which it is counted how much was uploaded."""

# Deltas
DELTA_SHARE_MAX: Final = 0.5
"""A delta above this share of the full file is not worth having: it needs the base on every device. Guess."""
DELTAS_MAX: Final = 8
"""Deltas that a manifest names: against eight earlier versions of one file, or two or three of each kind's. Guess."""
DELTA_SORTED_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of a layer whose weights a delta sorts: where each comes from is 32 MiB for as long as it is applied."""
DELTA_STEP_BYTES: Final = 64 * 1024
"""A delta is handed to zlib, and unpacked, in such steps, so that a bad one costs no memory."""
