"""Retained values that a filter matches, looked up in the mesh's maps.

Decides: how they are looked for. A filter without wildcards is one look; any other goes through all topics, 20,000 at
most, at half a microsecond each. Assumes: a filter that is well formed. On failure: nothing can fail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.topic_names import topic_matcher

if TYPE_CHECKING:
    from broker.mesh.retained import RetainedMap

__all__ = ["retained_values"]


def retained_values(
    held: RetainedMap, topic_filter: str, *, deleted: bool = False
) -> list[tuple[str, bytes, int]]:
    """Topic, payload and QoS of what is retained; deleted values, too, with an empty payload, if wanted."""
    if "+" not in topic_filter and "#" not in topic_filter:
        entry = held.get(topic_filter)
        if entry is None or not (entry.payload or deleted):
            return []
        return [(topic_filter, entry.payload, entry.qos)]
    matches = topic_matcher(topic_filter)
    return [
        (topic, entry.payload, entry.qos)
        for topic, entry in held.items()
        if (entry.payload or deleted) and matches(topic)
    ]
