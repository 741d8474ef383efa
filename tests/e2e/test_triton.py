"""The exported repository in a real Triton, beside our own server on the same bundle and archive."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from itertools import cycle, islice, product
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as client

from helpers.gpu import plan_of
from helpers.kserve import refusal, tensor
from helpers.process import started
from helpers.repositories import exported
from helpers.triton import needs_triton, stand_ins, triton
from radrank.core.files import sha256_of
from radrank.datasets import open_dataset
from radrank.engines.manifest import read_manifest
from radrank.engines.models import models

pytestmark = needs_triton

QUERIES = 200


@pytest.fixture(scope="module")
def repository(demo_bundle, demo_home, tmp_path_factory):
    return exported(demo_bundle, demo_home, tmp_path_factory.mktemp("triton") / "demo", backend="python").path


@pytest.fixture(scope="module")
def theirs(repository):
    """A client of Triton."""
    with triton(repository) as server, client.InferenceServerClient(server.address) as found:
        yield found


@pytest.fixture(scope="module")
def ours(demo_bundle, demo_home, tmp_path_factory):
    """A client of our own server."""
    home = Path(shutil.copytree(demo_home, tmp_path_factory.mktemp("ours") / "home"))
    with started(demo_bundle, home) as server, client.InferenceServerClient(server.address) as found:
        yield found


def questions(count: int, rerankers: Iterable[str]) -> list[dict[str, object]]:
    """Texts and images of the demo data set in turn, with every re-ranker and both targets; half exclude themselves."""
    studies = [study for study in open_dataset("demo", None) if study.images and study.report]
    ways = cycle(product(("text", "image"), ("image", "report"), rerankers))
    asked = []
    for place, (study, (kind, target, reranker)) in enumerate(islice(zip(studies, ways, strict=False), count)):
        content = study.report if kind == "text" else study.images[0].read()
        given = {kind: content, "target": target, "reranker": reranker, "k": 20, "candidates": 50}
        asked.append(given | ({"exclude_studies": study.study_id} if place % 40 < 20 else {}))
    assert len(asked) == count
    return asked


def inputs(**given):
    """Tensors of Python values."""
    return [tensor(n, np.array([v], np.int32) if isinstance(v, int) else v) for n, v in given.items()]


def found(server, model: str, **given):
    """(ids, scores, cosines) of a search."""
    answer = server.infer(model, inputs(**given))
    return [answer.as_numpy(name) for name in ("ids", "scores", "cosines")]


def test_triton_and_our_server_find_the_same_in_the_same_order(theirs, ours, demo_bundle):
    rerankers = read_manifest(demo_bundle)[0].rerankers
    assert {"sage", "gcn", "gat"} <= set(rerankers)
    farthest = 0.0
    for asked in questions(QUERIES, (*rerankers, "off")):
        (ids, *numbers), (same_ids, *same_numbers) = (
            found(theirs, "radrank_search", **asked),
            found(ours, "search", **asked),
        )
        assert len(ids) == 20
        assert ids.tolist() == same_ids.tolist()
        farthest = max(farthest, *(np.abs(a - b).max() for a, b in zip(numbers, same_numbers, strict=True)))
    assert farthest <= 1e-5


@pytest.mark.parametrize("modality", ["image", "report"])
def test_studies_and_embeddings_ask_as_they_ask_us(theirs, ours, modality):
    for study in islice(open_dataset("demo", None), 5):
        asked = {"study": study.study_id, "modality": modality, "target": "image"}
        ids, scores, _ = found(theirs, "radrank_search", **asked)
        assert ids.tolist() == found(ours, "search", **asked)[0].tolist()
        assert study.study_id.encode() not in ids.tolist()
        assert (np.diff(scores) <= 0).all()
    pixels = np.zeros((1, *theirs.get_model_metadata("image_encoder").inputs[0].shape[1:]), np.uint8)
    vector = theirs.infer("image_encoder", [tensor("pixels", pixels)]).as_numpy("vectors")[0]
    asked = {"embedding": vector, "modality": modality, "reranker": "gcn"}
    assert found(theirs, "radrank_search", **asked)[0].tolist() == found(ours, "search", **asked)[0].tolist()


def test_triton_tells_of_the_models_what_our_server_tells(theirs, ours, demo_bundle):
    manifest, sha256 = read_manifest(demo_bundle)
    names = [model.name for model in ours.get_model_repository_index().models]
    assert {"image_encoder", "text_encoder", "reranker_sage", "reranker_gcn", "reranker_gat", "search"} <= set(names)
    for name in names:
        of_triton = theirs.get_model_metadata("radrank_search" if name == "search" else name)
        of_ours = ours.get_model_metadata(name)
        assert sorted(map(str, of_triton.inputs)) == sorted(map(str, of_ours.inputs))
        assert sorted(map(str, of_triton.outputs)) == sorted(map(str, of_ours.outputs))
        if name != "search":
            said = theirs.get_model_config(name).config.parameters
            assert said["sha256"].string_value == ours.get_model_config(name).config.parameters["sha256"].string_value
            assert said["precision"].string_value == manifest.precision
            assert said["bundle_sha256"].string_value == sha256


REFUSED = {
    "nothing": ({}, "INVALID_ARGUMENT", "inputs: must hold one of"),
    "two contents": ({"text": "a", "study": "S"}, "INVALID_ARGUMENT", "inputs: .* hold text and study"),
    "blanks": ({"text": " "}, "INVALID_ARGUMENT", "text: must hold more than blanks"),
    "no image": ({"image": b"no image"}, "INVALID_ARGUMENT", "image: is neither"),
    "two texts": ({"text": ["a", "b"]}, "INVALID_ARGUMENT", "unexpected shape for input 'text'"),
    "another datatype": ({"text": "a", "k": np.array([1], np.int64)}, "INVALID_ARGUMENT", "'k' data-type is"),
    "no k": ({"text": "a", "k": 0}, "INVALID_ARGUMENT", "k: must be given"),
    "unknown re-ranker": ({"text": "a", "reranker": "best"}, "INVALID_ARGUMENT", "reranker: must be one of"),
    "unknown study": ({"study": "XYZ-4711"}, "NOT_FOUND", "no such study$"),
}


@pytest.mark.parametrize(("given", "code", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_told_by_code_and_name_without_contents(theirs, given, code, message):
    said = refusal(lambda: found(theirs, "radrank_search", **given))
    assert said[0] == code
    assert re.search(message, said[1])
    assert "4711" not in said[1]


def test_a_token_that_is_not_there_is_refused_by_name(theirs):
    said = refusal(lambda: theirs.infer("text_encoder", [tensor("ids", np.full((1, 16), 10**7))]))
    assert said[0] == "INVALID_ARGUMENT"
    assert said[1].startswith("ids: must hold numbers from 0 to")


BACKWARDS = """
from radrank.server.triton.model import TritonPythonModel as Model

class TritonPythonModel(Model):
    def _answer(self, feed, deadline):
        return {"scores": -super()._answer(feed, deadline)["scores"]}
"""


def test_a_model_that_is_missing_or_ranks_otherwise_is_not_searched_with(repository, tmp_path):
    copy = Path(shutil.copytree(repository, tmp_path / "copy"))
    shutil.rmtree(copy / "image_encoder")
    shutil.rmtree(copy / "reranker_gcn")
    (copy / "reranker_gat" / "1" / "model.py").write_text(BACKWARDS)
    with triton(copy) as server, client.InferenceServerClient(server.address) as broken:
        assert len(found(broken, "radrank_search", text="right pleural effusion", reranker="sage")[0]) == 10
        for reranker, told in (
            ("gat", ("INTERNAL", "reranker_gat on triton python: expected both at least")),
            ("gcn", ("UNAVAILABLE", "reranker_gcn can't answer on this Triton")),
        ):
            code, message = refusal(
                lambda named=reranker: found(broken, "radrank_search", text="effusion", reranker=named)
            )
            assert (code, message[: len(told[1])]) == told
        assert "effusion" not in server.log


def test_a_file_that_is_not_the_one_exported_does_not_load(repository, tmp_path):
    folder = Path(shutil.copytree(repository / "reranker_sage", tmp_path / "one" / "reranker_sage"))
    other = repository / "reranker_gcn" / "1" / "model.onnx"
    shutil.copy(other, folder / "1" / "model.onnx")
    with triton(tmp_path / "one", ready=False) as server:
        assert server.popen.wait(30)
        assert f"expected sha256 {sha256_of(repository / 'reranker_sage' / '1' / 'model.onnx')[:12]}" in server.log


BACKENDS = {
    "ONNX Runtime on a CPU": {"backend": "onnxruntime", "device": "cpu"},
    "ONNX Runtime on a GPU": {"backend": "onnxruntime", "device": "gpu"},
    "TensorRT": {"backend": "tensorrt"},
}


@pytest.mark.parametrize("settings", BACKENDS.values(), ids=BACKENDS)
def test_triton_takes_the_configurations_of_backends_that_it_lacks(demo_bundle, demo_home, tmp_path, settings):
    for model in models(demo_bundle, read_manifest(demo_bundle)[0], batches=(1, 2)).values():
        for capability in ("8.6", "9.0"):
            plan_of(model, tmp_path / "plans", flavour="tensorrt", compute_capability=capability)
    repository = exported(demo_bundle, demo_home, tmp_path / "whole", plans=tmp_path / "plans", **settings).path
    shutil.rmtree(repository / "radrank_search")
    for config in repository.glob("*/config.pbtxt"):  # there is no GPU here to have instances
        config.write_text(config.read_text().replace("kind: KIND_GPU", "kind: KIND_CPU"))
    with (
        triton(repository, f"--backend-directory={stand_ins(tmp_path)}") as server,
        client.InferenceServerClient(server.address) as found,
    ):
        for folder in repository.iterdir():
            if folder.is_dir():
                assert found.is_model_ready(folder.name)
                assert found.get_model_config(folder.name).config.backend == settings["backend"]
