"""Deltas against earlier versions, as `pack --base` makes them: which there are, and why others are not."""

from random import Random

import pytest

from agent.errors import ModelUnusable
from agent.models.bases import make_deltas, with_deltas
from agent.models.content import content_of
from agent.models.delta import apply_delta
from agent.models.limits import DELTAS_MAX
from agent.models.manifest import Draft
from agent.models.package import read_package, write_package
from agent.models.shipped import ModelFiles
from tests.models.versions import NEW, changed, draft


def package(directory, version, **files):
    made, kinds = draft(version, **files)
    write_package(directory / version, made, kinds)
    return read_package(directory / version)


def test_what_changed_little_has_a_delta_and_everything_else_a_reason(tmp_path):
    bases = [
        package(tmp_path, "1", tflite=changed(500), onnx=b"o" * 100),
        package(tmp_path, "2", tflite=Random(9).randbytes(50_000)),
        package(tmp_path, "3", tflite=NEW),
        package(tmp_path, "4", tflite=NEW[:-1]),
        package(tmp_path, "1-again", tflite=changed(500)),
    ]
    made, kinds = draft("5", tflite=NEW, edgetpu=b"compiled")
    tried = make_deltas(made, kinds, bases)
    said = [str(each) for each in tried]
    assert said[0].startswith("delta from version 1, tflite: ")
    assert said[0].endswith(" % of the file") or "% of the file" in said[0]
    assert said[1:] == [
        "no delta from version 2, tflite: it would have more than 50% of the file",
        "no delta from version 3, tflite: it is the same file",
        "no delta from version 4, tflite: it has 49,999 bytes, and the new one has 50,000",
    ]
    with_one, deltas = with_deltas(made, tried)
    ((delta, data),) = zip(with_one.deltas, deltas.values(), strict=True)
    assert apply_delta(data, changed(500)) == NEW
    assert (delta.base, delta.target) == (content_of(changed(500)).sha256, content_of(NEW).sha256)


def test_a_manifest_names_those_that_save_most(tmp_path):
    bases = [
        package(tmp_path, str(number), tflite=changed(200 + 50 * number, seed=number))
        for number in range(DELTAS_MAX + 2)
    ]
    made, kinds = draft("new", tflite=NEW)
    tried = make_deltas(made, kinds, reversed(bases))
    left_out = [each.version for each in tried if each.delta is None]
    assert left_out == ["9", "8"]
    assert str(tried[0]).endswith("a manifest names 8, and others are smaller")
    assert len(with_deltas(made, tried)[0].deltas) == DELTAS_MAX


def test_a_base_of_another_model_is_refused(tmp_path):
    made, kinds = draft("2", tflite=NEW)
    write_package(tmp_path, *draft("1", tflite=NEW))
    base = read_package(tmp_path)
    fields = {name: getattr(made, name) for name in Draft.__struct_fields__}
    with pytest.raises(
        ModelUnusable, match="--base names a version of forecast, and this is other"
    ):
        make_deltas(Draft(**fields | {"name": "other"}), kinds, [base])


def test_deltas_stand_beside_the_variants_and_are_found_there(tmp_path):
    base = package(tmp_path, "1", tflite=changed(500))
    made, kinds = draft("2", tflite=NEW)
    made, deltas = with_deltas(made, make_deltas(made, kinds, [base]))
    write_package(tmp_path / "2", made, kinds, deltas)
    files = ModelFiles(str(tmp_path))
    for sha256, data in deltas.items():
        assert files.read(sha256) == data
    (path,) = (tmp_path / "2").glob("*.delta")
    path.unlink()
    with pytest.raises(Exception, match="which is not beside it"):
        read_package(tmp_path / "2")
