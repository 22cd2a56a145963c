"""What a device is made of is not walked again; what holds cycles and is young still goes."""

import subprocess
import sys

STORY = """
import gc, weakref
from broker.collector import YOUNG, spare

class Ring:
    pass

spare()
assert gc.get_freeze_count() > 1_000
ring = Ring()
ring.ring = ring
gone = weakref.ref(ring)
del ring
kept = [[] for _ in range(2 * YOUNG)]
assert gone() is None
"""


def test_young_cycles_go_and_the_start_is_frozen():
    subprocess.run([sys.executable, "-c", STORY], check=True, timeout=30)
