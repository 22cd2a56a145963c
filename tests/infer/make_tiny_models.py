"""Builds the tiny `.tflite` files in `tests/data/models`, without TensorFlow.

Run it by hand after changing a model: `python tests/infer/make_tiny_models.py`. It needs
`ai-edge-litert` (whose schema classes it uses) and `flatbuffers`; the tests need neither, they read
the files. A test holds the committed files equal to what this script builds.
"""

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers
from tiny_models import (
    BIAS,
    DETECTOR_CELLS,
    DETECTOR_COLOURS,
    DETECTOR_ROWS,
    DETECTOR_SIDE,
    FOLDER,
    OTHER_BIAS,
    OTHER_WEIGHTS,
    WEIGHTS,
    WIDE_BIAS,
    WIDE_WEIGHTS,
    X_SCALE,
    Y_SCALE,
)

TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.uint8): schema.TensorType.UINT8,
    np.dtype(np.int32): schema.TensorType.INT32,
}


class Builder:
    """One subgraph under construction; tensors and operators in the order they are added."""

    def __init__(self) -> None:
        self.buffers = [schema.BufferT()]
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self.codes: list[Any] = []

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: Any,
        *,
        quantised: tuple[float, int] | None = None,
        data: np.ndarray | None = None,
    ) -> int:
        """Adds a tensor; `quantised` is (scale, zero point). Returns its index."""
        tensor = schema.TensorT()
        tensor.name, tensor.shape = name, list(shape)
        tensor.type = TYPES[np.dtype(dtype)]
        if quantised is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = [quantised[0]]
            tensor.quantization.zeroPoint = [quantised[1]]
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.astype(dtype).tobytes(), np.uint8)
            tensor.buffer = len(self.buffers)
            self.buffers.append(buffer)
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def operator(
        self,
        code: int,
        inputs: list[int],
        outputs: list[int],
        *,
        version: int = 1,
        options: tuple[int, Any] | None = None,
        custom: str | None = None,
        custom_options: bytes = b"",
    ) -> None:
        """Adds an operator of builtin `code`, or the custom one named `custom`."""
        entry = schema.OperatorCodeT()
        entry.builtinCode, entry.version = code, version
        entry.deprecatedBuiltinCode = min(code, 127)
        entry.customCode = custom
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = len(self.codes), inputs, outputs
        if options is not None:
            operator.builtinOptionsType, operator.builtinOptions = options
        if custom_options:
            operator.customOptions = np.frombuffer(custom_options, np.uint8)
        self.codes.append(entry)
        self.operators.append(operator)

    def finish(self, inputs: list[int], outputs: list[int]) -> bytes:
        """Returns the file's bytes."""
        graph = schema.SubGraphT()
        graph.name, graph.tensors, graph.operators = "main", self.tensors, self.operators
        graph.inputs, graph.outputs = inputs, outputs
        model = schema.ModelT()
        model.version, model.description = 3, "tiny"
        model.operatorCodes, model.subgraphs, model.buffers = self.codes, [graph], self.buffers
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def dense(weights: np.ndarray, bias: np.ndarray) -> bytes:
    """y = W x + b in float32; x is (1, columns), y is (1, rows)."""
    rows, columns = weights.shape
    build = Builder()
    x = build.tensor("x", (1, columns), np.float32)
    w = build.tensor("w", (rows, columns), np.float32, data=weights)
    b = build.tensor("b", (rows,), np.float32, data=bias)
    y = build.tensor("y", (1, rows), np.float32)
    options = (schema.BuiltinOptions.FullyConnectedOptions, schema.FullyConnectedOptionsT())
    build.operator(schema.BuiltinOperator.FULLY_CONNECTED, [x, w, b], [y], options=options)
    return build.finish([x], [y])


def dense_quantised(dtype: Any, version: int, zero_points: tuple[int, int, int]) -> bytes:
    """The same layer quantised; zero points of input, weights and output."""
    x_zero, w_zero, y_zero = zero_points
    x_scale, w_scale, y_scale = X_SCALE, 1 / 32, Y_SCALE
    rows, columns = WEIGHTS.shape
    build = Builder()
    x = build.tensor("x", (1, columns), dtype, quantised=(x_scale, x_zero))
    w = build.tensor(
        "w", (rows, columns), dtype, quantised=(w_scale, w_zero), data=WEIGHTS / w_scale + w_zero
    )
    b_scale = x_scale * w_scale
    b = build.tensor("b", (rows,), np.int32, quantised=(b_scale, 0), data=BIAS / b_scale)
    y = build.tensor("y", (1, rows), dtype, quantised=(y_scale, y_zero))
    options = (schema.BuiltinOptions.FullyConnectedOptions, schema.FullyConnectedOptionsT())
    build.operator(
        schema.BuiltinOperator.FULLY_CONNECTED, [x, w, b], [y], version=version, options=options
    )
    return build.finish([x], [y])


def sum_of_two() -> bytes:
    """Two inputs: a shape of model that the interface does not take."""
    build = Builder()
    a, b, y = (build.tensor(name, (1, 4), np.float32) for name in "aby")
    options = (schema.BuiltinOptions.AddOptions, schema.AddOptionsT())
    build.operator(schema.BuiltinOperator.ADD, [a, b], [y], options=options)
    return build.finish([a, b], [y])


def integers() -> bytes:
    """int32 in and out: a type of tensor that the interface does not take."""
    build = Builder()
    x = build.tensor("x", (1, 4), np.int32)
    y = build.tensor("y", (1, 4), np.int32)
    options = (schema.BuiltinOptions.AddOptions, schema.AddOptionsT())
    build.operator(schema.BuiltinOperator.ADD, [x, x], [y], options=options)
    return build.finish([x], [y])


def unknown_operator() -> bytes:
    """What a file compiled for an Edge TPU looks like to a runtime without the delegate."""
    build = Builder()
    x = build.tensor("x", (1, 4), np.float32)
    y = build.tensor("y", (1, 4), np.float32)
    code = schema.BuiltinOperator.CUSTOM
    build.operator(code, [x], [y], custom="edgetpu-custom-op")
    return build.finish([x], [y])


def same_width() -> bytes:
    """x + 1: what a processor runs of the version whose other file is `unknown_operator`."""
    build = Builder()
    x = build.tensor("x", (1, 4), np.float32)
    one = build.tensor("one", (1,), np.float32, data=np.ones(1))
    y = build.tensor("y", (1, 4), np.float32)
    options = (schema.BuiltinOptions.AddOptions, schema.AddOptionsT())
    build.operator(schema.BuiltinOperator.ADD, [x, one], [y], options=options)
    return build.finish([x], [y])


def passes_through() -> bytes:
    """No operator at all, one value: the smallest model an interpreter accepts."""
    build = Builder()
    x = build.tensor("x", (1,), np.float32)
    return build.finish([x], [x])


def detector(*, compiled: bool = False) -> bytes:
    """Sees what fills a cell of the picture in one of two colours; it ends as MobileNet-SSD does.

    `compiled`: begins with what an Edge TPU runs, where the stand-in for one doubles all values.
    """
    build, cells = Builder(), DETECTOR_CELLS
    kinds = len(DETECTOR_COLOURS) + 1
    side = (1, DETECTOR_SIDE, DETECTOR_SIDE, 3)
    picture = seen = build.tensor("picture", side, np.float32)
    if compiled:
        seen = build.tensor("doubled", side, np.float32)
        code = schema.BuiltinOperator.CUSTOM
        build.operator(code, [picture], [seen], custom="edgetpu-custom-op")
    means = build.tensor("means", (1, cells, cells, 3), np.float32)
    pool = schema.Pool2DOptionsT()
    pool.strideW = pool.strideH = pool.filterWidth = pool.filterHeight = DETECTOR_SIDE // cells
    pool.padding = schema.Padding.VALID
    options = (schema.BuiltinOptions.Pool2DOptions, pool)
    build.operator(schema.BuiltinOperator.AVERAGE_POOL_2D, [seen], [means], options=options)
    weights = np.array([[0.0, 0.0, 0.0], *DETECTOR_COLOURS]).reshape(kinds, 1, 1, 3)
    if compiled:
        weights /= 2
    filters = build.tensor("filters", weights.shape, np.float32, data=weights)
    bias = build.tensor("bias", (kinds,), np.float32, data=np.zeros(kinds))
    likeness = build.tensor("likeness", (1, cells, cells, kinds), np.float32)
    convolution = schema.Conv2DOptionsT()
    convolution.strideW = convolution.strideH = 1
    options = (schema.BuiltinOptions.Conv2DOptions, convolution)
    code = schema.BuiltinOperator.CONV_2D
    build.operator(code, [means, filters, bias], [likeness], options=options)
    shape = np.array([1, cells * cells, kinds])
    target = build.tensor("target", (3,), np.int32, data=shape)
    scores = build.tensor("scores", tuple(shape), np.float32)
    options = (schema.BuiltinOptions.ReshapeOptions, schema.ReshapeOptionsT())
    build.operator(schema.BuiltinOperator.RESHAPE, [likeness, target], [scores], options=options)
    outputs = _post_process(build, scores)
    return build.finish([picture], outputs)


def _post_process(build: Builder, scores: int) -> list[int]:
    """TFLite_Detection_PostProcess over boxes that are the cells themselves."""
    cells, boxes = DETECTOR_CELLS, DETECTOR_CELLS**2
    middles = (np.arange(cells) + 0.5) / cells
    anchors = [(y, x, 1 / cells, 1 / cells) for y in middles for x in middles]
    offsets = build.tensor("offsets", (1, boxes, 4), np.float32, data=np.zeros((1, boxes, 4)))
    anchor = build.tensor("anchors", (boxes, 4), np.float32, data=np.array(anchors))
    rows = DETECTOR_ROWS
    shapes = {"boxes": (1, rows, 4), "classes": (1, rows), "best": (1, rows), "count": (1,)}
    outputs = [build.tensor(name, shape, np.float32) for name, shape in shapes.items()]
    settings = {
        "max_detections": rows,
        "max_classes_per_detection": 1,
        "detections_per_class": rows,
        "use_regular_nms": False,
        "nms_score_threshold": 0.25,
        "nms_iou_threshold": 0.5,
        "num_classes": len(DETECTOR_COLOURS),
        "y_scale": 10.0,
        "x_scale": 10.0,
        "h_scale": 5.0,
        "w_scale": 5.0,
    }
    build.operator(
        schema.BuiltinOperator.CUSTOM,
        [offsets, scores, anchor],
        outputs,
        custom="TFLite_Detection_PostProcess",
        custom_options=bytes(flexbuffers.Dumps(settings)),
    )
    return outputs


def build_all() -> dict[str, bytes]:
    """Every file's bytes by file name."""
    return {
        "dense.tflite": dense(WEIGHTS, BIAS),
        "dense_other.tflite": dense(OTHER_WEIGHTS, OTHER_BIAS),
        "dense_wide.tflite": dense(WIDE_WEIGHTS, WIDE_BIAS),
        "dense_int8.tflite": dense_quantised(np.int8, 4, (3, 0, -5)),
        "dense_uint8.tflite": dense_quantised(np.uint8, 1, (131, 128, 123)),
        "detector.tflite": detector(),
        "detector_edgetpu.tflite": detector(compiled=True),
        "integers.tflite": integers(),
        "passes_through.tflite": passes_through(),
        "same_width.tflite": same_width(),
        "sum_of_two.tflite": sum_of_two(),
        "unknown_operator.tflite": unknown_operator(),
    }


if __name__ == "__main__":
    for file_name, model in build_all().items():
        (FOLDER / file_name).write_bytes(model)
