"""What the device, its worker and its template say to each other, and the memory that the first two share.

Decided here: one message per packet on a SOCK_SEQPACKET pair, a fixed head of 16 bytes, and a tail
of at most 1 KiB where there is something to say. A request carries a number, its answer repeats it,
and there is never more than one request under way.

    device -> worker                                worker -> device
                                                    READY        tail: the runtime's name
                                                    UNAVAILABLE  tail: the reason; it then ends
    LOAD    value: bytes of the model, whose        LOADED       tail: runtime, tensors
            file comes along (SCM_RIGHTS);          REJECTED     tail: the reason; old one stays
            tail: its kind                          NO_ROOM      the same, for no fault of the model
    INVOKE  input lies in the shared memory         DONE         value: ns; output lies there too
                                                    FAILED       tail: the reason

With the template (template.py) the device speaks on a socket of its own. Workers end when they do, so a request's
number stands for its worker from then on, and several may be under way.

    device -> template                              template -> device
                                                    READY        it has imported everything
    FORK    tail: settings; the worker's socket,    FORKED       value: process id; a pidfd comes along
            the shared memory and standard error    FAILED       tail: the reason
            come along                              ENDED        value: the status that waitpid gave

There is no word for stopping: worker and template end when the socket does, however the device ended.

The shared memory is one file without a name. The input stands at its start, the output behind it,
both float32. The worker makes it as large as a model needs when it loads it, with its pages
reserved, so too little memory is NO_ROOM and not a SIGBUS at some later write.
Both sides import this, so it imports little.
"""

from __future__ import annotations

import enum
import json
import mmap
import os
import struct
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np

from agent.infer.backend import FloatArray, TensorInfo

__all__ = ["MESSAGE_BYTES_MAX", "Message", "Verb", "map_tensors", "nameless_file"]

HEAD: Final = struct.Struct("<B3xIQ")
TAIL_BYTES_MAX: Final = 1024
TENSOR_BYTES_MAX: Final = 1 << 48
"""More than any machine has; the worker keeps to a tighter limit, where nobody took it over."""
MESSAGE_BYTES_MAX: Final = HEAD.size + TAIL_BYTES_MAX
ALIGNMENT_BYTES: Final = 64  # a cache line


class Verb(enum.IntEnum):
    """What a message asks or answers; the module's docstring has the table."""

    LOAD = 1
    INVOKE = 2
    FORK = 3
    READY = 16
    UNAVAILABLE = 17
    LOADED = 18
    REJECTED = 19
    DONE = 20
    FAILED = 21
    FORKED = 22
    ENDED = 23
    NO_ROOM = 24


class Message(NamedTuple):
    """One message of either direction."""

    verb: Verb
    number: int = 0
    value: int = 0
    tail: bytes = b""

    def pack(self) -> bytes:
        """Returns the packet; a tail that is too long is cut."""
        return HEAD.pack(self.verb, self.number, self.value) + self.tail[:TAIL_BYTES_MAX]

    @classmethod
    def unpack(cls, packet: bytes) -> Message:
        """Reads a packet. Raises ValueError."""
        if len(packet) < HEAD.size:
            raise ValueError(f"a message of {len(packet)} bytes")
        verb, number, value = HEAD.unpack_from(packet)
        return cls(Verb(verb), number, value, packet[HEAD.size :])

    @property
    def text(self) -> str:
        """The tail as a person reads it."""
        return self.tail.decode("utf-8", "replace")


def pack_loaded(runtime: str, model_input: TensorInfo, model_output: TensorInfo) -> bytes:
    """Returns the tail of LOADED."""
    return json.dumps([runtime, model_input, model_output]).encode()


def unpack_loaded(tail: bytes) -> tuple[str, TensorInfo, TensorInfo]:
    """Reads the tail of LOADED, which may be anything where the model took the worker over. Raises ValueError."""
    try:
        runtime, *tensors = json.loads(tail)
        model_input, model_output = map(_read_tensor, tensors)
    except (TypeError, RecursionError) as problem:
        raise ValueError(str(problem)) from None
    return str(runtime), model_input, model_output


def _read_tensor(said: Any) -> TensorInfo:
    """Raises ValueError, TypeError."""
    shape, dtype, *rest = said
    tensor = TensorInfo(tuple(shape), dtype, *rest)
    whole = isinstance(dtype, str) and all(isinstance(size, int) and size > 0 for size in shape)
    if not whole or tensor.float_bytes > TENSOR_BYTES_MAX:
        raise ValueError(f"{said!r:.40} as a tensor")
    return tensor


def nameless_file() -> BinaryIO:
    """Opens an empty file in memory that has no name and is gone with its last descriptor.

    Not in /dev/shm, which has 64 MiB in most containers: two versions of a model of half of that would not fit.
    """
    return os.fdopen(os.memfd_create("flockmq"), "w+b", buffering=0)


def reserve(descriptor: int, model_input: TensorInfo, model_output: TensorInfo) -> None:
    """Makes the shared memory large enough; it never shrinks. Raises OSError when there is no room.

    What lies in it stays, and so do mappings of it.
    """
    os.posix_fallocate(descriptor, 0, sum(_layout(model_input, model_output)))


def map_tensors(
    descriptor: int, model_input: TensorInfo, model_output: TensorInfo
) -> tuple[FloatArray, FloatArray]:
    """Returns the shared input and output as writable float32 arrays of the tensors' shapes.

    The memory must be reserved. It is unmapped when the last array on it is gone. Raises ValueError where the tensors
    are not within it, OSError.
    """
    output_offset, output_bytes = _layout(model_input, model_output)
    memory = mmap.mmap(descriptor, output_offset + output_bytes)
    return (
        np.ndarray(model_input.shape, np.float32, memory),
        np.ndarray(model_output.shape, np.float32, memory, output_offset),
    )


def _layout(model_input: TensorInfo, model_output: TensorInfo) -> tuple[int, int]:
    """Returns where the output starts and how long it is, in bytes."""
    lines = -(-model_input.float_bytes // ALIGNMENT_BYTES)
    return lines * ALIGNMENT_BYTES, model_output.float_bytes
