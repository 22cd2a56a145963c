"""Manifests for tests: one that is right, and pieces to change."""

from agent.infer.kinds import Kind
from agent.models.content import content_of
from agent.models.manifest import Manifest, Rollout, Sample, Tensor, Variant

MADE_MS = 1_900_000_000_000
DAY_MS = 86_400_000


def manifest(**changes):
    """A manifest of a model with one variant, which takes (1, 4) and gives (1, 3)."""
    fields = {
        "site": "town",
        "name": "forecast",
        "version": "1.0",
        "counter": 1,
        "made_ms": MADE_MS,
        "expires_ms": MADE_MS + 30 * DAY_MS,
        "task": "congestion 30 s ahead",
        "inputs": (Tensor(name="x", shape=(1, 4), dtype="int8", scale=0.5, zero_point=-3),),
        "outputs": (Tensor(name="y", shape=(1, 3), dtype="float32"),),
        "variants": (Variant(kind=Kind.TFLITE, content=content_of(b"weights")),),
        "sample": Sample(low=0, high=1, seed=7, expected=(0.5, 1.5, -2.0), tolerance=0.1),
        "rollout": Rollout(canary_share=0.2, health_window_s=60, error_share_max=0.01),
    }
    return Manifest(**fields | changes)
