"""An int8 convolutional network of 4 MB, as large as MobileNetV2 and half as slow, the same bytes each time.

Decides its shape: five convolutions that halve a picture of 224 x 224 and one dense layer, 4.1 million weights. The
weights are drawn, so it sees nothing; what counts is how long it runs and how long it travels. `seed` makes another
version of the same shape, and `moved` one of which a layer was trained further: its weights have moved by a normal
distribution of so many quantisation steps.

Needs the schema classes of `ai-edge-litert`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["DENSE", "LARGEST", "PICTURE", "Moved", "convolutions", "dense"]

PICTURE: Final = (1, 224, 224, 3)
CHANNELS: Final = (32, 64, 128, 256, 512)
CLASSES: Final = 100
LARGEST: Final = "layer4"
"""The largest convolution: 29 % of the weights, where the largest layer of MobileNetV2 has 32 %."""
DENSE: Final = "classes"
"""61 % of the weights."""
SCALE: Final = 1 / 16
"""Of all activations: a picture's values are 0 to 1, and what comes out may be what it likes."""


class Moved(NamedTuple):
    """How a layer was trained further."""

    layer: str
    steps: float
    """Standard deviation of what its weights moved by, in quantisation steps."""


class _Graph:
    """One chain of int8 operators."""

    def __init__(self) -> None:
        self.buffers = [schema.BufferT()]
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.codes: list[Any] = []

    def tensor(
        self, name: str, shape: tuple[int, ...], scale: float, data: npt.NDArray[Any] | None = None
    ) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, list(shape), schema.TensorType.INT8
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [0]
        if data is not None:
            if data.dtype == np.int32:
                tensor.type = schema.TensorType.INT32
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            tensor.buffer = len(self.buffers)
            self.buffers.append(buffer)
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def operator(self, code: int, inputs: list[int], output: int, kind: int, options: Any) -> None:
        entry, operator = schema.OperatorCodeT(), schema.OperatorT()
        entry.builtinCode = entry.deprecatedBuiltinCode = code
        entry.version = 4
        operator.opcodeIndex, operator.inputs, operator.outputs = len(self.codes), inputs, [output]
        operator.builtinOptionsType, operator.builtinOptions = kind, options
        self.codes.append(entry)
        self.operators.append(operator)

    def finish(self, first: int, last: int) -> bytes:
        graph, model = schema.SubGraphT(), schema.ModelT()
        graph.name, graph.tensors, graph.operators = "main", self.tensors, self.operators
        graph.inputs, graph.outputs = [first], [last]
        model.version, model.description = 3, "convolutions"
        model.operatorCodes, model.subgraphs, model.buffers = self.codes, [graph], self.buffers
        builder = flatbuffers.Builder(1 << 22)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def convolutions(seed: int, moved: Moved | None = None) -> bytes:
    """The network's file: int8 of PICTURE in, int8 of CLASSES out."""
    random, graph = np.random.default_rng(seed), _Graph()
    side, depth = PICTURE[1], PICTURE[3]
    first = last = graph.tensor("picture", PICTURE, SCALE)
    for number, channels in enumerate(CHANNELS):
        side = -(-side // 2)
        shape = (channels, 3, 3, depth)
        output = graph.tensor(f"layer{number}", (1, side, side, channels), SCALE)
        options = schema.Conv2DOptionsT()
        options.strideW = options.strideH = 2
        options.fusedActivationFunction = schema.ActivationFunctionType.RELU
        graph.operator(
            schema.BuiltinOperator.CONV_2D,
            [last, *_weights(graph, f"layer{number}", shape, random, moved)],
            output,
            schema.BuiltinOptions.Conv2DOptions,
            options,
        )
        last, depth = output, channels
    output = graph.tensor("classes", (1, CLASSES), SCALE)
    graph.operator(
        schema.BuiltinOperator.FULLY_CONNECTED,
        [last, *_weights(graph, DENSE, (CLASSES, side * side * depth), random, moved)],
        output,
        schema.BuiltinOptions.FullyConnectedOptions,
        schema.FullyConnectedOptionsT(),
    )
    return graph.finish(first, output)


def dense(inputs: int, outputs: int, seed: int) -> bytes:
    """A file of one dense layer: int8 of (1, inputs) in, of (1, outputs) out."""
    random, graph = np.random.default_rng(seed), _Graph()
    first = graph.tensor("in", (1, inputs), SCALE)
    output = graph.tensor("out", (1, outputs), SCALE)
    graph.operator(
        schema.BuiltinOperator.FULLY_CONNECTED,
        [first, *_weights(graph, DENSE, (outputs, inputs), random, None)],
        output,
        schema.BuiltinOptions.FullyConnectedOptions,
        schema.FullyConnectedOptionsT(),
    )
    return graph.finish(first, output)


def _weights(
    graph: _Graph,
    name: str,
    shape: tuple[int, ...],
    random: np.random.Generator,
    moved: Moved | None,
) -> tuple[int, int]:
    """Weights and a bias of zeros; scaled so that what comes out stays in range."""
    scale = 1 / (40 * float(np.sqrt(np.prod(shape[1:]))))
    weights = random.integers(-127, 128, shape, np.int8)
    if moved is not None and moved.layer == name:
        by = np.random.default_rng(0).normal(0, moved.steps, shape)
        weights = np.clip(np.rint(weights + by), -127, 127).astype(np.int8)
    bias = np.zeros(shape[0], np.int32)
    return (
        graph.tensor(f"{name} weights", shape, scale, weights),
        graph.tensor(f"{name} bias", (shape[0],), scale * SCALE, bias),
    )
