"""Writes the network as an int8 `.tflite`, without TensorFlow.

The float model is put together by hand from the schema classes that come with `ai-edge-litert`;
`ai-edge-quantizer` then makes weights and activations int8 (weights per output channel), with
ranges measured on real windows. Input and output are int8 with one scale each. The same weights
and windows give the same bytes.

Operators: RESHAPE 1, CONV_2D 2 to 3. All of them are known to tflite-runtime 2.14.
"""

import warnings
from pathlib import Path

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe

from agent.infer.features import APPROACHES, HISTORY_S
from tools.forecaster.network import Layer

SIGNATURE = "serving_default"


class _Graph:
    """A TFLite model under construction: one subgraph, one chain of operators."""

    def __init__(self) -> None:
        empty = schema.BufferT()
        self.buffers = [empty]
        self.tensors: list[schema.TensorT] = []
        self.operators: list[schema.OperatorT] = []
        self.codes: list[int] = []

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        data: npt.NDArray[np.float32] | npt.NDArray[np.int32] | None = None,
    ) -> int:
        """Adds a tensor, constant if it has data; returns its index."""
        tensor = schema.TensorT()
        tensor.name = name
        tensor.shape = list(shape)
        tensor.type = schema.TensorType.FLOAT32
        tensor.buffer = 0
        if data is not None:
            if data.dtype == np.int32:
                tensor.type = schema.TensorType.INT32
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), dtype=np.uint8)
            tensor.buffer = len(self.buffers)
            self.buffers.append(buffer)
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def operator(
        self, code: int, inputs: list[int], output: int, kind: int, options: object
    ) -> None:
        """Adds an operator with its builtin options."""
        if code not in self.codes:
            self.codes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = self.codes.index(code)
        operator.inputs, operator.outputs = inputs, [output]
        operator.builtinOptionsType, operator.builtinOptions = kind, options
        self.operators.append(operator)

    def reshape(self, source: int, shape: tuple[int, ...], name: str) -> int:
        """Adds a RESHAPE; returns its output."""
        options = schema.ReshapeOptionsT()
        options.newShape = list(shape)
        wanted = self.tensor(f"{name}/shape", (len(shape),), np.array(shape, dtype=np.int32))
        output = self.tensor(name, shape)
        code, kind = schema.BuiltinOperator.RESHAPE, schema.BuiltinOptions.ReshapeOptions
        self.operator(code, [source, wanted], output, kind, options)
        return output

    def convolve(self, source: int, layer: Layer, name: str) -> int:
        """Adds a CONV_2D with its ReLU; returns its output."""
        options = schema.Conv2DOptionsT()
        options.padding = schema.Padding.VALID
        options.strideH = options.strideW = 1
        options.dilationHFactor = options.dilationWFactor = layer.dilation
        options.fusedActivationFunction = schema.ActivationFunctionType.RELU
        out, height, _, _ = layer.weights.shape
        _, before_s, width, _ = self.tensors[source].shape
        after_s = before_s - (height - 1) * layer.dilation
        weights = self.tensor(f"{name}/weights", layer.weights.shape, layer.weights)
        bias = self.tensor(f"{name}/bias", (out,), layer.bias)
        output = self.tensor(name, (1, after_s, width, out))
        code, kind = schema.BuiltinOperator.CONV_2D, schema.BuiltinOptions.Conv2DOptions
        self.operator(code, [source, weights, bias], output, kind, options)
        return output

    def pack(self, source: int, output: int) -> bytes:
        """Returns the file's bytes."""
        subgraph = schema.SubGraphT()
        subgraph.name = "main"
        subgraph.tensors, subgraph.operators = self.tensors, self.operators
        subgraph.inputs, subgraph.outputs = [source], [output]
        model = schema.ModelT()
        model.version = 3
        model.description = "flockmq forecaster"
        model.subgraphs, model.buffers = [subgraph], self.buffers
        model.operatorCodes = [_code(code) for code in self.codes]
        model.signatureDefs = [_signature(source, output)]
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def build_float(layers: list[Layer]) -> bytes:
    """Returns the float32 model: (1, HISTORY_S, 1, channels) to (1, 4)."""
    graph = _Graph()
    block_channels = layers[0].weights.shape[3]
    source = graph.tensor("history", (1, HISTORY_S, 1, APPROACHES * block_channels))
    here = graph.reshape(source, (1, HISTORY_S, APPROACHES, block_channels), "blocks")
    for number, layer in enumerate(layers):
        here = graph.convolve(here, layer, f"layer{number}")
    output = graph.reshape(here, (1, APPROACHES), "standing")
    return graph.pack(source, output)


def build_int8(layers: list[Layer], windows: npt.NDArray[np.float32], work: Path) -> bytes:
    """Returns the int8 model.

    Args:
        layers: Of the trained network.
        windows: To measure ranges on, shape (n, HISTORY_S, channels), float32.
        work: Folder for the float model.
    """
    path = work / "float.tflite"
    model = build_float(layers)
    path.write_bytes(model)
    maker = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
    ranges = maker.calibrate({SIGNATURE: [{"history": windows[:1, :, np.newaxis, :]}]})
    # The quantiser's own ranges are moving averages, which cut the rare long queues off.
    for name, (low, high) in _extremes(model, windows).items():
        for key, value in (("min", low), ("max", high)):
            ranges[name][key] = np.full_like(ranges[name][key], value)
    return bytes(maker.quantize(ranges).quantized_model)


def _extremes(model: bytes, windows: npt.NDArray[np.float32]) -> dict[str, tuple[float, float]]:
    """Returns the lowest and highest value of each activation of the float model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that keeping all tensors costs memory
        interpreter = Interpreter(model_content=model, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    details = interpreter.get_tensor_details()
    kept = {d["index"]: d["name"] for d in details if "/" not in d["name"] and d["name"]}
    found = dict.fromkeys(kept.values(), (0.0, 0.0))
    source = interpreter.get_input_details()[0]["index"]
    for window in windows:
        interpreter.set_tensor(source, window[np.newaxis, :, np.newaxis, :])
        interpreter.invoke()
        for index, name in kept.items():
            value = interpreter.get_tensor(index)
            low, high = found[name]
            found[name] = (min(low, float(value.min())), max(high, float(value.max())))
    return found


def _code(builtin: int) -> schema.OperatorCodeT:
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin
    # The lowest versions that have int8 and dilation; older runtimes refuse higher ones.
    code.version = 3 if builtin == schema.BuiltinOperator.CONV_2D else 1
    return code


def _signature(source: int, output: int) -> schema.SignatureDefT:
    signature = schema.SignatureDefT()
    signature.signatureKey = SIGNATURE
    signature.subgraphIndex = 0
    signature.inputs, signature.outputs = [], []
    pairs = ((signature.inputs, "history", source), (signature.outputs, "standing", output))
    for held, name, index in pairs:
        tensor = schema.TensorMapT()
        tensor.name, tensor.tensorIndex = name, index
        held.append(tensor)
    return signature
