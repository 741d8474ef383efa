"""ONNX Runtime's CUDA engine on a GPU that is not there: how it captures, what it does without, what it says."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from helpers.feeds import feed_of, model_of
from helpers.gpu_sessions import Package
from radrank.core.errors import MissingExtra, Unavailable
from radrank.engines import onnxruntime_gpu
from radrank.engines.onnxruntime import CpuEngine
from radrank.engines.onnxruntime_gpu import PROVIDERS, GpuEngine
from radrank.engines.runtimes import RUNTIMES, EngineSettings


@pytest.fixture
def opened(monkeypatch, tmp_path):
    def engine(name: str, package: Package, **options) -> GpuEngine:
        monkeypatch.setattr(onnxruntime_gpu, "onnxruntime", lambda: package)
        return GpuEngine(model_of(name), "onnxruntime-cuda", kept=tmp_path, **options)

    return engine


def answers_as_the_cpu_does(engine: GpuEngine, name: str) -> None:
    model = model_of(name)
    cpu, output = CpuEngine(model, threads=1), engine.outputs[0].name
    for count in (1, 2, 4, 1):
        feed = feed_of(model.name, count)
        np.testing.assert_allclose(engine.run(feed)[output], cpu.run(feed)[output], atol=1e-5)


@pytest.mark.parametrize("name", ["image_encoder", "reranker_sage"])
def test_one_session_captures_a_graph_for_every_bucket(opened, name):
    package = Package()
    engine = opened(name, package)
    (session,) = package.sessions
    assert session.captures
    assert sorted(session.graphs) == sorted(str(1 + place) for place in range(len(engine.buckets)))
    answers_as_the_cpu_does(engine, name)
    assert engine.manifest.runtime == "onnxruntime-cuda 9.9.9"


def test_a_model_that_computes_with_its_sizes_is_captured_with_these_fixed(opened):
    package = Package(sized=True)
    engine = opened("reranker_sage", package)
    plain, *each = package.sessions
    assert not plain.captures
    assert [session.fixed["candidates"] for session in each] == [bucket["base"][1] for bucket in engine.buckets]
    assert all(session.captures and list(session.graphs) == ["1"] for session in each)
    answers_as_the_cpu_does(engine, "reranker_sage")


@pytest.mark.parametrize("package", [Package(syncs=True), Package(sized=True, syncs=True)])
def test_what_can_not_be_captured_runs_without_a_graph_and_says_so(opened, caplog, package):
    with caplog.at_level(logging.WARNING):
        engine = opened("reranker_sage", package)
    assert not engine.captured
    assert engine.manifest.runtime == "onnxruntime-cuda 9.9.9, no CUDA graphs"
    assert "reranker_sage runs without CUDA graphs" in caplog.text
    answers_as_the_cpu_does(engine, "reranker_sage")


def test_no_graph_is_tried_where_none_is_wanted(opened):
    package = Package()
    engine = opened("image_encoder", package, graphs=False)
    assert not engine.captured
    assert [session.captures for session in package.sessions] == [False]
    answers_as_the_cpu_does(engine, "image_encoder")


def test_without_a_gpu_the_error_tells_why_and_standard_output_stays_for_results(opened, capsys):
    with pytest.raises(Unavailable, match=r"no CUDA-capable device.*libcublas"):
        opened("image_encoder", Package(device=False))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("runtime", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_a_build_without_a_provider_that_the_package_has_names_the_extra(tmp_path, runtime):
    with pytest.raises(MissingExtra, match=rf"{PROVIDERS[runtime].name} .*radrank\[gpu\]"):
        GpuEngine(model_of("image_encoder"), runtime, kept=tmp_path)


def test_a_provider_that_no_extra_brings_is_not_asked_of_one(tmp_path):
    with pytest.raises(
        Unavailable, match=r"lacks NvTensorRTRTX.*onnxruntime-trt-rtx.*tensorrt-rtx does without"
    ) as said:
        GpuEngine(model_of("image_encoder"), "onnxruntime-tensorrt-rtx", kept=tmp_path)
    assert "radrank[" not in str(said.value)


def test_a_provider_that_does_not_find_tensorrt_s_libraries_says_which_and_where(monkeypatch, tmp_path):
    package = Package(provider="TensorrtExecutionProvider", loads=False)
    monkeypatch.setattr(onnxruntime_gpu, "onnxruntime", lambda: package)
    with pytest.raises(Unavailable, match=r"can't be loaded; it needs the TensorRT .*built with.*LD_LIBRARY_PATH"):
        GpuEngine(model_of("image_encoder"), "onnxruntime-tensorrt", kept=tmp_path)


@pytest.mark.parametrize(
    ("runtime", "provider", "prefix", "cache"),
    [
        ("onnxruntime-tensorrt", "TensorrtExecutionProvider", "trt", "trt_engine_cache_path"),
        ("onnxruntime-tensorrt-rtx", "NvTensorRTRTXExecutionProvider", "nv", "nv_runtime_cache_path"),
    ],
)
def test_what_builds_engines_is_told_all_its_shapes_and_keeps_them_for_these_weights(
    monkeypatch, tmp_path, runtime, provider, prefix, cache
):
    package, model = Package(provider=provider), model_of("text_encoder", (1, 8))
    monkeypatch.setattr(onnxruntime_gpu, "onnxruntime", lambda: package)
    engine = RUNTIMES[runtime](model, EngineSettings(precision="fp32", plans=tmp_path))
    (session,) = package.sessions
    shapes = {"min": "ids:1x8", "opt": "ids:8x16", "max": "ids:8x32"}
    assert {kind: session.provided[f"{prefix}_profile_{kind}_shapes"] for kind in shapes} == shapes
    kept = Path(session.provided[cache])
    assert kept.parent == tmp_path
    assert model.sha256[:12] in kept.name, "the caches know files by name alone"
    assert engine.manifest.runtime == f"{runtime} 9.9.9"
    feed, output = feed_of("text_encoder", 3), engine.outputs[0].name
    np.testing.assert_allclose(engine.run(feed)[output], CpuEngine(model, threads=1).run(feed)[output], atol=1e-5)
    engine.close()


def test_a_closed_engine_says_that_it_is(opened):
    engine = opened("image_encoder", Package())
    engine.close()
    with pytest.raises(Unavailable, match="closed"):
        engine.run(feed_of("image_encoder", 1))
