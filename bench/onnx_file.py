"""ONNX files, written field by field as protobuf, so that nobody needs the `onnx` package.

Decides how a network for `bad_models_survived` looks: small beside what says how it is put together, so that damage
meets both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

__all__ = ["HEAD", "INT64", "constant", "dense", "drawn", "model", "node", "pooled", "value"]

FLOAT, INT64 = 1, 7
IR_VERSION, OPSET = 8, 17
HEAD = b"\x08\x08"
"""What a file begins with: the field of its version."""


def number(field: int, value: int) -> bytes:
    """A varint field."""
    return _varint(field << 3) + _varint(value)


def part(field: int, data: bytes | str) -> bytes:
    """A field of bytes, text or another message."""
    data = data.encode() if isinstance(data, str) else data
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    return bytes([*data, value])


def constant(name: str, values: npt.NDArray[np.float32]) -> bytes:
    """An initializer."""
    dims = b"".join(number(1, length) for length in values.shape)
    return dims + number(2, FLOAT) + part(8, name) + part(9, values.astype("<f4").tobytes())


def value(name: str, shape: Sequence[int | str], element: int = FLOAT) -> bytes:
    """An input or output; a name stands for any length."""
    dims = b"".join(
        part(1, number(1, length) if isinstance(length, int) else part(2, length))
        for length in shape
    )
    return part(1, name) + part(2, part(1, number(1, element) + part(2, dims)))


def node(kind: str, inputs: str, output: str) -> bytes:
    """An operator; inputs are one letter each."""
    return b"".join(part(1, name) for name in inputs) + part(2, output) + part(4, kind)


def model(
    nodes: list[bytes], constants: list[bytes], inputs: list[bytes], outputs: list[bytes]
) -> bytes:
    """A whole file."""
    graph = b"".join(
        part(field, data)
        for field, parts in ((1, nodes), (5, constants), (11, inputs), (12, outputs))
        for data in parts
    )
    return number(1, IR_VERSION) + part(8, number(2, OPSET)) + part(7, graph + part(2, "tiny"))


def dense(
    weights: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], rows: int | str = 1
) -> bytes:
    """Y = W x + b in float32; x is (rows, columns)."""
    return model(
        [node("MatMul", "xw", "h"), node("Add", "hb", "y")],
        [constant("w", weights.T), constant("b", bias)],
        [value("x", (rows, weights.shape[1]))],
        [value("y", (rows, weights.shape[0]))],
    )


def drawn(inputs: int, outputs: int, seed: int) -> bytes:
    """One dense layer of drawn weights."""
    random = np.random.default_rng(seed)
    weights = random.normal(0, 1, (outputs, inputs)).astype(np.float32)
    return dense(weights, np.zeros(outputs, np.float32))


def pooled(shape: tuple[int, ...], outputs: int, seed: int) -> bytes:
    """Means over all but the first two dimensions, and a dense layer of drawn weights."""
    random = np.random.default_rng(seed)
    weights = random.normal(0, 1, (shape[1], outputs)).astype(np.float32)
    return model(
        [
            node("GlobalAveragePool", "x", "p"),
            node("Flatten", "p", "f"),
            node("MatMul", "fw", "h"),
            node("Sigmoid", "h", "y"),
        ],
        [constant("w", weights)],
        [value("x", shape)],
        [value("y", (1, outputs))],
    )
