"""Versions made of files of several kinds: what is tried where, and what is told of what is not."""

import sys

import pytest

from agent.errors import ModelUnusable
from agent.infer.kinds import Kind
from agent.models.manifest import Rollout
from agent.models.packing import Described, pack, try_sample
from bench.onnx_file import dense
from tests.infer import tiny_models
from tests.models.follow import DATA

DESCRIBED = Described("x", "1", "a test", Rollout(), 0.0, 1.0, 1, None)
TFLITE = (DATA / "dense.tflite").read_bytes()
COMPILED = TFLITE + b"edgetpu-custom-op"


@pytest.fixture
def onnx():
    pytest.importorskip("onnxruntime")  # 32-bit Raspberry Pi OS has no wheel
    return dense(tiny_models.WEIGHTS, tiny_models.BIAS)


def test_the_same_weights_as_onnx_bring_about_the_same(onnx):
    draft, contents = pack(DESCRIBED, [("a.tflite", TFLITE), ("a.onnx", onnx)])
    for kind in (Kind.TFLITE, Kind.ONNX):
        told = try_sample(draft, kind, contents[kind], str(kind))
        assert told.startswith("sample off by ")


def test_other_weights_as_onnx_are_refused_with_a_way_out(onnx):
    other = dense(tiny_models.OTHER_WEIGHTS, tiny_models.OTHER_BIAS)
    draft, contents = pack(DESCRIBED, [("a.tflite", TFLITE), ("a.onnx", other)])
    with pytest.raises(
        ModelUnusable, match=r"a\.onnx: the sample is off by .* with --tolerance \d"
    ):
        try_sample(draft, Kind.ONNX, contents[Kind.ONNX], "a.onnx")


def test_an_onnx_file_may_be_alone(onnx):
    draft, contents = pack(DESCRIBED, [("a.onnx", onnx)])
    assert draft.inputs[0].shape == (1, 4)
    assert draft.outputs[0].shape == (1, 3)
    assert "sample off by 0 of" in try_sample(draft, Kind.ONNX, contents[Kind.ONNX], "a.onnx")


def test_without_onnx_runtime_such_a_file_is_described_and_not_tried(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    draft, contents = pack(DESCRIBED, [("a.tflite", TFLITE), ("a.onnx", b"anything")])
    told = try_sample(draft, Kind.ONNX, contents[Kind.ONNX], "a.onnx")
    assert told.startswith("not tried here: ONNX Runtime does not work here")
    with pytest.raises(
        ModelUnusable, match=r"a\.onnx is no TFLite file; as an ONNX file: ONNX Runtime"
    ):
        pack(DESCRIBED, [("a.onnx", b"anything")])


def test_a_file_for_an_edge_tpu_says_who_tries_it():
    draft, contents = pack(DESCRIBED, [("c.tflite", COMPILED), ("a.tflite", TFLITE)])
    assert [variant.kind for variant in draft.variants] == [Kind.EDGETPU, Kind.TFLITE]
    told = try_sample(draft, Kind.EDGETPU, contents[Kind.EDGETPU], "c.tflite")
    assert "compiled for an Edge TPU" in told
    assert "--canary-share" in told
    with pytest.raises(ModelUnusable, match="no file for the processor"):
        pack(DESCRIBED, [("c.tflite", COMPILED)])
