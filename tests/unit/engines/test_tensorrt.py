"""The TensorRT runner on a GPU that is not there: what it copies, pads, launches, refuses and gives back."""

from __future__ import annotations

import inspect
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from helpers import gpu
from helpers.feeds import MODELS, feed_of, model_of
from radrank.core.errors import InvalidQuery, Mismatch, MissingExtra, NotFound, Unavailable
from radrank.engines import flavours
from radrank.engines.buckets import pad_value
from radrank.engines.cuda import Cuda
from radrank.engines.engine import Model
from radrank.engines.onnxruntime import CpuEngine
from radrank.engines.tensorrt import TensorRTEngine


class Place(SimpleNamespace):
    """A GPU and a directory of plans."""

    def open(self, model: Model, **options) -> TensorRTEngine:
        return TensorRTEngine(model, precision="fp16", plans=self.plans, **options)


@pytest.fixture
def place(tmp_path, monkeypatch):
    def made(model: Model) -> Place:
        cuda = gpu.Cuda()
        trt = gpu.TensorRT(cuda, list(model.buckets))
        gpu.install(monkeypatch, cuda, trt)
        gpu.plan_of(model, tmp_path / "plans")
        return Place(cuda=cuda, trt=trt, plans=tmp_path / "plans")

    return made


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("count", [1, 3, 4])
def test_padded_to_a_bucket_and_cut_back_answers_are_those_of_the_model(place, name, count):
    model = model_of(name)
    engine, expected = place(model).open(model), CpuEngine(model, threads=1)
    engine.warm_up([feed_of(model.name, 4)])  # leaves its rows in the buffers
    feed = feed_of(model.name, count)
    answer = engine.run(feed)
    assert {key: value.shape[0] for key, value in answer.items()} == dict.fromkeys(answer, count)
    for key, value in expected.run(feed).items():
        np.testing.assert_allclose(answer[key], value, atol=1e-5)


def test_an_engine_tells_what_it_is(place):
    model = model_of("image_encoder")
    engine = place(model).open(model)
    assert engine.manifest.runtime == "tensorrt-rtx 9.9.9 sm86"
    assert (engine.manifest.sha256, engine.manifest.precision) == (model.sha256, "fp16")
    assert [(given.name, given.dtype, given.shape) for given in engine.inputs] == [("pixels", np.uint8, (-1, 16, 16))]


@pytest.mark.parametrize("name", ["text_encoder", "reranker_gat"])
def test_a_request_allocates_nothing_and_launches_one_graph(place, name):
    model = model_of(name)
    here = place(model)
    engine = here.open(model)
    made, waits = here.cuda.made, here.cuda.waits
    for count in (1, 2, 4) * 5:
        engine.run(feed_of(model.name, count))
    assert here.cuda.made == made
    assert (here.cuda.launches, here.cuda.waits - waits) == (15, 15)
    assert sum(isinstance(held, list) for held in here.cuda.held) == len(model.buckets)


def test_answers_are_the_callers_own(place):
    model = model_of("image_encoder")
    engine = place(model).open(model)
    first = engine.run(feed_of(model.name, 1))["vectors"]
    kept = first.copy()
    engine.run(feed_of(model.name, 4))
    np.testing.assert_array_equal(first, kept)


def test_images_past_the_largest_bucket_go_in_parts_but_graphs_are_refused(place):
    model = model_of("image_encoder")
    here = place(model)
    feed = feed_of(model.name, 11)
    np.testing.assert_allclose(
        here.open(model).run(feed)["vectors"], CpuEngine(model, threads=1).run(feed)["vectors"], atol=1e-5
    )
    assert here.cuda.launches == 3
    reranker = model_of("reranker_gcn")
    with pytest.raises(InvalidQuery, match="no bucket of this engine holds"):
        place(reranker).open(reranker).run(feed_of(reranker.name, 5))


@pytest.mark.parametrize(
    ("feed", "reason"),
    [
        ({}, "ids: is missing"),
        ({"ids": np.ones((1, 16), dtype=np.int32)}, "must be int64 with 2 axes, and is int32"),
        ({"ids": np.ones(16, dtype=np.int64)}, "with 1"),
        ({"ids": np.ones((1, 17), dtype=np.int64)}, r"no bucket .*\(1, 17\)"),
    ],
)
def test_what_no_bucket_was_built_for_is_refused(place, feed, reason):
    model = model_of("text_encoder")
    with pytest.raises(InvalidQuery, match=reason):
        place(model).open(model).run(feed)


def test_tables_of_requests_that_are_not_there_lead_nowhere():
    assert (pad_value("candidate_image.idx"), pad_value("candidate_image.weight"), pad_value("ids")) == (-1, 0, 0)


@pytest.mark.parametrize("lanes", [1, 2])
def test_calls_of_many_threads_get_their_own_answers(place, lanes):
    model = model_of("text_encoder")
    engine, expected = place(model).open(model, lanes=lanes), CpuEngine(model, threads=1)
    feeds = [feed_of(model.name, 1 + turn % 4) for turn in range(24)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(engine.run, feeds))
    for feed, answer in zip(feeds, answers, strict=True):
        np.testing.assert_allclose(answer["vectors"], expected.run(feed)["vectors"], atol=1e-5)


def test_closing_gives_everything_back(place):
    model = model_of("reranker_sage")
    here = place(model)
    engine = here.open(model, lanes=2)
    assert here.cuda.held
    engine.close()
    engine.close()
    assert here.cuda.held == []
    with pytest.raises(Unavailable, match="closed"):
        engine.run(feed_of(model.name, 1))


def test_an_engine_that_does_not_open_leaves_nothing_behind(place):
    model = model_of("text_encoder")
    here = place(model)
    here.trt.refuses = True
    with pytest.raises(Mismatch, match="an execution context"):
        here.open(model)
    assert here.cuda.held == []


def test_what_cannot_be_captured_runs_without_a_graph_and_says_so(place, caplog):
    model = model_of("image_encoder")
    here = place(model)
    here.trt.capturable = False
    with caplog.at_level(logging.WARNING):
        engine = here.open(model)
    feed = feed_of(model.name, 2)
    np.testing.assert_allclose(engine.run(feed)["vectors"], CpuEngine(model, threads=1).run(feed)["vectors"], atol=1e-5)
    assert here.cuda.launches == 0
    assert "runs without a CUDA graph" in caplog.text


def test_rtx_compiles_its_kernels_once_and_before_they_are_captured(place):
    model = model_of("image_encoder")
    here = place(model)
    here.open(model)
    (file,) = here.plans.glob("*.jit")
    assert file.read_bytes() == b"compiled kernels"
    assert here.trt.cache.loaded == b""
    assert {context.config.dynamic_shapes_kernel_specialization_strategy for context in here.trt.contexts} == {"eager"}
    here.open(model)
    assert here.trt.cache.loaded == b"compiled kernels"


def test_the_full_tensorrt_goes_the_same_way_without_that(place):
    model = model_of("image_encoder")
    here = place(model)
    gpu.plan_of(model, here.plans, flavour="tensorrt")
    engine = here.open(model, flavour="tensorrt")
    assert engine.manifest.runtime == "tensorrt 9.9.9 sm86"
    assert engine.run(feed_of(model.name, 2))["vectors"].shape[0] == 2
    assert not list(here.plans.glob("*.jit"))


def test_a_plan_of_other_weights_never_serves(place):
    model = model_of("image_encoder")
    here = place(model)
    retrained = Model(name=model.name, path=model.path, sha256="0" * 64, precision="fp32", buckets=model.buckets)
    with pytest.raises(Mismatch, match=r"sha256 of the ONNX 000000000000, found .*radrank export tensorrt"):
        here.open(retrained)
    with pytest.raises(NotFound, match="radrank export tensorrt"):
        TensorRTEngine(model, precision="fp16", plans=Path("nowhere"))


def test_without_a_gpu_or_the_package_the_answer_says_which(monkeypatch, tmp_path):
    model = model_of("image_encoder")
    with pytest.raises(InvalidQuery, match="must be one of: tensorrt-rtx, tensorrt"):
        TensorRTEngine(model, precision="fp16", plans=tmp_path, flavour="tensorflow")
    try:
        Cuda()
    except Unavailable:
        with pytest.raises(Unavailable, match="CUDA: "):
            TensorRTEngine(model, precision="fp16", plans=tmp_path)

    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(flavours, "import_module", absent)
    with pytest.raises(MissingExtra, match=r"radrank\[tensorrt\]"):
        TensorRTEngine(model, precision="fp16", plans=tmp_path)
    with pytest.raises(MissingExtra, match=r"radrank\[tensorrt-full\]"):
        TensorRTEngine(model, precision="fp16", plans=tmp_path, flavour="tensorrt")


def test_the_gpu_of_these_tests_has_nothing_that_the_real_one_lacks():
    """Neither CUDA nor TensorRT can be asked here, but their names can be looked up."""
    from cuda.bindings import runtime

    trt = flavours.RTX.load()

    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(gpu.TensorRT) <= set(dir(trt))
    assert public(gpu._Engine) <= set(dir(trt.ICudaEngine))
    assert public(gpu._Context) <= set(dir(trt.IExecutionContext))
    assert public(gpu._Cache) <= set(dir(trt.IRuntimeCache))
    config = {"dynamic_shapes_kernel_specialization_strategy", "create_runtime_cache", "set_runtime_cache"}
    assert config | {"set_execution_context_allocation_strategy"} <= set(dir(trt.IRuntimeConfig))
    assert public(gpu.Cuda) - {"enqueue"} <= public(Cuda)
    called = set(re.findall(r"self\._api\.(\w+)", Path(inspect.getfile(Cuda)).read_text()))
    assert len(called) > 15
    assert called <= set(dir(runtime))
