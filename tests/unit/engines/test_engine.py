"""What all runtimes promise alike, of the engines that a server opens; GPU ones on a GPU that is not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import gpu
from helpers.feeds import feed_of, model_of
from helpers.gpu_sessions import Package
from helpers.triton_double import scripted_triton
from radrank.core.errors import InvalidQuery, Unavailable
from radrank.engines import onnxruntime_gpu
from radrank.engines.engine import Engine, Feed, Model
from radrank.engines.onnxruntime import CpuEngine
from radrank.engines.onnxruntime_gpu import GpuEngine
from radrank.engines.openvino import OpenVinoEngine
from radrank.engines.runtimes import RUNTIMES, EngineSettings
from radrank.engines.tensorrt import TensorRTEngine
from radrank.engines.triton import TritonEngine

BATCH = 4
Machine = Callable[[Model, Path, Any], AbstractContextManager[dict[str, Any]]]
"""Puts there what a runtime needs: the model's files in a directory of plans, what is patched. Gives settings."""


@contextmanager
def installed(_model: Model, _plans: Path, _patch: Any) -> Iterator[dict[str, Any]]:
    yield {}


@contextmanager
def openvino(_model: Model, _plans: Path, _patch: Any) -> Iterator[dict[str, Any]]:
    pytest.importorskip("openvino")
    yield {}


@contextmanager
def cuda(_model: Model, _plans: Path, patch: Any) -> Iterator[dict[str, Any]]:
    patch.setattr(onnxruntime_gpu, "onnxruntime", Package)
    yield {}


def tensorrt(flavour: str) -> Machine:
    @contextmanager
    def machine(model: Model, plans: Path, patch: Any) -> Iterator[dict[str, Any]]:
        device = gpu.Cuda()
        gpu.install(patch, device, gpu.TensorRT(device, list(model.buckets)))
        gpu.plan_of(model, plans, precision="fp32", flavour=flavour)
        yield {}

    return machine


@contextmanager
def triton(model: Model, _plans: Path, _patch: Any) -> Iterator[dict[str, Any]]:
    with scripted_triton({model.name: CpuEngine(model, threads=1)}, {model.name: model}) as running:
        yield {"triton": running.address}


MACHINES: Mapping[str, Machine] = {
    "onnxruntime-cpu": installed,
    "openvino": openvino,
    "onnxruntime-cuda": cuda,
    "tensorrt": tensorrt("tensorrt"),
    "tensorrt-rtx": tensorrt("tensorrt-rtx"),
    "triton": triton,
}


@pytest.fixture
def opened(tmp_path, monkeypatch) -> Iterator[Callable[..., Engine]]:
    """Opens the image encoder on a runtime, by name and settings."""
    model = model_of("image_encoder", (BATCH,))
    with ExitStack() as open_until_then:

        def engine(runtime: str, **settings: Any) -> Engine:
            there = open_until_then.enter_context(MACHINES[runtime](model, tmp_path, monkeypatch))
            settings = {"runtime": runtime, "precision": "fp32", "plans": tmp_path, "batch": BATCH, **there, **settings}
            made = RUNTIMES[runtime](model, EngineSettings(**settings))
            open_until_then.callback(made.close)
            return made

        yield engine


@pytest.fixture(params=MACHINES)
def engine(request, opened) -> Engine:
    return opened(request.param)


UNFIT = {
    "nothing": {},
    "another type": {"pixels": np.zeros((1, 16, 16), np.float32)},
    "an axis too few": {"pixels": np.zeros((16, 16), np.uint8)},
    "another size": {"pixels": np.zeros((1, 17, 16), np.uint8)},
}


@pytest.mark.parametrize("feed", UNFIT.values(), ids=UNFIT)
def test_what_does_not_fit_is_the_callers_to_mend_and_harms_nobody_else(engine, feed):
    right = feed_of("image_encoder", 1)
    expected = engine.run(right)["vectors"]
    with pytest.raises(InvalidQuery, match="pixels"):
        engine.run(feed)
    assert np.array_equal(engine.run(right)["vectors"], expected)


def test_answers_are_those_of_the_model_and_the_callers_own(engine):
    for count in (1, BATCH, BATCH + 1):
        feed = feed_of("image_encoder", count)
        expected = CpuEngine(model_of("image_encoder"), threads=1).run(feed)["vectors"]
        for _ in range(2):
            found = engine.run(feed)["vectors"]
            np.testing.assert_allclose(found, expected, atol=1e-5)
            found[...] = 0


def test_a_closed_engine_says_that_it_is(engine):
    engine.close()
    engine.close()
    with pytest.raises(Unavailable, match="this engine is closed"):
        engine.run(feed_of("image_encoder", 1))


ALONE, TOGETHER = [1] * BATCH, [BATCH]


@pytest.mark.parametrize(
    ("runtime", "kind", "sizes"),
    [
        ("onnxruntime-cpu", CpuEngine, ALONE),
        ("openvino", OpenVinoEngine, ALONE),
        ("onnxruntime-cuda", GpuEngine, TOGETHER),
        ("tensorrt", TensorRTEngine, TOGETHER),
        ("tensorrt-rtx", TensorRTEngine, TOGETHER),
        ("triton", TritonEngine, ALONE),  # which makes batches itself
    ],
)
def test_what_comes_together_runs_as_one_on_a_gpu_and_alone_elsewhere(opened, monkeypatch, runtime, kind, sizes):
    ran, run = [], kind.run

    def noted(engine: Engine, feed: Feed) -> dict[str, np.ndarray]:
        ran.append(len(feed["pixels"]))
        return run(engine, feed)

    monkeypatch.setattr(kind, "run", noted)
    engine = opened(runtime, batch_delay=60.0)  # ends when a batch is full
    with ThreadPoolExecutor(BATCH) as pool:
        answers = list(pool.map(engine.run, [feed_of("image_encoder", 1, seed=seed) for seed in range(BATCH)]))
    assert ran == sizes
    assert len({answer["vectors"].tobytes() for answer in answers}) == BATCH
