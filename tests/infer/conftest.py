"""What the tests of inference share. It needs nothing that a machine with tflite-runtime alone would not have."""

from tests.infer.stub_tpu import library, tpu

__all__ = ["library", "tpu"]
