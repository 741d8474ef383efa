"""An exported repository in Triton's python backend, which is played in this process."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.blas import blas_threads, two_blas_threads
from helpers.doubles import study
from helpers.made_up import KINDS, tiny_bundle
from helpers.repositories import Backend, arguments, exported, request, snapshot_for
from radrank.core.errors import Corrupt, Mismatch, NotFound
from radrank.core.ranking import ImageQuery, Ranker, SearchQuery, StudyQuery, TextQuery
from radrank.core.snapshot import current, open_snapshot
from radrank.core.view import View
from radrank.datasets import pixels
from radrank.engines.bundle import open_bundle
from radrank.engines.index import index_factory
from radrank.server.kserve.tensors import strings

SEARCH = "radrank_search"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("home")
    snapshot_for(tiny_bundle(), home)
    return home


@pytest.fixture(scope="module")
def repository(home, tmp_path_factory) -> Path:
    """Moved since it was written."""
    written = exported(tiny_bundle(), home, tmp_path_factory.mktemp("written") / "repository", backend="python").path
    return Path(shutil.copytree(written, tmp_path_factory.mktemp("moved") / "repository"))


@pytest.fixture
def backend(monkeypatch) -> Iterator[Backend]:
    """What a model sets in its process stays out of this one."""
    made, log = Backend(), logging.getLogger("radrank")
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", made)
    level = log.level
    with two_blas_threads():
        yield made
    log.setLevel(level)


def loaded(backend: Backend, repository: Path, *names: str) -> Backend:
    """Models as the backend loads them, from their own model.py."""
    for name in names or [folder.name for folder in repository.iterdir() if folder.is_dir()]:
        spec = spec_from_file_location(name, repository / name / "1" / "model.py")
        assert spec
        assert spec.loader
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        model = module.TritonPythonModel()
        model.initialize(arguments(repository, name))
        backend.models[name] = model
    return backend


def feed(**given) -> dict[str, np.ndarray]:
    """Arrays of Python values, as the backend hands them over."""
    made = {"bytes": lambda v: strings([v]), "str": lambda v: strings([v.encode()]), "int": lambda v: np.array([v])}
    return {name: made[type(v).__name__](v) if type(v).__name__ in made else v for name, v in given.items()}


def answer(backend: Backend, **given):
    return backend.models[SEARCH].execute([request(feed(**given))])[0]


@pytest.fixture
def triton(backend, repository) -> Backend:
    return loaded(backend, repository)


def test_the_search_computes_with_one_blas_thread(backend, repository):
    loaded(backend, repository, SEARCH)
    assert blas_threads() == {1}


@pytest.fixture(scope="module")
def ranker(home) -> Ranker:
    """Ours, on the bundle itself."""
    bundle = open_bundle(tiny_bundle())
    snapshot = open_snapshot(current(home / "snapshots"), factory=index_factory("exact"), encoder=bundle.encoder_id)
    return Ranker(
        encoder=bundle.encoder,
        rerankers=bundle.rerankers,
        default_reranker=bundle.default_reranker,
        view=View.of(snapshot, bundle.graph),
    )


@pytest.mark.parametrize("reranker", [*KINDS, "off", None])
def test_it_finds_what_our_ranker_finds(triton, ranker, reranker):
    picture = study(3).images[0].read()
    side = ranker.encoder.image_size
    for given, content in (
        ({"text": "finding1 sign2"}, TextQuery(text="finding1 sign2")),
        ({"image": picture}, ImageQuery(pixels=pixels.load(picture, side))),
        ({"study": "S0004"}, StudyQuery(study_id="S0004")),
    ):
        hits = ranker.search(SearchQuery(content=content, k=10, reranker=reranker)).hits
        found = answer(triton, **given, **({"reranker": reranker} if reranker else {})).outputs
        assert [value.decode() for value in found["ids"]] == [hit.study_id for hit in hits]
        np.testing.assert_allclose(found["scores"], [hit.score for hit in hits], atol=1e-6)
        np.testing.assert_allclose(found["cosines"], [hit.cosine for hit in hits], atol=1e-6)


def test_only_the_outputs_that_are_asked_for_are_answered(triton):
    asked = request(feed(study="S0001", reranker="off"), outputs=("scores",))
    assert list(triton.models[SEARCH].execute([asked])[0].outputs) == ["scores"]


def test_one_request_s_fault_is_not_another_s(triton):
    requests = [request(feed(text=text, reranker="off")) for text in ("words", " ", "more words")]
    assert [one.has_error() for one in triton.models[SEARCH].execute(requests)] == [False, True, False]


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        ({"text": " "}, "INVALID_ARG", "text: must hold more than blanks"),
        ({"study": "NOBODY"}, "NOT_FOUND", "no such study"),
        ({"text": "words", "study": "S0001"}, "INVALID_ARG", "inputs: must hold one of"),
    ],
)
def test_errors_have_the_code_that_our_server_gives_them(triton, given, code, message):
    error = answer(triton, **given).error
    assert (error.code(), error.message()[: len(message)]) == (code, message)
    assert "NOBODY" not in error.message()


def test_a_deadline_that_has_passed_is_unavailable(triton):
    late = triton.models[SEARCH].execute([request(feed(text="words"), timeout=1)])[0]
    assert late.error.code() == "UNAVAILABLE"
    assert "deadline" in late.error.message()


def test_an_unknown_error_keeps_its_text_to_itself(triton, monkeypatch, caplog):
    def broken(*_: object) -> None:
        raise ValueError("patient Smith")

    monkeypatch.setattr(triton.models[SEARCH], "_search", broken)
    error = answer(triton, text="words").error
    assert error.code() == "INTERNAL"
    assert "incident" in error.message()
    assert "Smith" not in error.message() + caplog.text


def test_a_model_answers_the_golden_queries_before_its_first_use_and_not_again(triton):
    answer(triton, study="S0001", reranker="gat")
    first = len(triton.asked)
    assert set(triton.asked) == {"reranker_gat"}
    answer(triton, study="S0001", reranker="gat")
    assert len(triton.asked) == first + 1 < 100
    answer(triton, text="words", reranker="off")
    assert set(triton.asked) == {"reranker_gat", "text_encoder"}


def test_messages_are_asked_for_where_the_snapshot_s_do_not_hold(triton):
    answer(triton, text="words", reranker="sage")
    assert set(triton.asked) == {"reranker_sage", "text_encoder"}
    answer(triton, study="S0001", reranker="sage")  # leaves itself out: whoever hears from it is told otherwise
    assert set(triton.asked) == {"reranker_sage", "text_encoder", "messages_sage"}


def test_a_model_that_ranks_otherwise_is_refused_at_once_from_then_on(triton):
    engine = triton.models["reranker_gat"]
    backwards = SimpleNamespace(run=lambda given, run=engine._engine.run: {"scores": -run(given)["scores"]})
    engine._engine = backwards
    for _ in range(2):
        error = answer(triton, study="S0001", reranker="gat").error
        assert error.code() == "INTERNAL"
        assert error.message().startswith("reranker_gat on triton python: expected both at least 0.98")
    assert triton.asked.count("reranker_gat") == 16
    assert not answer(triton, study="S0001", reranker="sage").has_error()


def test_a_model_that_is_not_there_is_unavailable_until_it_is(backend, repository):
    loaded(backend, repository, SEARCH)
    for name in ("messages_sage", "reranker_sage"):
        error = answer(backend, study="S0001", reranker="sage").error
        assert (error.code(), error.message()[:32]) == ("UNAVAILABLE", f"{name} can't answer on th")
        loaded(backend, repository, name)
    assert not answer(backend, study="S0001", reranker="sage").has_error()


def test_a_warm_up_asks_no_other_model(triton, repository):
    folder = repository / SEARCH / "warmup"
    vector = np.fromfile(folder / "embedding", "<f4")
    reranker = (folder / "reranker").read_bytes()[4:]
    assert len(answer(triton, embedding=vector, reranker=reranker).outputs["ids"]) == 10
    assert not triton.asked


def test_a_model_file_or_a_configuration_of_another_is_refused(backend, repository, tmp_path):
    copy = Path(shutil.copytree(repository, tmp_path / "copy"))
    shutil.copy(copy / "reranker_gcn" / "1" / "model.onnx", copy / "reranker_sage" / "1" / "model.onnx")
    with pytest.raises(Corrupt, match=r"reranker_sage/1/model\.onnx"):
        loaded(backend, copy, "reranker_sage")
    config = copy / "text_encoder" / "config.pbtxt"
    config.write_text(config.read_text().replace("TYPE_INT64", "TYPE_INT32"))
    with pytest.raises(Mismatch, match=r"input ids: expected TYPE_INT64 \[-1\], found TYPE_INT32 \[-1\]"):
        loaded(backend, copy, "text_encoder")


def test_parts_that_are_missing_or_changed_are_told(backend, repository, tmp_path):
    copy = Path(shutil.copytree(repository, tmp_path / "copy"))
    inside = copy / SEARCH / "1"
    tokenizer = inside / "bundle" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    with pytest.raises(Corrupt, match=r"tokenizer\.json"):
        loaded(backend, copy, SEARCH)
    shutil.copy(repository / SEARCH / "1" / "bundle" / "tokenizer.json", tokenizer)
    (inside / "models.json").write_text(json.dumps({"text_encoder": {}}))
    with pytest.raises(Corrupt, match=r"models\.json"):
        loaded(backend, copy, SEARCH)
    (inside / "models.json").unlink()
    with pytest.raises(NotFound, match="radrank export triton"):
        loaded(backend, copy, SEARCH)


def test_a_token_that_is_not_there_is_told_by_the_input_s_name(triton):
    ids = np.full((1, 16), 10**6, np.int64)
    error = triton.models["text_encoder"].execute([request({"ids": ids}, outputs=("vectors",))])[0].error
    assert (error.code(), error.message()[:22]) == ("INVALID_ARG", "ids: must hold numbers")


def test_a_closed_model_lets_go_of_its_session(triton):
    model = triton.models["reranker_sage"]
    model.finalize()
    assert model._engine._session is None
