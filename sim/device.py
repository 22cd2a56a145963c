"""One device of a simulation: its disk, its mesh while it runs, and what a test may look at afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sim.disk import Disk

if TYPE_CHECKING:
    from broker.mesh.events import Gap, Misbehaved, Undelivered
    from broker.mesh.mesh import Mesh
    from sim.path import Path
    from sim.watcher import Death

__all__ = ["NEVER_NS", "Device"]

Heard = tuple[str, int, str, bytes, bool]
"""origin, clock, topic, payload, whether it was memory."""
NEVER_NS: Final = 1 << 62


class Device:
    """A device: its disk, and its mesh while it runs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.disk = Disk()
        self.mesh: Mesh | None = None
        self.boots = 0
        self.paths: dict[str, Path] = {}
        """By neighbour: the way to it."""
        self.timer_ns = NEVER_NS
        self.checkpoint_ns = 0
        self.turn_ns = -1
        """The moment for which a turn is scheduled already."""
        self.wall_skew_ms = 0
        self.synchronised = True
        self.doomed: Death | None = None
        """The next turn ends after its commit, before its events leave."""
        self.forgetful = False
        """When doomed: the turn ends sooner, after its frames have left and before its commit."""
        self.heard: list[Heard] = []
        self.gaps: list[Gap] = []
        self.undelivered: list[Undelivered] = []
        self.bad: list[Misbehaved] = []

    @property
    def running(self) -> Mesh:
        """Its mesh; only for a device that runs."""
        assert self.mesh is not None, f"{self.name} is down"
        return self.mesh
