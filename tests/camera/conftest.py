"""What the tests of cameras share: the stand-in for an Edge TPU."""

from tests.infer.stub_tpu import library, tpu

__all__ = ["library", "tpu"]
