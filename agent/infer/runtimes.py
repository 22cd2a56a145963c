"""Which backend runs which kind of model file.

Decided here: backends are imported when the first model of their kind comes, since each costs 30 MB and more.
Failure: a kind that nothing on this machine runs is RuntimeUnavailable.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from agent.infer.kinds import Kind

if TYPE_CHECKING:
    from agent.infer.backend import Runtime
    from agent.infer.edgetpu import EdgeTpu

__all__ = ["find_runtime"]


def find_runtime(kind: Kind, edge_tpu: EdgeTpu) -> Runtime:
    """Returns what runs files of that kind. Raises RuntimeUnavailable."""
    backend = importlib.import_module(f"agent.infer.{kind}")
    runtime: Runtime = (
        backend.find_runtime(edge_tpu) if kind is Kind.EDGETPU else backend.find_runtime()
    )
    return runtime
