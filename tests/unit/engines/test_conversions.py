"""Models in another precision: found where they were made from these weights, refused where they were changed."""

from __future__ import annotations

import shutil

import pytest

from radrank.core.errors import Corrupt, NotFound
from radrank.engines.conversions import converted, keep
from radrank.engines.engine import Model


@pytest.fixture
def model(tmp_path) -> Model:
    return Model(
        name="image_encoder", path=tmp_path / "bundle" / "image_encoder.onnx", sha256="a" * 64, precision="fp32"
    )


def test_a_model_in_its_own_precision_is_itself(model, tmp_path):
    assert converted(tmp_path, model, "fp32") is model


def test_what_was_made_from_these_weights_is_found_with_a_hash_of_its_own(model, tmp_path):
    path = keep(tmp_path / "plans", model, "fp16", "for this test", b"weights")
    found = converted(tmp_path / "plans", model, "fp16")
    assert (found.path, found.precision, found.name) == (path, "fp16", "image_encoder")
    assert found.sha256 != model.sha256


def test_what_is_missing_is_told_with_the_command_that_makes_it(model, tmp_path):
    keep(tmp_path, Model(name=model.name, path=model.path, sha256="b" * 64, precision="fp32"), "fp16", "", b"others")
    with pytest.raises(NotFound, match=r"radrank export precision --bundle .*bundle --precision fp16"):
        converted(tmp_path, model, "fp16")


def test_a_changed_file_is_refused(model, tmp_path):
    path = keep(tmp_path, model, "int8", "for this test", b"weights")
    path.write_bytes(b"weightz")
    with pytest.raises(Corrupt):
        converted(tmp_path, model, "int8")


def test_other_weights_have_another_name(model, tmp_path):
    first = keep(tmp_path, model, "fp16", "for this test", b"weights")
    other = Model(name=model.name, path=model.path, sha256="b" * 64, precision="fp32")
    assert keep(tmp_path, other, "fp16", "for this test", b"weights") != first
    shutil.rmtree(tmp_path)
