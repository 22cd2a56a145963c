"""The harness lives in `sim`."""

from sim.disk import Disk
from sim.network import Network

__all__ = ["Disk", "Network"]
