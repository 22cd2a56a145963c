"""What a scenario works with: networks whose devices have met, and expectations that are kept when they fail.

A scenario is one function `tell(scene)`; it builds networks, lets things happen, and says what must be true. Its
module's `BUG` is a plant with which it must fail, so that it is known to look at something.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from sim.network import Network

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sim.links import Edge
    from sim.plants import Plant

__all__ = ["WARM_UP_MS", "Scenario", "Scene"]

WARM_UP_MS: Final = 4_000
"""Until devices that never met anybody have settled."""


class Scenario(Protocol):
    """A module in `sim/scenarios/`."""

    RULE: str
    BUG: Plant

    def tell(self, scene: Scene) -> None:
        """Let it happen."""


class Scene:
    """One telling of a scenario."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.failures: list[str] = []
        self._networks: list[Network] = []

    def network(self, names: Iterable[str], edges: Iterable[Edge], **options: Any) -> Network:
        """A network whose devices have met. Options are those of `Network`."""
        network = Network(names, edges, self.seed, **options)
        network.run(WARM_UP_MS)
        self._networks.append(network)
        return network

    def expect(self, truth: object, text: str) -> None:
        """It must be so."""
        if not truth:
            self.failures.append(text)

    def same(self, got: object, wanted: object, what: str) -> None:
        """These must be equal."""
        if got != wanted:
            self.failures.append(f"{what}: {got!r}, not {wanted!r}")

    def timelines(self) -> list[str]:
        """A hash for each network."""
        return [network.timeline() for network in self._networks]
