"""ONNX Runtime on this machine's GPU: the answers of the CPU, with and without graphs, alone and in company."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from helpers import feeds
from helpers.feeds import feed_of, golden_of, model_of
from helpers.made_up import tiny_bundle
from helpers.process import started
from radrank.bench.footprint import make_home
from radrank.bench.gpu_card import find_card
from radrank.bench.sides import questions
from radrank.client.client import Client
from radrank.core.errors import RadrankError
from radrank.engines.batching import Batching
from radrank.engines.conversions import converted
from radrank.engines.engine import Engine
from radrank.engines.models import MESSAGES_OF
from radrank.engines.onnxruntime import CpuEngine
from radrank.engines.onnxruntime_gpu import GpuEngine
from radrank.engines.parity import LEAST, agreement, check
from radrank.export.conversion import write_conversions

pytestmark = pytest.mark.gpu

MODELS = [name for name in feeds.MODELS if not name.startswith(MESSAGES_OF)]  # these stay on the CPU under this runtime
TOLERANCE = {"fp32": 1e-4, "fp16": 1e-2}
CANDIDATES, STUDIES = 40, 200


@pytest.fixture(scope="module")
def plans(tmp_path_factory) -> Path:
    """The tiny bundle in fp16; skips where this machine can't run it."""
    directory = tmp_path_factory.mktemp("converted")
    try:
        find_card()  # first: without a GPU it does not matter what else is missing
        GpuEngine(model_of("image_encoder", (1,)), "onnxruntime-cuda", kept=directory).close()
    except RadrankError as error:
        pytest.skip(str(error))
    list(write_conversions(tiny_bundle(), directory, "fp16", step=nullcontext))
    return directory


@pytest.fixture
def opened(plans) -> Iterator:
    engines: list[Engine] = []

    def engine(name: str, *batches: int, precision: str = "fp16", graphs: bool = True) -> GpuEngine:
        model = converted(plans, model_of(name, batches), precision)
        engines.append(GpuEngine(model, "onnxruntime-cuda", kept=plans, graphs=graphs))
        return engines[-1]

    yield engine
    for each in engines:
        each.close()


@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "no graphs"])
@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("name", MODELS)
def test_answers_are_those_of_the_cpu_every_time(opened, name, precision, graphs):
    engine = opened(name, 1, 4, precision=precision, graphs=graphs)
    assert engine.captured is graphs, "every model of a bundle can be captured"
    cpu, output = CpuEngine(model_of(name), threads=1), engine.outputs[0].name
    for count in (1, 4, 2, 3, 1):
        feed = feed_of(name, count, candidates=CANDIDATES)
        answer = engine.run(feed)[output]
        np.testing.assert_allclose(answer, cpu.run(feed)[output], atol=TOLERANCE[precision])
        np.testing.assert_array_equal(engine.run(feed)[output], answer)


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("name", MODELS)
def test_the_gate_lets_every_model_serve(opened, name, precision):
    assert check(name, golden_of(name), opened(name, 8, precision=precision)).passes


@pytest.mark.parametrize("name", MODELS)
def test_a_request_alone_among_8_and_among_32_has_one_answer(opened, name):
    """Bit for bit: every run has the same size, whatever came together."""
    engine = Batching(opened(name, 32), most=32, delay=0.05)
    output = engine.outputs[0].name
    feeds = [feed_of(name, 1, seed=seed, candidates=CANDIDATES) for seed in range(32)]
    alone = engine.run(feeds[0])[output]
    for company in (8, 32):
        with ThreadPoolExecutor(company) as pool:
            together = [answer[output] for answer in pool.map(engine.run, feeds[:company])]
        np.testing.assert_array_equal(together[0], alone)


def test_a_server_on_cuda_answers_as_one_on_the_cpu(plans, tmp_path):
    home = tmp_path / "archive"
    make_home(home, tiny_bundle(), STUDIES, threads=1, bar=lambda label, total: nullcontext(lambda done: None))
    cuda = {"RUNTIME": "onnxruntime-cuda", "PRECISION": "fp16", "PLANS": str(plans)}
    asked = questions("demo", None, 8)

    def scores(settings: dict[str, str]) -> tuple[list[dict[str, float]], str]:
        with started(tiny_bundle(), home, settings) as server, Client(server.address, timeout=60.0) as client:
            found = [
                client.search(**query, k=STUDIES, candidates=STUDIES, reranker="sage")
                for one in asked
                for query in ({"image": one.image}, {"text": one.phrase})
            ]
        return [{hit.study_id: hit.score for hit in result.hits} for result in found], found[0].provenance.runtime

    expected, _ = scores({})
    found, runtime = scores({f"RADRANK_ENGINES__{name}": value for name, value in cuda.items()})
    assert "onnxruntime-cuda" in runtime
    assert [one.keys() for one in found] == [one.keys() for one in expected]
    agreed = agreement(*([np.array([one[i] for i in sorted(one)]) for one in side] for side in (found, expected)))
    assert agreed.overlap >= LEAST
    assert agreed.tau >= LEAST
