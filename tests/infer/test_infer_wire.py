"""Messages and shared memory between a device and its worker."""

import os
from pathlib import Path

import numpy as np
import pytest

from agent.infer import wire
from agent.infer.backend import TensorInfo
from agent.infer.wire import Message, Verb

SMALL = TensorInfo((1, 3), "int8", 0.5, -3)
LARGE = TensorInfo((2, 5), "float32")


def test_message_survives_the_wire():
    message = Message(Verb.DONE, 2**32 - 1, 2**64 - 1, "größer".encode())
    assert Message.unpack(message.pack()) == message
    assert message.text == "größer"


@pytest.mark.parametrize("packet", [b"\x01", bytes(15), bytes(16), b"\xff" + bytes(15)])
def test_packet_that_is_no_message_is_refused(packet):
    with pytest.raises(ValueError):
        Message.unpack(packet)


def test_long_tail_is_cut_to_what_a_packet_holds():
    packet = Message(Verb.REJECTED, 1, 0, b"x" * 5000).pack()
    assert len(packet) == wire.MESSAGE_BYTES_MAX


def test_tensors_survive_the_wire():
    assert wire.unpack_loaded(wire.pack_loaded("runs", SMALL, LARGE)) == ("runs", SMALL, LARGE)


@pytest.mark.parametrize(
    "tail",
    [
        b"", b"\xff", b"5", b"[]", b"[" * 1_000, b'["runs"]', b'["runs", 1, 2]',
        b'["runs", [[1], "float32"]]',
        b'["runs", [1, "float32"], [[1], "float32"]]',
        b'["runs", [[1], "float32", 0, 0, 0], [[1], "float32"]]',
        b'["runs", [[1], "float32"], [[1], "float32"], [[1], "float32"]]',
        b'["runs", [[1]], [[1], "float32"]]',
        b'["runs", [[1], 5], [[1], "float32"]]',
        b'["runs", [[-1, -1], "float32"], [[1], "float32"]]',
        b'["runs", [["1"], "float32"], [[1], "float32"]]',
        b'["runs", [[1.5], "float32"], [[1], "float32"]]',
        b'["runs", [[4294967296, 4294967296], "float32"], [[1], "float32"]]',
    ],
    ids=range(17),
)  # fmt: skip
def test_what_describes_no_tensors_is_refused(tail):
    with pytest.raises(ValueError):
        wire.unpack_loaded(tail)


def test_tensors_that_are_not_in_the_memory_are_refused():
    with wire.nameless_file() as memory:
        wire.reserve(memory.fileno(), SMALL, SMALL)
        with pytest.raises(ValueError):
            wire.map_tensors(memory.fileno(), LARGE, LARGE)


def test_both_sides_see_the_same_memory_and_older_mappings_stay():
    with wire.nameless_file() as memory:
        wire.reserve(memory.fileno(), SMALL, SMALL)
        ours, _ = wire.map_tensors(memory.fileno(), SMALL, SMALL)
        wire.reserve(memory.fileno(), SMALL, LARGE)
        model_input, model_output = wire.map_tensors(memory.fileno(), SMALL, LARGE)
        theirs, their_output = wire.map_tensors(memory.fileno(), SMALL, LARGE)
        ours[...] = [[1, 2, 3]]
        model_output[...] = 7
        np.testing.assert_array_equal(theirs, [[1, 2, 3]])
        np.testing.assert_array_equal(model_input, [[1, 2, 3]])
        np.testing.assert_array_equal(their_output, np.full((2, 5), 7))
        assert os.fstat(memory.fileno()).st_nlink == 0


def test_memory_is_in_no_folder_whose_size_somebody_has_set():
    """A container's /dev/shm has 64 MiB: two versions of a model of half of that would not fit."""
    with wire.nameless_file() as memory:
        where = Path(f"/proc/self/fd/{memory.fileno()}").readlink()
        assert str(where).startswith("/memfd:")
        memory.write(b"12345")
        assert os.pread(memory.fileno(), 9, 0) == b"12345"


def test_memory_is_reserved_and_never_shrinks():
    with wire.nameless_file() as memory:
        wire.reserve(memory.fileno(), LARGE, LARGE)
        size = os.fstat(memory.fileno()).st_size
        assert os.fstat(memory.fileno()).st_blocks > 0
        wire.reserve(memory.fileno(), SMALL, SMALL)
        assert os.fstat(memory.fileno()).st_size == size
