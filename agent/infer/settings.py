"""What a device says to a worker when it has it forked.

Decides the form: a list in JSON. Assumes that both ends are of the same release. On failure: what does not fit is
ValueError.
"""

from __future__ import annotations

import json
import math
from typing import Final, NamedTuple

from agent.infer.edgetpu import EdgeTpu
from agent.infer.kinds import Kind

__all__ = ["Settings"]

ALARM_MARGIN_S: Final = 1


class Settings(NamedTuple):
    """Of one worker."""

    kinds: tuple[Kind, ...]
    """Kinds of model that it is for."""
    num_threads: int
    tensor_bytes_max: int
    load_timeout_s: float
    """The device's own patience, like the next; the worker's is somewhat longer."""
    invoke_timeout_s: float
    edge_tpu: EdgeTpu

    def pack(self) -> bytes:
        """Returns the form that travels."""
        return json.dumps(self).encode()

    @classmethod
    def unpack(cls, packed: bytes) -> Settings:
        """Reads it. Raises ValueError."""
        try:
            kinds, threads, tensor_bytes, load_s, invoke_s, edge_tpu = json.loads(packed)
            kinds = tuple(Kind(kind) for kind in kinds)
            return cls(kinds, threads, tensor_bytes, load_s, invoke_s, EdgeTpu(*edge_tpu))
        except TypeError as problem:
            raise ValueError(str(problem)) from problem

    @property
    def load_alarm_s(self) -> int:
        """After how many seconds a load ends the worker."""
        return math.ceil(self.load_timeout_s) + ALARM_MARGIN_S

    @property
    def invoke_alarm_s(self) -> int:
        """After how many seconds an inference does."""
        return math.ceil(self.invoke_timeout_s) + ALARM_MARGIN_S
