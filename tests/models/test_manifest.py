"""The manifest's form: what it holds, what contradicts itself, and how large it becomes."""

import base64
import json
import math

import pytest

from agent.infer.kinds import Kind
from agent.models.content import Content, content_of
from agent.models.limits import CHUNKS_MAX, MODEL_BYTES_MAX
from agent.models.manifest import (
    EXPECTED_MAX,
    INPUT_BYTES_MAX,
    MANIFEST_BYTES_MAX,
    Delta,
    ManifestInvalid,
    Sample,
    Tensor,
    Variant,
    encode_manifest,
    read_manifest,
)
from tests.models.manifests import DAY_MS, MADE_MS, manifest

OTHER = content_of(b"other")


def test_what_is_written_is_read():
    written = manifest(
        variants=tuple(Variant(kind=kind, content=content_of(kind.encode())) for kind in Kind),
        deltas=(Delta(base="a" * 64, target=content_of(b"onnx").sha256, content=OTHER),),
    )
    assert read_manifest(encode_manifest(written)) == written
    assert written.variant(Kind.EDGETPU).content == content_of(b"edgetpu")
    assert manifest().variant(Kind.ONNX) is None


def test_the_largest_manifest_fits():
    """Three variants of the largest size, with the largest sample."""
    digests = base64.b64encode(bytes(32 * CHUNKS_MAX)).decode()
    content = Content("a" * 64, MODEL_BYTES_MAX, -(-MODEL_BYTES_MAX // CHUNKS_MAX), digests)
    values = Tensor(name="n" * 128, shape=(INPUT_BYTES_MAX,), dtype="float32", scale=1 / 3)
    expected = tuple(-math.pi / 10**index for index in range(16)) * (EXPECTED_MAX // 16)
    largest = manifest(
        inputs=(values,),
        outputs=(Tensor(name="o" * 128, shape=(EXPECTED_MAX,), dtype="float32"),),
        variants=tuple(Variant(kind=kind, content=content) for kind in Kind),
        sample=Sample(
            low=-1, high=1, data=bytes(INPUT_BYTES_MAX), expected=expected, tolerance=1e-3
        ),
    )
    assert len(encode_manifest(largest)) < MANIFEST_BYTES_MAX


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"counter": 0}, "counter"),
        ({"counter": 2**53}, "counter"),
        ({"name": "Forecast"}, "name"),
        ({"name": "forecast\n"}, "name"),
        ({"version": ""}, "version"),
        ({"expires_ms": MADE_MS}, "not within 400 days"),
        ({"expires_ms": MADE_MS + 401 * DAY_MS}, "not within 400 days"),
        ({"variants": ()}, "variants"),
        ({"variants": manifest().variants * 2}, "two variants of one kind"),
        ({"inputs": (Tensor(name="x", shape=(0,), dtype="int8"),)}, "shape"),
        ({"inputs": (Tensor(name="x", shape=(4096, 4096), dtype="int8"),)}, "values in a row"),
        ({"outputs": (Tensor(name="y", shape=(4,), dtype="float32"),)}, "3 values of 4"),
        ({"deltas": (Delta(base="a" * 64, target="b" * 64, content=OTHER),)}, "no variant has"),
        (
            {"sample": Sample(low=0, high=1, data=b"abc", expected=(1, 2, 3), tolerance=0)},
            "a sample of 3 values for 4 of input",
        ),
        ({"sample": Sample(low=0, high=1e31, expected=(1, 2, 3), tolerance=0)}, "high"),
    ],
)
def test_what_contradicts_itself_is_no_manifest(changes, reason):
    with pytest.raises(ValueError, match=reason):
        encode_manifest(manifest(**changes))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b'"\xff"',
        b'{"unknown": "\xff"}',
        b" " * (MANIFEST_BYTES_MAX + 1),
        json.dumps({"counter": 1}).encode(),
        encode_manifest(manifest())[:-1],
        encode_manifest(manifest()).replace(b'"tolerance":0.1', b'"tolerance":1e999'),
        encode_manifest(manifest()).replace(b'"tolerance":0.1', b'"tolerance":NaN'),
    ],
)
def test_other_bytes_are_no_manifest(data):
    with pytest.raises(ManifestInvalid):
        read_manifest(data)


def test_a_newer_writer_may_add_fields():
    data = encode_manifest(manifest()).replace(b'{"', b'{"mood":"good","', 1)
    assert read_manifest(data) == manifest()


def test_a_sample_tells_its_input_and_what_agrees_with_it():
    sample = manifest().sample
    levels = sample.levels(4)
    assert len(levels) == 4
    assert levels == sample.levels(8)[:4]
    assert levels != Sample(low=0, high=1, seed=8, expected=(0,), tolerance=0).levels(4)
    written = Sample(low=0, high=1, data=b"abcd", expected=(0,), tolerance=0)
    assert written.levels(4) == b"abcd"
    assert sample.agrees([0.5, 1.5, -2.0])
    assert sample.agrees([0.59, 1.41, -2.0])
    assert not sample.agrees([0.5, 1.5, -2.11])
    assert not sample.agrees([0.5, 1.5])
    assert not sample.agrees([0.5, 1.5, math.nan])
    assert not sample.agrees([0.5, 1.5, -2.0, 9.0])
