"""What a model file may be made for: the one list for manifests, workers and commands; it imports nothing heavy."""

from enum import StrEnum

__all__ = ["Kind"]


class Kind(StrEnum):
    """What a model file was made for."""

    TFLITE = "tflite"
    """The processor, by LiteRT or tflite-runtime."""
    EDGETPU = "edgetpu"
    """A TFLite file compiled for a Coral Edge TPU."""
    ONNX = "onnx"
    """The processor, by ONNX Runtime."""
