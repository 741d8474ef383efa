"""Plans that are built for this GPU and run on it: the answers of the CPU, the same for every batch and every time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from helpers.feeds import BATCHES, MODELS, feed_of
from helpers.made_up import tiny_bundle
from radrank.bench.gpu_card import find_card
from radrank.core.errors import RadrankError
from radrank.engines.cuda import Cuda
from radrank.engines.flavours import FLAVOURS
from radrank.engines.manifest import read_manifest
from radrank.engines.models import models
from radrank.engines.onnxruntime import CpuEngine
from radrank.engines.tensorrt import TensorRTEngine
from radrank.export.tensorrt import PlanSettings, build_plans

pytestmark = pytest.mark.gpu


@contextmanager
def unseen(name: str):
    yield lambda fraction: None


@pytest.fixture(scope="module", params=FLAVOURS)
def flavour(request) -> str:
    """Of the TensorRTs, those that are installed and build for this GPU."""
    try:
        find_card()  # first: without a GPU it does not matter what else is missing
        capability = Cuda().compute_capability()
        trt = FLAVOURS[request.param].load()
    except RadrankError as error:
        pytest.skip(str(error))
    target = f"SM{capability.replace('.', '')}"
    if FLAVOURS[request.param].ahead_of_time and target not in trt.ComputeCapability.__members__:
        pytest.skip(f"{request.param} builds for no {target}")
    return request.param


@pytest.fixture(scope="module")
def plans(flavour, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("plans")
    for precision in ("fp32", "fp16"):
        settings = PlanSettings(flavour=flavour, precision=precision, batches=BATCHES)
        list(build_plans(tiny_bundle(), directory, settings, step=unseen))
    return directory


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 1e-2)])
@pytest.mark.parametrize("name", MODELS)
def test_answers_are_those_of_the_cpu(plans, flavour, name, precision, tolerance):
    model = models(tiny_bundle(), read_manifest(tiny_bundle())[0], batches=BATCHES)[name]
    engine = TensorRTEngine(model, precision=precision, flavour=flavour, plans=plans, lanes=2)
    expected = CpuEngine(model, threads=1)
    feeds = [feed_of(name, 1 + turn % 4) for turn in range(12)]
    engine.warm_up(feeds[:4])
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(engine.run, feeds))
    for feed, answer in zip(feeds, answers, strict=True):
        for output, value in expected.run(feed).items():
            np.testing.assert_allclose(answer[output], value, atol=tolerance)
            np.testing.assert_array_equal(engine.run(feed)[output], answer[output])
    engine.close()
